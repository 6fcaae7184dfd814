"""Gatys' optimisation in PyTorch, to compare `impasto stylize --method gatys` with: the same losses, the same iterations.

    python benches/gatys_reference.py --settings settings.json --content PHOTO --style PAINTING [--size 256] [-o OUT.png]
        [--ours "impasto stylize {content} --style {style} -o {output} --method gatys ..."] [--measure]

The settings file overrides these defaults (weights are those of the sum, not yet divided by anything):

    {"iterations": 100, "optimizer": "adam", "learning_rate": 0.02, "betas": [0.9, 0.99], "epsilon": 1e-8, "history": 10,
     "style_loss": "gram", "pooling": "max", "clamp": true, "init": "content", "total_variation": 0.0,
     "content_layers": {"relu4_2": 1.0}, "style_layers": {"relu1_1": 1000.0, ...}}

Losses, on an image in 0..1 seen by a VGG16 (HED's trunk; BGR 0..255 minus mean, zero padding):
  content        weight * mean (F - F*)^2
  gram           weight * mean over c x c of (G - G*)^2, G = F F^T / (c h w)
  wasserstein    weight * (mean (mu - mu*)^2 + trace(S + S* - 2 (S*^1/2 S S*^1/2)^1/2) / c), S = covariance + 1e-4 I
  moments        weight * (mean (mu - mu*)^2 + mean (sd - sd*)^2), sd with 1e-5 under the root
  total variation  weight * (mean of squared differences along x + the same along y)

The total after N iterations is the loss of the picture that N iterations have made. `--ours` runs a command on the same pictures
and takes the same loss of both results, as they are on disk; they must agree within --within. `--measure` adds the style
distance on the network se5, which was not optimised (see style_quality.py).
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from style_quality import SHARED, load_networks, square, style_distance, to_image, to_tensor

BLOCKS = [2, 2, 3, 3, 3]
DEFAULTS = {
    "iterations": 100,
    "optimizer": "adam",
    "learning_rate": 0.02,
    "betas": [0.9, 0.99],
    "epsilon": 1e-8,
    "history": 10,
    "style_loss": "gram",
    "pooling": "max",
    "clamp": True,
    "init": "content",
    "total_variation": 0.0,
    "content_layers": {"relu4_2": 1.0},
    "style_layers": {"relu1_1": 1000.0, "relu2_1": 1000.0, "relu3_1": 1000.0, "relu4_1": 1000.0},
}


class Vgg16:
    """HED's VGG16 trunk that gives the layers asked for, {name: features}."""

    def __init__(self, path, pooling="max", scale=255.0):
        self.weights = load_file(path)
        self.mean = torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
        self.pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
        self.scale = scale

    def __call__(self, image, wanted):
        missing, found = set(wanted), {}
        xs = image.flip(1) * self.scale - self.mean
        for block, count in enumerate(BLOCKS, 1):
            if block > 1:
                xs = self.pool(xs, 2, 2)
            for index in range(1, count + 1):
                name = f"{block}_{index}"
                xs = F.relu(F.conv2d(xs, self.weights[f"conv{name}.weight"], self.weights[f"conv{name}.bias"], padding=1))
                if f"relu{name}" in missing:
                    found[f"relu{name}"] = xs
                    missing.discard(f"relu{name}")
                    if not missing:
                        return found
        sys.exit(f"no such layers: {sorted(missing)}")


def flat(features):
    return features[0].flatten(1)


class Gram:
    """F F^T / (c h w)."""

    def target(self, features):
        rows = flat(features)
        return rows @ rows.T / rows.numel()

    def loss(self, features, target):
        return ((self.target(features) - target) ** 2).mean()


class Moments:
    def target(self, features):
        rows = flat(features)
        return rows.mean(1), (rows.var(1, unbiased=False) + 1e-5).sqrt()

    def loss(self, features, target):
        mean, deviation = self.target(features)
        return ((mean - target[0]) ** 2).mean() + ((deviation - target[1]) ** 2).mean()


class Wasserstein:
    """Between Gaussians; the trace of the root from the eigenvalues, in f64."""

    def moments(self, features):
        rows = flat(features).double()
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        return mean, centred @ centred.T / rows.shape[1] + 1e-4 * torch.eye(len(mean), dtype=torch.float64)

    def target(self, features):
        mean, covariance = self.moments(features)
        values, vectors = torch.linalg.eigh(covariance)
        return mean, covariance, (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def loss(self, features, target):
        mean, covariance = self.moments(features)
        style_mean, style_covariance, root = target
        inner = root @ covariance @ root
        roots = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=1e-12).sqrt()
        spread = (torch.trace(covariance) + torch.trace(style_covariance) - 2 * roots.sum()) / len(mean)
        return (((mean - style_mean) ** 2).mean() + spread).float()


STYLE_LOSSES = {"gram": Gram, "moments": Moments, "wasserstein": Wasserstein}


