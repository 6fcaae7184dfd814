"""Times Impasto and PyTorch in turn, on the same files, sizes and threads, and prints how many times faster Impasto is.

    python benches/side_by_side.py --model DIR [--controlnet DIR] [--image-encoder DIR] [--stages unet,vae-decode] ...

Each stage runs in a process of its own, first PyTorch's, then `impasto bench`, `--rounds` times over, so that a machine that
slows down slows both, and peak memory is each stage's own. What is timed:

unet, controlnet   one evaluation of `--batch` latents at timestep 500 (2 is one picture under guidance). diffusers computes
                   the text's keys and values and the control hint in every evaluation, Impasto once per picture, outside
vae-decode         latents to pixels
vae-encode         pixels to the posterior
clip-text          77 tokens
clip-vision        prepared pixels to the projected embedding
picture            a whole picture from a prompt with UniPC under guidance 7.5, loading included
everything         the same with a style picture and a structure picture's Canny edges, the ControlNet in the first 0.6 of the
                   steps: `impasto generate` as a whole process against diffusers without its imports
                   (needs --controlnet, --image-encoder, --ip-adapter, --style and --structure)

The median of all repeats is compared, the first and cold one included. Memory is the largest resident size of the process,
files that it has mapped included, for both alike. While `impasto` is not built, `--only torch` times PyTorch alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ["clip-text", "clip-vision", "vae-encode", "vae-decode", "controlnet", "unet", "picture", "everything"]
PROMPT = "a lighthouse on a cliff, oil painting"
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a diffusers folder")
    parser.add_argument("--controlnet", type=Path)
    parser.add_argument("--image-encoder", type=Path)
    parser.add_argument("--ip-adapter", type=Path, help="a .safetensors file")
    parser.add_argument("--style", type=Path, help="a picture")
    parser.add_argument("--structure", type=Path, help="a picture")
    parser.add_argument("--stages", help="comma separated; default: all there are nets for")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20, help="of the stages picture and everything")
    parser.add_argument("--repeat", type=int, default=3, help="repeats in one process")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each program per stage")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", help="cpu, cuda or metal")
    parser.add_argument("--dtype", default="f32", choices=["f32", "f16", "bf16"], help="of UNet and ControlNet")
    parser.add_argument("--impasto", type=Path, default=Path(__file__).resolve().parents[1] / "target/release/impasto")
    parser.add_argument("--only", choices=["torch", "impasto"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--worker", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


# What runs in PyTorch's process.


def worker(options):
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel, UniPCMultistepScheduler
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    device = {"metal": "mps"}.get(options.device, options.device)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    batch, height, width = options.batch, options.height, options.width

    def random(*shape, dtype=torch.float32):
        return torch.randn(*shape).to(device, dtype)

    def load(kind, folder, subfolder=None, dtype=torch.float32):
        where = {"subfolder": subfolder} if subfolder else {}
        return kind.from_pretrained(folder, dtype=dtype, **where).to(device).eval()

    if options.worker == "unet":
        net = load(UNet2DConditionModel, options.model, "unet", dtype)
        xs = random(batch, net.config.in_channels, height // 8, width // 8, dtype=dtype)
        text = random(batch, 77, net.config.cross_attention_dim, dtype=dtype)
        work = lambda: net(xs, 500, encoder_hidden_states=text)
    elif options.worker == "controlnet":
        net = load(ControlNetModel, options.controlnet, dtype=dtype)
        xs, hint = random(batch, 4, height // 8, width // 8, dtype=dtype), random(batch, 3, height, width, dtype=dtype)
        text = random(batch, 77, net.config.cross_attention_dim, dtype=dtype)
        work = lambda: net(xs, 500, encoder_hidden_states=text, controlnet_cond=hint)
    elif options.worker.startswith("vae"):
        net = load(AutoencoderKL, options.model, "vae")
        xs, pixels = random(batch, 4, height // 8, width // 8), random(batch, 3, height, width).clamp(-1, 1)
        work = (lambda: net.decode(xs)) if options.worker == "vae-decode" else (lambda: net.encode(pixels))
    elif options.worker == "clip-text":
        net = load(CLIPTextModel, options.model, "text_encoder")
        ids = torch.randint(net.config.vocab_size, (batch, net.config.max_position_embeddings), device=device)
        work = lambda: net(ids)
    elif options.worker == "clip-vision":
        net = load(CLIPVisionModelWithProjection, options.image_encoder)
        pixels = random(batch, 3, net.config.image_size, net.config.image_size)
        work = lambda: net(pixels)
    elif options.worker == "everything":
        import cv2
        from diffusers import StableDiffusionControlNetPipeline
        from PIL import Image
        from transformers import CLIPImageProcessor

        def work():
            pipe = StableDiffusionControlNetPipeline.from_pretrained(
                options.model, controlnet=load(ControlNetModel, options.controlnet, dtype=dtype), dtype=dtype, safety_checker=None,
                image_encoder=load(CLIPVisionModelWithProjection, options.image_encoder, dtype=dtype),
                feature_extractor=CLIPImageProcessor(),
            ).to(device)
            pipe.load_ip_adapter(str(options.ip_adapter.parent), subfolder="", weight_name=options.ip_adapter.name,
                                 image_encoder_folder=None)
            pipe.set_ip_adapter_scale(0.6)
            pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
            pipe.set_progress_bar_config(disable=True)
            structure = cv2.resize(cv2.imread(str(options.structure)), (width, height), interpolation=cv2.INTER_AREA)
            edges = Image.fromarray(cv2.Canny(structure, 100, 200)).convert("RGB")
            pipe(PROMPT, image=edges, ip_adapter_image=Image.open(options.style).convert("RGB"), height=height, width=width,
                 num_inference_steps=options.steps, guidance_scale=7.5, control_guidance_end=0.6,
                 generator=torch.Generator("cpu").manual_seed(0))
    else:

        def work():
            pipe = StableDiffusionPipeline.from_pretrained(options.model, dtype=dtype, safety_checker=None).to(device)
            pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
            pipe.set_progress_bar_config(disable=True)
            pipe(PROMPT, height=height, width=width, num_inference_steps=options.steps,
                 guidance_scale=7.5, generator=torch.Generator("cpu").manual_seed(0))

    backend = {"cuda": torch.cuda, "mps": torch.mps}.get(device.split(":")[0])
    seconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        work()
        if backend:
            backend.synchronize()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(dict(seconds=seconds, imports=imports)))


# What runs in the parent, which stays small: a child's peak counts from its parent's size.


def run(command, environment):
    """Runs a process to its end: what it printed and the largest resident size it had."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{errors.read().decode(errors='replace')}")
        return output.read().decode(), usage.ru_maxrss * MAXRSS_UNIT


