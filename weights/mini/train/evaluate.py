"""What the model can do, on pairs of thing and style that it was never shown: prints a table.

    python evaluate.py DATA FOLDER [--count 140] [--sheet SHEET.png]

FOLDER is what export.py made. Seeds are fixed. Painted with 20 steps of DDIM at guidance 4.

Prompt: the vision encoder finds the painted thing among 200, each told by the mean of its real pictures. Style: a small classifier, trained here on real pictures
and tried on held-out ones first, tells the style of the painted picture; the reference shows another thing in that style, and the
prompt does not name the style. Structure: F-score of Canny's edges (1 pixel of tolerance) between the picture that the map came from
and what was painted. Real pictures, sharp and as the VAE gives them back, and pairs that were shown say where prompt and style are lost.
"""

import argparse
import json
import random
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from clip import seen as as_seen
from common import Everything, Pictures, Seen, article, by_palette, palette
from controlnet import canny
from data import STYLES
from unet import chosen
from vae import write_rows

STEPS, GUIDANCE, LENGTH = 20, 4.0, 77
NAMES = list(STYLES)


class Painter:
    """The parts of the exported folder, and one loop that uses them; many pictures at a time."""

    def __init__(self, folder):
        read = dict(torch_dtype=torch.float32)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", **read).eval()
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **read).eval()
        self.controlnet = ControlNetModel.from_pretrained(folder / "controlnet", **read).eval()
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self.words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", dtype=torch.float32).eval()
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        state = {"image_proj": {}, "ip_adapter": {}}
        for name, value in load_file(folder / "ip-adapter.safetensors").items():
            group, rest = name.split(".", 1)
            state[group][rest] = value.float()
        self.unet._load_ip_adapter_weights([state])

    def hidden(self, prompts):
        ids = self.words(prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
        return self.text(ids).last_hidden_state

    def embed(self, pixels):
        return self.vision(as_seen(pixels)).image_embeds

    @torch.no_grad()
    def paint(self, prompts, seeds, references=None, style_scale=1.0, hints=None):
        """Pixels in -1..1 [n, 3, 64, 64]. References as pixels, hints as bytes [n, 64, 64]."""
        parts = []
        for at in range(0, len(prompts), 32):
            cut = slice(at, at + 32)
            some = prompts[cut]
            hidden = torch.cat([self.hidden([""] * len(some)), self.hidden(some)])
            images = torch.zeros(len(some), 256) if references is None else self.embed(references[cut])
            embeds = torch.cat([torch.zeros_like(images), images])[:, None]
            for processor in self.unet.attn_processors.values():
                if hasattr(processor, "scale"):
                    processor.scale = [0.0 if references is None else style_scale]
            latents = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds[cut]])
            self.scheduler.set_timesteps(STEPS)
            for step in self.scheduler.timesteps:
                both, more = torch.cat([latents] * 2), {}
                if hints is not None:
                    hint = torch.cat([hints[cut]] * 2)[:, None].float().div(255).expand(-1, 3, -1, -1)
                    down, mid = self.controlnet(both, step, hidden, hint, return_dict=False)
                    more = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
                found = self.unet(both, step, hidden, added_cond_kwargs={"image_embeds": [embeds]}, **more).sample
                plain, asked = found.chunk(2)
                latents = self.scheduler.step(plain + GUIDANCE * (asked - plain), step, latents).prev_sample
            parts.append(self.vae.decode(latents).sample.clamp(-1, 1))
        return torch.cat(parts)


class Things:
    """Where the vision encoder sees each thing: the mean of its real pictures, without the held-out ones. Directions in which pictures
    of one thing differ, as they do by style, count less (Fisher's discriminant, with a tenth of the identity)."""

    @torch.no_grad()
    def __init__(self, painter, pictures):
        self.embed = painter.embed
        concepts = [pictures.rows[index]["concept"] for index in pictures.train]
        places = {concept: at for at, concept in enumerate(sorted(set(concepts)))}
        at = torch.tensor([places[concept] for concept in concepts])
        embedded = self.embedded(lambda cut: pictures[pictures.train[cut]], len(at))
        means = torch.stack([embedded[at == place].mean(0) for place in range(len(places))])
        self.middle = means.mean(0)
        within = torch.cov((embedded - means[at]).T)
        within = 0.9 * within + 0.1 * within.diagonal().mean() * torch.eye(len(within))
        values, vectors = torch.linalg.eigh(within)
        self.whiten = vectors * values.rsqrt() @ vectors.T
        self.centres = {concept: self.placed(means[place]) for concept, place in places.items()}

    def embedded(self, some, count):
        return torch.cat([F.normalize(self.embed(some(slice(at, at + 64))), dim=1) for at in range(0, count, 64)])

    def placed(self, embedded):
        return F.normalize((embedded - self.middle) @ self.whiten, dim=-1)

    @torch.no_grad()
    def of(self, pixels):
        return self.placed(self.embedded(lambda cut: pixels[cut], len(pixels)))


