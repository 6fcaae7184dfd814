"""Makes any-style.safetensors of two trainings: a blend of their weights, with its styles a little nearer to a photo's own.

    python finish.py FIRST SECOND SHARE STRENGTH PHOTOS OUT

FIRST and SECOND are files of `impasto train adain`, nets or checkpoints (of which the running mean is taken); one went on from the
other. SHARE is the second one's part. STRENGTH (0..1) is like `--strength`, but for every style the same: the way from the mean code of
the photos in the folder PHOTOS (every sixth, short side 320) to the painting's, which the layer behind the style statistics can take on
at no cost. The palette stays the painting's.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file


def code(weights, pixels):
    """What `Compact::encode_style` makes of pictures [n, 3, h, w] in 0..1, without the palette."""

    def layer(xs, name, stride=1):
        padded = F.pad(xs, (1,) * 4, mode="reflect")
        return F.relu(F.conv2d(padded, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride))

    xs, statistics = pixels * 4 - 1.8, []
    for scale in range(4):
        xs = layer(xs, f"style.{scale}.down", 1 if scale == 0 else 2)
        if scale:
            xs = layer(xs, f"style.{scale}.mix")
        statistics += [xs.mean((2, 3)), (xs.var((2, 3), unbiased=False) + 1e-5).sqrt()]
    xs = torch.cat(statistics, 1)
    xs = xs - xs.mean(1, keepdim=True)
    xs = xs / (xs.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
    hidden = F.relu(xs @ weights["hidden.weight"].T + weights["hidden.bias"])
    return hidden @ weights["modulation.weight"].T + weights["modulation.bias"]


def load(path):
    tensors = load_file(path)
    return {name.removeprefix("mean/"): value for name, value in tensors.items() if name.startswith("mean/")} or tensors


def photos(folder, short_side=320):
    for path in sorted(Path(folder).iterdir())[::6]:
        picture = Image.open(path).convert("RGB")
        scale = short_side / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)
        yield torch.from_numpy(np.array(picture)).float().permute(2, 0, 1)[None] / 255


@torch.no_grad()
def main():
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    first, second, share, strength, folder, out = sys.argv[1:]
    share, strength = float(share), float(strength)
    first, second = load(first), load(second)
    weights = {name: first[name].float() * (1 - share) + second[name].float() * share for name in first}
    mean = torch.cat([code(weights, photo) for photo in photos(folder)]).mean(0)
    weights["modulation.weight"] = weights["modulation.weight"] * strength
    weights["modulation.bias"] = weights["modulation.bias"] * strength + mean * (1 - strength)
    save_file({name: value.half().contiguous() for name, value in weights.items()}, out)


if __name__ == "__main__":
    main()
