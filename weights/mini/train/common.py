"""What the stages share: the command line, the pictures, captions, checkpoints, learning rates, running means."""

import argparse
import hashlib
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import STYLES

# What people call some of the things instead.
OTHER_NAMES = {
    "automobile": ["car", "red car"],
    "evergreen-tree": ["fir tree", "pine tree"],
    "deciduous-tree": ["tree", "green tree"],
    "lady-beetle": ["ladybug", "ladybird"],
    "honeybee": ["bee"],
    "hot-beverage": ["cup of coffee", "cup of tea", "coffee"],
    "high-voltage": ["lightning", "lightning bolt", "flash"],
    "red-apple": ["apple"],
    "red-heart": ["heart"],
    "cat-face": ["face of a cat"],
    "dog-face": ["face of a dog"],
    "ear-of-corn": ["corn", "maize"],
    "sheaf-of-rice": ["ear of wheat"],
    "t-rex": ["dinosaur", "tyrannosaurus"],
    "sauropod": ["dinosaur with a long neck"],
    "grinning-face": ["smiley", "happy face"],
    "slightly-smiling-face": ["smile", "smiling face"],
    "frowning-face": ["sad face"],
    "loudly-crying-face": ["crying face"],
    "mobile-phone": ["phone", "smartphone"],
    "desktop-computer": ["computer", "screen"],
    "gem-stone": ["diamond", "jewel"],
    "cooking": ["fried egg"],
    "game-die": ["dice", "die"],
    "wrapped-gift": ["gift", "present"],
    "flying-saucer": ["ufo"],
    "alien-monster": ["space invader"],
    "jack-o-lantern": ["pumpkin", "halloween pumpkin"],
    "sparkles": ["stars"],
    "globe-showing-europe-africa": ["earth", "globe", "planet earth"],
    "ringed-planet": ["planet", "saturn"],
    "full-moon": ["moon"],
    "crescent-moon": ["moon crescent"],
    "moai": ["stone head"],
    "magnifying-glass-tilted-left": ["magnifying glass"],
    "mount-fuji": ["volcano with snow"],
    "snow-capped-mountain": ["mountain with snow"],
    "water-wave": ["wave", "ocean wave"],
    "shallow-pan-of-food": ["pan of food", "paella"],
    "two-hump-camel": ["camel with two humps"],
    "soccer-ball": ["football"],
    "beer-mug": ["beer"],
    "wine-glass": ["glass of wine"],
    "cocktail-glass": ["cocktail"],
    "locked": ["padlock", "lock"],
    "unlocked": ["open padlock"],
    "office-building": ["skyscraper", "tower"],
    "baguette-bread": ["baguette"],
    "cheese-wedge": ["cheese"],
    "doughnut": ["donut"],
    "french-fries": ["fries", "chips"],
    "musical-note": ["note"],
    "old-key": ["antique key"],
    "spiral-shell": ["shell", "seashell"],
    "birthday-cake": ["cake"],
    "teacup-without-handle": ["tea cup", "green tea"],
    "four-leaf-clover": ["clover"],
    "fallen-leaf": ["leaves"],
    "maple-leaf": ["leaf", "red leaf"],
    "running-shoe": ["shoe", "sneaker"],
    "eagle": ["bird of prey"],
    "bird": ["little bird"],
    "spouting-whale": ["whale with a fountain"],
    "nest-with-eggs": ["nest", "bird nest"],
    "potted-plant": ["plant", "plant in a pot"],
    "droplet": ["water drop", "drop of water"],
    "bullet-train": ["fast train"],
    "locomotive": ["steam train", "steam engine"],
    "delivery-truck": ["truck", "lorry"],
    "sport-utility-vehicle": ["suv", "blue car"],
    "racing-car": ["race car"],
    "motor-scooter": ["scooter"],
    "night-with-stars": ["city at night"],
}