class Judge(torch.nn.Module):
    """Four convolutions, and the colours: logits of the seven styles."""

    def __init__(self):
        super().__init__()
        widths = [3, 32, 64, 128, 192]
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [torch.nn.Conv2d(before, after, 3, stride=2, padding=1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
        last = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(widths[-1], len(NAMES))]
        self.shapes = torch.nn.Sequential(*layers, *last).to(memory_format=torch.channels_last)
        self.colours = by_palette(len(NAMES))

    def forward(self, pixels):
        return self.shapes(pixels) + self.colours(palette(pixels))


def classifier(pictures, everything, see, folder, steps=3000, batch=128):
    """Tells the seven styles apart; learned on all real pictures but the held-out ones, sharp and as the VAE gives them back: painted ones are as soft as
    these, and that must not be what tells. Kept in the folder. Returns it and its accuracy on held-out ones."""
    torch.manual_seed(1)
    net = Judge()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    path = folder / f"judge-{see.name}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        steps = 0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps) + 1e-5
        some = draw.sample(everything.train, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net(see(some, generator).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(found.float(), everything.styles[some], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if steps:
        torch.save(net.state_dict(), path)
    net.eval()
    with torch.no_grad():
        right = net(pictures[pictures.held_out]).argmax(1) == everything.styles[pictures.held_out]
    return net, float(right.float().mean())


def edge_f(first, second):
    """As src/metrics/edges.rs: an edge counts where the other picture has one within a pixel."""
    if not first.any() and not second.any():
        return 1.0
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    precision = (second & (cv2.dilate(first, cross))).sum() / max(1, second.sum())
    recall = (first & (cv2.dilate(second, cross))).sum() / max(1, first.sum())
    return 2 * precision * recall / max(1e-9, precision + recall)


def bytes_of(pixels):
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=140)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    pictures, painter = Pictures(options.data), Painter(options.folder)
    draw = random.Random(7)
    shown = chosen(pictures, range(len(pictures.rows)))
    held = chosen(pictures, pictures.held_out)
    items = draw.sample(held, min(options.count, len(held)))
    rows = [pictures.rows[index] for index in items]
    seeds = list(range(len(items)))
    words = {pictures.rows[index]["concept"]: pictures.rows[index]["words"] for index in shown}

    def ranked(pixels, rows=rows):
        """The share whose thing is first, and among the first five, of 200."""
        first = five = 0
        for embedded, row in zip(things.of(pixels), rows):
            others = [concept for concept in sorted(words) if concept != row["concept"]]
            candidates = [row["concept"], *random.Random(row["concept"]).sample(others, 199)]
            scores = torch.stack([things.centres[concept] for concept in candidates]) @ embedded
            place = int((scores > scores[0]).sum())
            first, five = first + (place < 1), five + (place < 5)
        return first / len(rows), five / len(rows)

    things = Things(painter, pictures)

    everything = Everything(options.data)
    judge, sure = classifier(pictures, everything, Seen(everything, painter.vae, options.data), options.data)
    results = {"style classifier on real held-out pictures": sure}
    print(f"the style classifier is right in {sure:.1%} of the real held-out pictures", flush=True)

    def labels_of(rows):
        return [NAMES.index(row["style"]) for row in rows]

    def style_of(pixels, labels):
        with torch.no_grad():
            return float((judge(pixels).argmax(1) == torch.tensor(labels)).float().mean())

    def styled(rows):
        return [f"{article(row['words'])}, {STYLES[row['style']][0]}" for row in rows]

    plain = [article(row["words"]) for row in rows]
    labels = labels_of(rows)
    references, maps, edges = [], [], []
    for row in rows:
        others = [i for i in pictures.held_out if pictures.rows[i]["style"] == row["style"] and pictures.rows[i]["concept"] != row["concept"]]
        references.append(draw.choice(others))
    references = pictures[references]
    for index in items:
        edges.append((canny(pictures.bytes[index].permute(1, 2, 0).contiguous().numpy()) > 0).astype(np.uint8))
    hints = torch.from_numpy(np.stack(edges) * 255)

    def kept(pixels):
        found = [(canny(one) > 0).astype(np.uint8) for one in bytes_of(pixels)]
        return float(np.mean([edge_f(first, second) for first, second in zip(edges, found)]))

    # Where it is lost: by the VAE, by the UNet, or because the pair was never shown.
    real = pictures[items]
    with torch.no_grad():
        back = painter.vae.decode(painter.vae.encode(real).latent_dist.mean).sample.clamp(-1, 1)
    for name, pixels in (("real held-out pictures", real), ("real ones as the VAE gives them back", back)):
        results[f"{name}: prompt"], results[f"{name}: style"] = ranked(pixels), style_of(pixels, labels)
    once_shown = [pictures.rows[index] for index in random.Random(8).sample(chosen(pictures, pictures.train), len(items))]
    pixels = painter.paint(styled(once_shown), seeds)
    results["pairs that were shown, prompt"] = ranked(pixels, once_shown)
    results["pairs that were shown, style named"] = style_of(pixels, labels_of(once_shown))

    alone = painter.paint(styled(rows), seeds)
    results["prompt, first / first five of 200"] = ranked(alone)
    results["style named in the prompt"] = style_of(alone, labels)
    for scale in (0.0, 0.5, 1.0):
        pixels = painter.paint(plain, seeds, references, scale)
        results[f"style, scale {scale}"] = style_of(pixels, labels)
        if scale == 1.0:
            results["prompt with style picture"] = ranked(pixels)
            by_style = pixels
    without = painter.paint(plain, seeds)
    results["structure without ControlNet"] = kept(without)
    structured = painter.paint(plain, seeds, None, 0.0, hints)
    results["structure with ControlNet"] = kept(structured)
    everything = painter.paint(plain, seeds, references, 1.0, hints)
    results["both: prompt"] = ranked(everything)
    results["both: style"] = style_of(everything, labels)
    results["both: structure"] = kept(everything)
    for name, value in results.items():
        shown_value = " / ".join(f"{part:.3f}" for part in value) if isinstance(value, tuple) else f"{value:.3f}"
        print(f"{name:58} {shown_value}")
    print(json.dumps(results))
    if options.sheet:
        count = min(16, len(items))
        maps = hints[:count, None].expand(-1, 3, -1, -1).float() / 127.5 - 1
        lines = [real[:count], alone[:count], references[:count], by_style[:count], maps, structured[:count], everything[:count]]
        write_rows(lines, options.sheet)


if __name__ == "__main__":
    main()