def torch_run(options, stage):
    command = [sys.executable, __file__, "--worker", stage, *sys.argv[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    output, memory = run(command, environment)
    return json.loads(output.strip().splitlines()[-1]), memory


def impasto_everything(options):
    with tempfile.TemporaryDirectory() as folder:
        command = [options.impasto, "generate", "--quiet", "--prompt", PROMPT, "--sampler", "unipc", "--guidance", "7.5", "--seed", "0",
                   "--control", "canny", "--control-end", "0.6", "--style-scale", "0.6", "--output", f"{folder}/picture.png"]
        for name in ("model", "controlnet", "image_encoder", "ip_adapter", "style", "structure", "height", "width", "steps", "threads",
                     "device", "dtype"):
            command += [f"--{name.replace('_', '-')}", getattr(options, name)]
        seconds, memory = [], 0
        for _ in range(options.repeat):
            start = time.perf_counter()
            _, peak = run([str(word) for word in command], os.environ)
            seconds.append(time.perf_counter() - start)
            memory = max(memory, peak)
    return dict(seconds=seconds), memory


def impasto_run(options, stage):
    if stage == "everything":
        return impasto_everything(options)
    command = [options.impasto, "bench", "--model", options.model, "--stages", stage, "--json"]
    for name in ("batch", "height", "width", "steps", "repeat", "threads", "device", "dtype", "controlnet", "image_encoder"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", value]
    output, memory = run([str(word) for word in command], os.environ)
    return json.loads(output)["stages"][0], memory


def stages(options):
    if options.stages:
        return options.stages.split(",")
    missing = {"controlnet"} if options.controlnet is None else set()
    missing |= {"clip-vision"} if options.image_encoder is None else set()
    needed = (options.controlnet, options.image_encoder, options.ip_adapter, options.style, options.structure)
    missing |= {"everything"} if None in needed else set()
    return [stage for stage in STAGES if stage not in missing]


def measure(options, stage):
    seconds, memory = {"torch": [], "impasto": []}, {"torch": None, "impasto": None}
    gflop, imports = None, None
    for _ in range(options.rounds):
        if options.only != "impasto":
            timing, peak = torch_run(options, stage)
            seconds["torch"] += timing["seconds"]
            imports = timing["imports"]
            memory["torch"] = max(memory["torch"] or 0, peak)
        if options.only != "torch":
            timing, peak = impasto_run(options, stage)
            seconds["impasto"] += timing["seconds"]
            memory["impasto"] = max(memory["impasto"] or 0, peak)
            gflop = timing.get("gflop")
    median = {name: statistics.median(times) if times else None for name, times in seconds.items()}
    both = None not in median.values()
    return dict(
        stage=stage, seconds=seconds, median=median, peak_memory_bytes=memory,
        ratio=median["torch"] / median["impasto"] if both else None,
        gflops=gflop / median["impasto"] if gflop else None, imports_bytes=imports,
    )


def row(*cells):
    return "| " + " | ".join(f"{cell:>{width}}" for cell, width in zip(cells, (11, 9, 9, 6, 10, 10, 7))) + " |"


def main():
    options = arguments()
    if options.worker:
        return worker(options)
    if options.only != "torch" and not options.impasto.exists():
        sys.exit(f"{options.impasto} is not there: cargo build --release, or name it with --impasto")
    print(f"{options.width}x{options.height}, batch {options.batch}, {options.threads} threads, {options.device} "
          f"{options.dtype}, median of {options.rounds * options.repeat}\n")
    print(row("stage", "PyTorch s", "Impasto s", "faster", "PyTorch GB", "Impasto GB", "GFLOP/s"))
    print("|---|---|---|---|---|---|---|")
    figures = []
    for stage in stages(options):
        figure = measure(options, stage)
        figures.append(figure)
        show = lambda value, form: "-" if value is None else format(value, form)
        median, memory = figure["median"], {name: peak and peak / 1e9 for name, peak in figure["peak_memory_bytes"].items()}
        print(row(stage, show(median["torch"], ".3f"), show(median["impasto"], ".3f"), show(figure["ratio"], ".2f"),
                  show(memory["torch"], ".2f"), show(memory["impasto"], ".2f"), show(figure["gflops"], ".1f")), flush=True)
    if figures[0]["imports_bytes"]:
        print(f"\nPyTorch's process holds {figures[0]['imports_bytes'] / 1e9:.2f} GB of this when its imports are done.")
    if options.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        options.json.write_text(json.dumps(dict(settings=settings, stages=figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