def arguments(about, steps, batch):
    """What every stage is asked, with its own numbers of steps and of pictures in each."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--start", type=Path, help="a model whose weights to begin with")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


class Pictures:
    """Those of data.py, as floats in -1..1, channels last."""

    def __init__(self, folder):
        folder = Path(folder)
        self.rows = json.loads((folder / "pictures.json").read_text())
        self.bytes = torch.from_numpy(np.load(folder / "pictures.npy")).permute(0, 3, 1, 2)
        self.train = [index for index, row in enumerate(self.rows) if not row["held_out"]]
        self.held_out = [index for index, row in enumerate(self.rows) if row["held_out"]]
        self.concepts = sorted({row["concept"] for row in self.rows})
        numbers = {concept: at for at, concept in enumerate(self.concepts)}
        self.things = torch.tensor([numbers[row["concept"]] for row in self.rows])

    def __getitem__(self, indices):
        pixels = self.bytes[torch.as_tensor(indices)].float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)


NONE = -100  # the thing of a picture that shows none


class Everything:
    """Those and what else the sets hold: pixels as above by their number, what style each is of, and what thing."""

    def __init__(self, folder):
        pictures = Pictures(folder)
        more = json.loads((Path(folder) / "more.json").read_text())
        others = torch.from_numpy(np.load(Path(folder) / "more.npy")).permute(0, 3, 1, 2)
        self.bytes = torch.cat([pictures.bytes, others])
        self.styles = torch.tensor([list(STYLES).index(row["style"]) for row in pictures.rows + more])
        self.things = F.pad(pictures.things, (0, len(more)), value=NONE)
        self.train = [*pictures.train, *range(len(pictures.rows), len(self.bytes))]

    __getitem__ = Pictures.__getitem__


def moved(pixels, rng):
    """Pictures a little larger or smaller, shifted, half of them mirrored."""
    count = len(pixels)
    scale = 1 + 0.15 * (torch.rand(count, generator=rng) * 2 - 1)
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    shift = 0.12 * (torch.rand(count, 2, generator=rng) * 2 - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
    grid = F.affine_grid(theta, pixels.shape, align_corners=False)
    return F.grid_sample(pixels - 1, grid, align_corners=False) + 1  # white beyond the edges


class Seen:
    """Pictures as they are, or as the VAE gives them back: so soft are those that are painted."""

    SOFT = 0.4

    @torch.no_grad()
    def __init__(self, pictures, vae, folder):
        self.sharp = pictures
        weights = b"".join(value.numpy().tobytes() for value in vae.state_dict().values())
        count = len(pictures.bytes)
        self.name = f"{hashlib.sha256(weights).hexdigest()[:12]}-{count}"
        path = folder / f"soft-{self.name}.pt"
        if not path.exists():
            parts = []
            for at in range(0, count, 64):
                pixels = pictures[list(range(at, min(at + 64, count)))]
                soft = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
                parts.append(((soft + 1) * 127.5).round().byte())
            torch.save(torch.cat(parts), path)
        self.soft = torch.load(path, weights_only=True)

    def __call__(self, indices, rng):
        at = torch.as_tensor(indices)
        soft = self.soft[at].float() / 127.5 - 1
        chosen = torch.rand(len(at), 1, 1, 1, generator=rng) < self.SOFT
        return moved(torch.where(chosen, soft, self.sharp[indices]), rng)


SHADES = 10  # of each of red, green and blue


def palette(pixels):
    """Which colours there are how much of: root of the shares of 10x10x10 colours [n, 1000], each pixel shared among the eight nearest. Every set has
    colours of its own, and this tells them better than any shape."""
    places = ((pixels.float().clamp(-1, 1) + 1) / 2 * (SHADES - 1)).flatten(2)
    low = places.detach().floor().clamp(max=SHADES - 2)
    above, low = places - low, low.long()
    found = torch.zeros(len(pixels), SHADES**3)
    for corner in range(8):
        share, at = 1.0, 0
        for channel in range(3):
            up = corner >> channel & 1
            share = share * (above[:, channel] if up else 1 - above[:, channel])
            at = at * SHADES + low[:, channel] + up
        found = found.scatter_add(1, at, share)
    return (found / places.shape[2] + 1e-5).sqrt()


def by_palette(classes):
    """From a palette to logits."""
    first = [torch.nn.Dropout(0.2), torch.nn.Linear(SHADES**3, 256), torch.nn.ReLU()]
    return torch.nn.Sequential(*first, torch.nn.Dropout(0.5), torch.nn.Linear(256, classes))


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(row, rng):
    """A way to ask for a picture: its thing, two times in three with its style. Also whether the style is left open."""
    words = rng.choice([row["words"], *OTHER_NAMES.get(row["concept"], [])])
    thing = rng.choice([words, article(words)])
    if rng.random() < 1 / 3:
        return thing, True
    phrase = rng.choice(STYLES[row["style"]])
    styled = [f"{thing}, {phrase}", f"{phrase} {words}", f"{thing} in {phrase} style", f"{thing}, {phrase} emoji"]
    return rng.choice(styled), False


def order(items, seed, epoch):
    """The items in the order of an epoch: the same again when a stage goes on."""
    mixed = list(items)
    random.Random(f"{seed}/{epoch}").shuffle(mixed)
    return mixed


def batch_of(items, seed, step, size):
    """The items of a step: everything once before anything twice."""
    found = []
    at = step * size
    while len(found) < size:
        epoch, place = divmod(at + len(found), len(items))
        found.append(order_of(items, seed, epoch)[place])
    return found


_orders = {}


def order_of(items, seed, epoch):
    key = (id(items), seed, epoch)
    if key not in _orders:
        for old in [other for other in _orders if other[2] < epoch - 1]:
            del _orders[old]
        _orders[key] = order(items, seed, epoch)
    return _orders[key]


def rate(step, steps, peak, warm_up=200):
    """A step size that rises over the warm-up and falls as a cosine."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


