"""Stage 6: the ControlNet, from edges or a silhouette to where things are. The UNet is frozen.

    python controlnet.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Needs OUT/model of the stages before. It begins as a copy of the UNet, or with MODEL/controlnet if that is given. Writes
OUT/controlnet.pt (checkpoint; the same command goes on from it), OUT/controlnet.png
(maps, and below them what is painted after them) and, at the end, OUT/controlnet in diffusers' layout.

Two kinds of map: OpenCV's Canny edges with thresholds 100 and 200 (white on black) for three pictures in five, and the filled outline
(white on black). Edges are found at 64, 160 and 400 pixels and then made smaller, because that is what becomes of a larger picture. Zhang et al. 2023, arXiv:2302.05543; three captions in ten are empty, so that the map counts.
"""

import random

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from common import Pictures, Stage, arguments, batch_of, caption
from unet import CAPTIONS, SCHEDULE, Texts, chosen, latents_of, loss_of, pipeline

EMPTY = 0.3
SQUEEZED = 0.6
KINDS = [0, 1, 1, 2, 3]  # of maps_of: silhouettes twice as often as each kind of edges
WHITE = 245


def canny(picture):
    """[64, 64, 3] bytes to [64, 64] of 0 and 255."""
    return cv2.Canny(picture, 100, 200)


def silhouette(picture):
    """What is not the white around the thing, holes filled."""
    ground = (picture.min(2) >= WHITE).astype(np.uint8)
    count, parts = cv2.connectedComponents(ground, connectivity=4)
    border = set(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]).tolist())
    outside = np.isin(parts, [part for part in range(1, count) if part in border])
    return np.where(outside, 0, 255).astype(np.uint8)


def canny_from(picture, side):
    """The edges of a picture that is larger, in its own size first."""
    larger = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(Image.fromarray(canny(larger)).resize((64, 64), Image.LANCZOS))


def maps_of(pictures, indices):
    """All maps of some of the pictures [4, 64, 64] in bytes, by index."""
    found = {}
    for index in indices:
        one = pictures.bytes[index].permute(1, 2, 0).contiguous().numpy()
        found[index] = torch.from_numpy(np.stack([canny(one), silhouette(one), canny_from(one, 160), canny_from(one, 400)]))
    return found


class Squeezed:
    """Every picture once more, narrower or lower: else the prompt alone tells the shape of what it knows best, and the map is not
    asked."""

    @torch.no_grad()
    def __init__(self, pictures, indices, vae):
        rng = torch.Generator().manual_seed(6)
        self.bytes, self.latents = {}, {}
        for at in range(0, len(indices), 64):
            some = indices[at : at + 64]
            factors = torch.ones(len(some), 2)
            axes = torch.randint(0, 2, (len(some),), generator=rng)
            factors[torch.arange(len(some)), axes] = 0.4 + 0.5 * torch.rand(len(some), generator=rng)
            theta = torch.diag_embed(1 / factors)
            # Averaged over what a pixel covers now, with white beyond the edges.
            large = F.interpolate(pictures[some] - 1, scale_factor=2, mode="bilinear")
            fine = F.affine_grid(torch.cat([theta, torch.zeros(len(some), 2, 1)], 2), large.shape, align_corners=False)
            pixels = F.avg_pool2d(F.grid_sample(large, fine, align_corners=False), 2) + 1
            latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
            for index, own, found in zip(some, ((pixels + 1) * 127.5).round().clamp(0, 255).byte(), latents):
                self.bytes[index], self.latents[index] = own, found


@torch.no_grad()
def samples(painter, maps, pictures, path, count=8):
    """Pairs never shown, by one kind of map after the other."""
    painter.set_progress_bar_config(disable=True)
    items = chosen(pictures, pictures.held_out)
    items = items[:: len(items) // count][:count]
    sheet = Image.new("RGB", (count * 132, 2 * 132), "white")
    for column, index in enumerate(items):
        hint = Image.fromarray(maps[index][column % 4].numpy()).convert("RGB")
        prompt = caption(pictures.rows[index], random.Random(column))[0]
        picture = painter(
            prompt, image=hint, num_inference_steps=20, guidance_scale=4.0, generator=torch.Generator().manual_seed(column),
            height=64, width=64,
        ).images[0]
        for row, shown in enumerate((hint, picture)):
            sheet.paste(shown.resize((128, 128), Image.NEAREST), (column * 132, row * 132))
    sheet.save(path)


def main():
    options = arguments(__doc__, steps=1_500, batch=32)
    model = options.out / "model"
    pictures = Pictures(options.data)
    vae, texts = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval(), Texts(model)
    latents = latents_of(pictures, vae, options.out / "latents.pt")
    maps = maps_of(pictures, chosen(pictures, range(len(pictures.rows))))
    rng = random.Random(1)
    captions = [[caption(row, rng)[0] for _ in range(CAPTIONS)] for row in pictures.rows]
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).requires_grad_(False)
    # Two strided convolutions, as the VAE makes pixels four times smaller.
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))
    if options.start:
        controlnet = ControlNetModel.from_pretrained(options.start / "controlnet", torch_dtype=torch.float32)
    for net in (unet, controlnet):
        net.set_attn_processor(AttnProcessor())
        net.to(memory_format=torch.channels_last)
    items = chosen(pictures, pictures.train)
    narrow = Squeezed(pictures, items, vae)
    narrow_maps = maps_of(narrow, items)
    schedule = DDIMScheduler(**SCHEDULE)
    stage = Stage(options.out / "controlnet.pt", {"controlnet": controlnet}, peak=4e-4, options=options, decay=0.998)
    painter = StableDiffusionControlNetPipeline(**pipeline(model, unet, vae, texts).components, controlnet=controlnet)
    while stage.step < options.steps:
        draw = random.Random(stage.step)
        asked, hints, clean = [], [], []
        for index in batch_of(items, 5, stage.step, options.batch):
            mirrored, kind = draw.randrange(2), draw.choice(KINDS)
            asked.append(draw.choice(captions[index]) if draw.random() >= EMPTY else "")
            if draw.random() < SQUEEZED:
                hints.append(narrow_maps[index][kind])
                clean.append(narrow.latents[index])
            else:
                hints.append(maps[index][kind].flip(1) if mirrored else maps[index][kind])
                clean.append(latents[index, mirrored])
        hint = torch.stack(hints)[:, None].float().div(255).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

        def predict(noisy, steps, hidden):
            down, mid = controlnet(noisy, steps, hidden, hint, return_dict=False)
            return unet(
                noisy, steps, hidden, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False
            )[0]

        loss = loss_of(predict, schedule, torch.stack(clean).float(), texts(asked), torch.Generator().manual_seed(stage.step))
        if stage.learn(loss):
            samples(painter, maps, pictures, options.out / "controlnet.png")
    stage.with_means()
    samples(painter, maps, pictures, options.out / "controlnet.png")
    controlnet.save_pretrained(options.out / "controlnet")


if __name__ == "__main__":
    main()