class Problem:
    """The losses of one photo and one painting."""

    def __init__(self, net, content, style, settings):
        self.net, self.settings = net, settings
        self.kind = STYLE_LOSSES[settings["style_loss"]]()
        self.wanted = list(dict.fromkeys([*settings["style_layers"], *settings["content_layers"]]))
        with torch.no_grad():
            self.content = net(content, settings["content_layers"])
            self.style = {name: self.kind.target(xs) for name, xs in net(style, settings["style_layers"]).items()}

    def losses(self, image):
        """{"content": .., "style": .., "total_variation": ..}, weighted."""
        features = self.net(image, self.wanted)
        content = sum(
            weight * ((features[name] - self.content[name]) ** 2).mean()
            for name, weight in self.settings["content_layers"].items()
        )
        style = sum(
            weight * self.kind.loss(features[name], self.style[name])
            for name, weight in self.settings["style_layers"].items()
        )
        rough = self.settings["total_variation"]
        if rough:
            across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
            rough = rough * ((across**2).mean() + (down**2).mean())
        return {"content": content, "style": style, "total_variation": rough}

    def total(self, image):
        return sum(self.losses(image).values())


def optimise(problem, start, on_step=None):
    """The picture that the settings' iterations make of `start`, [1,3,h,w]."""
    settings = problem.settings
    image = start.clone().requires_grad_(True)
    if settings["optimizer"] == "adam":
        optimizer = torch.optim.Adam(
            [image], lr=settings["learning_rate"], betas=tuple(settings["betas"]), eps=settings["epsilon"]
        )
    elif settings["optimizer"] == "lbfgs":
        optimizer = torch.optim.LBFGS(
            [image], lr=1.0, max_iter=1, history_size=settings["history"], tolerance_grad=0.0, tolerance_change=0.0
        )
    else:
        sys.exit(f"no such optimizer: {settings['optimizer']}")

    def closure():
        optimizer.zero_grad()
        total = problem.total(image)
        total.backward()
        return total

    for step in range(settings["iterations"]):
        total = optimizer.step(closure)
        if settings["clamp"] and settings["optimizer"] == "adam":
            with torch.no_grad():
                image.clamp_(0, 1)
        if on_step:
            on_step(step, float(total.detach()))
    return image.detach()


def vgg16(shared=SHARED, pooling="max"):
    return Vgg16(Path(shared) / "weights" / "hed_vgg16.safetensors", pooling)


def start_from(kind, content, style, seed):
    if kind == "content":
        return content
    if kind == "style":
        return style
    torch.manual_seed(seed)
    return torch.rand_like(content)


def ours(options, folder):
    """What our program makes of the same pictures."""
    paths = {name: folder / f"{name}.png" for name in ("content", "style", "output")}
    square(options.content, options.size).save(paths["content"])
    square(options.style, options.size).save(paths["style"])
    values = {**{name: str(path) for name, path in paths.items()}, "size": str(options.size)}
    command = [word.format(**values) for word in shlex.split(options.ours)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    return to_tensor_file(paths["output"])


def to_tensor_file(path):
    from PIL import Image

    with Image.open(path) as opened:
        return to_tensor(opened.convert("RGB"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="default: ../shared beside the repository")
    parser.add_argument("--settings", type=Path, help="JSON; what it does not name keeps its default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="one setting, over the file's")
    parser.add_argument("--content", type=Path)
    parser.add_argument("--style", type=Path)
    parser.add_argument("--size", type=int, default=256, help="centre squares of this size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--every", type=int, default=10, help="print the loss every so many iterations")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--measure", action="store_true", help="also the style distance on se5")
    parser.add_argument("--ours", metavar="TEMPLATE", help="a command with {content} {style} {output} {size}")
    parser.add_argument("--within", type=float, default=0.01, help="how far the losses may differ, relative")
    options = parser.parse_args()
    options.content = options.content or options.shared / "images" / "content" / "astronaut.png"
    options.style = options.style or options.shared / "images" / "style" / "starry_night.jpg"
    return options


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    settings = {**DEFAULTS, **(json.loads(options.settings.read_text()) if options.settings else {})}
    for text in options.set:
        key, _, value = text.partition("=")
        settings[key] = json.loads(value)
    unknown = set(settings) - set(DEFAULTS)
    if unknown:
        sys.exit(f"unknown settings: {sorted(unknown)}")
    content, style = (to_tensor(square(path, options.size)) for path in (options.content, options.style))
    problem = Problem(vgg16(options.shared, settings["pooling"]), content, style, settings)
    judge = load_networks(options.shared)["se5"] if options.measure else None

    def on_step(step, total):
        if (step + 1) % options.every == 0:
            print(f"iteration {step + 1}: {total:.6g} before it", file=sys.stderr, flush=True)

    begun = time.perf_counter()
    image = optimise(problem, start_from(settings["init"], content, style, options.seed), on_step)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        losses = {name: float(loss) for name, loss in problem.losses(image).items()}
    report = {"iterations": settings["iterations"], "loss": sum(losses.values()), "losses": losses, "seconds": seconds}
    if judge:
        report["style_distance_se5"] = style_distance(judge, to_tensor(to_image(image)), style)
    if options.output:
        to_image(image).save(options.output)
    failed = False
    if options.ours:
        with tempfile.TemporaryDirectory() as scratch:
            picture = ours(options, Path(scratch))
        # Both as they are on disk: 8 bits a channel.
        with torch.no_grad():
            report["written"] = float(problem.total(to_tensor(to_image(image))))
            report["ours"] = float(problem.total(picture))
        report["ratio"] = report["ours"] / report["written"]
        if judge:
            report["ours_style_distance_se5"] = style_distance(judge, picture, style)
        failed = abs(report["ratio"] - 1) > options.within
    print(json.dumps(report))
    if failed:
        sys.exit(f"the losses differ by more than {options.within:.0%}")


if __name__ == "__main__":
    main()