class Mean:
    """A running mean of a model's weights."""

    def __init__(self, model, decay=0.999):
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def follow(self, model, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        now = model.state_dict()
        kinds = [name for name, value in now.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([self.weights[name] for name in kinds], [now[name] for name in kinds], 1 - decay)
        for name in now.keys() - set(kinds):
            self.weights[name].copy_(now[name])


class Stage:
    """A training that can be stopped at any time: model, optimiser, running mean and step, written whole."""

    def __init__(self, path, modules, peak, options, decay=0.999, weight_decay=0.01):
        self.path, self.modules, self.peak = Path(path), modules, peak
        self.steps, self.batch = options.steps, options.batch
        trained = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        print(f"{sum(p.numel() for p in trained) / 1e6:.2f} M weights learn", flush=True)
        self.optimizer = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        self.means = {name: Mean(module, decay) for name, module in modules.items()}
        self.parameters, self.step = trained, 0
        if self.path.exists():
            self.load()
        self.begun, self.first, self.losses = time.time(), self.step, []

    def load(self):
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
            self.means[name].weights = saved["means"][name]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        print(f"goes on from step {self.step}", flush=True)

    def save(self):
        saved = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "means": {name: mean.weights for name, mean in self.means.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        beside = self.path.with_suffix(".part")
        beside.parent.mkdir(parents=True, exist_ok=True)
        torch.save(saved, beside)
        os.replace(beside, self.path)

    def learn(self, loss):
        """One update. Says how it goes every 100, and saves every 500: then the answer is True."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.steps, self.peak)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.step += 1
        for name, module in self.modules.items():
            self.means[name].follow(module, self.step)
        self.losses = [*self.losses[-99:], loss.item()]
        if self.step % 100 == 0:
            speed = (self.step - self.first) * self.batch / (time.time() - self.begun)
            mean = sum(self.losses) / len(self.losses)
            print(f"{self.step}/{self.steps}  loss {mean:.4f}  {speed:.1f} pictures/s", flush=True)
        if self.step % 500 == 0:
            self.save()
        return self.step % 500 == 0

    def with_means(self):
        """The modules with their running means: for samples and for what is shipped."""
        for name, module in self.modules.items():
            module.load_state_dict(self.means[name].weights)
        return self.modules
