"""How far pictures of `impasto generate --model mini` move when work is left out of them: docs/generate.md, "Sooner".

    python benches/sooner.py --backbone vgg16 [--things 16]

Paints the same things from the same seed with and without each flag, and prints the median and the worst PSNR, and with
`--backbone` the median and the largest content distance (`impasto metrics`: squared difference of the network's features,
relative to the exact picture's), which tells a picture of another thing from one whose pixels have moved.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

THINGS = ["an apple", "a banana", "a cat", "a dog", "a car", "a house", "a flower", "a tree", "a fish", "a bird", "a key", "a guitar",
          "a rocket", "a cake", "a mushroom", "an umbrella"]
FLAGS = ["--guidance-end 0.8", "--guidance-end 0.5", "--fast deepcache=2", "--fast deepcache", "--fast deepcache=5", "--dtype int8",
         "--dtype int8 --fast deepcache=2 --guidance-end 0.8"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impasto", type=Path, default=Path(__file__).resolve().parents[1] / "target/release/impasto")
    parser.add_argument("--backbone", help="name or file of the network of the content distance")
    parser.add_argument("--things", type=int, default=len(THINGS))
    options = parser.parse_args()
    things = THINGS[: options.things]

    with tempfile.TemporaryDirectory() as folder:

        def paint(flags, name):
            paths = [f"{folder}/{name}-{at}.png" for at in range(len(things))]
            for thing, path in zip(things, paths):
                command = [options.impasto, "generate", "-q", "--model", "mini", "--prompt", thing, "--seed", "1", "-o", path]
                subprocess.run(command + flags.split(), check=True, stdout=subprocess.DEVNULL)
            return paths

        def psnr(first, second):
            first, second = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (first, second))
            return 10 * np.log10(255**2 / max(((first - second) ** 2).mean(), 1e-9))

        def content(first, second):
            command = [options.impasto, "metrics", first, second, "--backbone", options.backbone, "--json"]
            metrics = json.loads(subprocess.check_output(command))["metrics"]
            return next(metric["value"] for metric in metrics if metric["name"] == "content-distance")

        exact = paint("", "exact")
        print("| | PSNR, median and least | content distance, median and most |\n|---|---|---|")
        for at, flags in enumerate(FLAGS):
            pairs = list(zip(exact, paint(flags, at)))
            near = [psnr(*pair) for pair in pairs]
            cells = [f"`{flags}`", f"{statistics.median(near):.1f}, {min(near):.1f} dB", "-"]
            if options.backbone:
                far = [content(*pair) for pair in pairs]
                cells[2] = f"{statistics.median(far):.3f}, {max(far):.3f}"
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
