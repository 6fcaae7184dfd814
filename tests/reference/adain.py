"""AdaIN by torch, for tests/it/adain.rs: a tiny normalised VGG-19 up to relu4_1 and a tiny decoder with random weights.

Modules, names and formulas are those of naoto0804/pytorch-AdaIN (net.py, function.py). Results are cut to the picture's size,
as the program does. Writes tests/fixtures/adain/.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/adain"
WIDTHS = (3, 4, 6, 8)


def block(inputs, outputs, relu=True):
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)] + ([nn.ReLU()] if relu else [])


def encoder():
    a, b, c, d = WIDTHS
    pool = [nn.MaxPool2d(2, 2, ceil_mode=True)]
    layers = [nn.Conv2d(3, 3, 1)] + block(3, a) + block(a, a) + pool + block(a, b) + block(b, b) + pool
    layers += block(b, c) + block(c, c) + block(c, c) + block(c, c) + pool + block(c, d)
    return nn.Sequential(*layers)


def decoder():
    a, b, c, d = WIDTHS
    up = [nn.Upsample(scale_factor=2, mode="nearest")]
    layers = block(d, c) + up + block(c, c) + block(c, c) + block(c, c) + block(c, b) + up
    layers += block(b, b) + block(b, a) + up + block(a, a) + block(a, 3, relu=False)
    return nn.Sequential(*layers)


def statistics(features, eps=1e-5):
    flat = features.flatten(2)
    return flat.mean(2)[..., None, None], (flat.var(2) + eps).sqrt()[..., None, None]


def adain(content, style):
    mean, deviation = statistics(content)
    style_mean, style_deviation = statistics(style)
    return (content - mean) / deviation * style_deviation + style_mean


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    enc, dec = encoder(), decoder()
    for net in (enc, dec):
        for parameter in net.parameters():
            if parameter.dim() == 4:
                nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
            else:
                nn.init.normal_(parameter, std=0.1)
    tensors = {f"encoder.{name}": value.clone() for name, value in enc.state_dict().items()}
    tensors |= {f"decoder.{name}": value.clone() for name, value in dec.state_dict().items()}
    enc, dec = enc.double(), dec.double()
    styles = [torch.rand(1, 3, 33, 40), torch.rand(1, 3, 24, 17) ** 2]
    tensors |= {f"style.{i}": style for i, style in enumerate(styles)}
    with torch.no_grad():
        style_features = [enc(style.double()) for style in styles]
        for height, width in [(24, 32), (27, 21)]:
            name = f"{height}x{width}"
            content = torch.rand(1, 3, height, width)
            mask = torch.zeros(1, 1, height, width)
            mask[:, :, : height // 2] = 1
            features = enc(content.double())
            first, second = (adain(features, style) for style in style_features)

            def paint(mixed):
                return dec(mixed)[:, :, :height, :width]

            padded = F.pad(mask.double(), (0, -width % 8, 0, -height % 8), mode="replicate")
            weight = F.avg_pool2d(padded, 8) * 0.8
            tensors |= {
                f"content.{name}": content,
                f"mask.{name}": mask,
                f"full.{name}": paint(first),
                f"none.{name}": paint(features),
                f"part.{name}": paint(0.6 * second + 0.4 * features),
                f"blend.{name}": paint(0.25 * first + 0.75 * second),
                f"masked.{name}": paint(weight * first + (1 - weight) * features),
            }
    assert all(0.05 < tensors[f"full.{name}"].std() < 20 for name in ("24x32", "27x21"))
    path = OUT / "original.safetensors"
    save_file({name: value.float().contiguous() for name, value in tensors.items()}, path)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
