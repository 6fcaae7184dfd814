"""Stage 1: a convolutional net that tells the seven styles apart, and what is drawn. It is not shipped: the VAE learns to keep what it sees, the vision encoder
to see what it sees.

    python teacher.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Writes OUT/teacher.pt. Learns on every drawing but the held-out ones, the styles of signs and letters too; with --start two in five are shown as the VAE of MODEL gives
them back, for what is painted is as soft as these. Prints how many of the held-out ones it tells right: their styles, and their things as the first and among the first
five of all.
"""

import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from common import NONE, Everything, Pictures, Seen, Stage, arguments, batch_of, by_palette, moved, palette
from data import STYLES


class Block(nn.Module):
    """Halves the sides; a residual block of two convolutions."""

    def __init__(self, before, after):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.beside = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))

    def forward(self, xs):
        return F.relu(self.second(self.first(xs)) + self.beside(xs))


class Teacher(nn.Module):
    def __init__(self, things):
        super().__init__()
        begin = nn.Sequential(nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.layers = nn.ModuleList([begin, Block(24, 48), Block(48, 96), Block(96, 160)])
        self.style = nn.Sequential(nn.Dropout(0.3), nn.Linear(160, len(STYLES)))
        self.colours = by_palette(len(STYLES))
        self.thing = nn.Sequential(Block(160, 256), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, things))
        self.to(memory_format=torch.channels_last)

    def features(self, pixels):
        """[n, 24, 64, 64], [n, 48, 32, 32], [n, 96, 16, 16], [n, 160, 8, 8]."""
        found = [pixels]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return found[1:]

    def forward(self, pixels):
        """Logits of the styles [n, 7] and of the things [n, things]."""
        last = self.features(pixels)[-1]
        return self.styled(last.mean((2, 3)), pixels), self.thing(last)

    def styled(self, seen, pixels):
        """Logits of the styles [n, 7], by the mean of the last features [n, 160] and by the colours."""
        return self.style(seen) + self.colours(palette(pixels))


def load(out):
    """The trained one, frozen."""
    weights = torch.load(out / "teacher.pt", map_location="cpu", weights_only=True)["means"]["teacher"]
    net = Teacher(len(weights["thing.4.bias"]))
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def named(net, pictures):
    """The shares of held-out pictures whose thing it finds first, and among the first five."""
    found = torch.cat([net(pictures[some])[1].topk(5).indices for some in torch.tensor(pictures.held_out).split(128)])
    right = found == pictures.things[pictures.held_out, None]
    return float(right[:, 0].float().mean()), float(right.any(1).float().mean())


@torch.no_grad()
def told(logits_of, pictures):
    """The share of held-out pictures whose style is told right by what turns pixels into logits."""
    right = 0
    for at in range(0, len(pictures.held_out), 128):
        some = pictures.held_out[at : at + 128]
        styles = torch.tensor([list(STYLES).index(pictures.rows[index]["style"]) for index in some])
        right += int((logits_of(pictures[some]).argmax(1) == styles).sum())
    return right / len(pictures.held_out)


def report(net, pictures):
    first, five = named(net, pictures)
    style = told(lambda pixels: net(pixels)[0], pictures)
    print(f"held out: style {style:.1%}, thing {first:.1%}, among five {five:.1%}", flush=True)


def main():
    options = arguments(__doc__, steps=2_400, batch=64)
    pictures = Pictures(options.data)
    everything = Everything(options.data)
    see = None
    if options.start:
        see = Seen(everything, AutoencoderKL.from_pretrained(options.start / "vae", torch_dtype=torch.float32), options.data)
    net = Teacher(len(pictures.concepts))
    stage = Stage(options.out / "teacher.pt", {"teacher": net}, peak=2e-3, options=options, decay=0.99, weight_decay=0.05)
    while stage.step < options.steps:
        indices = batch_of(everything.train, 0, stage.step, options.batch)
        generator = torch.Generator().manual_seed(stage.step)
        pixels = see(indices, generator) if see else moved(everything[indices], generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            styles, things = net(pixels.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(styles.float(), everything.styles[indices], label_smoothing=0.05)
        loss = loss + F.cross_entropy(things.float(), everything.things[indices], label_smoothing=0.05, ignore_index=NONE)
        if stage.learn(loss):
            ahead = copy.deepcopy(net)
            ahead.load_state_dict(stage.means["teacher"].weights)
            report(ahead.eval(), pictures)
    stage.save()
    report(load(options.out), pictures)


if __name__ == "__main__":
    main()
