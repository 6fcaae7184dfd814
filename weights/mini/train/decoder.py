"""Stage 7: the VAE's decoder once more, on latents as the UNet leaves them.

    python decoder.py DATA OUT [--steps N] [--threads N]

Needs OUT/model and OUT/teacher.pt. A small UNet leaves some noise in what it paints, and a decoder that has only seen clean latents shows it as blotches in what
should be flat. So real latents are made noisy, the UNet finds its way back from there, and the decoder learns the picture that they were of. The encoder
stays what it is, and with it all that was trained on its latents. Writes OUT/repainted.pt (those latents), OUT/decoder.pt (checkpoint; the same command
goes on from it), OUT/decoder.png (rows: pictures that were never shown, what the decoder made of their repainted latents before, and now) and, at the end,
OUT/model/vae.
"""

import copy
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from common import Pictures, Stage, arguments, article, batch_of, moved
from data import STYLES
from teacher import load as load_teacher
from unet import SCHEDULE, Texts, chosen, latents_of
from vae import loss_of_pixels, write_rows

STEPS, FIRST, GUIDANCE = 10, (5, 6, 7, 8), 4.0  # of a way from pure noise, where the way back may begin
CLEAN = 0.4  # share of latents that are not repainted but the encoder's, with noise of deviation up to NOISE
NOISE = 0.3
STYLE = 0.05  # weight of the style that the teacher sees


@torch.no_grad()
def repainted(pictures, latents, unet, texts, indices, seed):
    """The latents of the pictures, mirrored or not, after the way back [n, 4, 16, 16], and whether mirrored [n]."""
    schedule = DDIMScheduler(**SCHEDULE)
    schedule.set_timesteps(STEPS)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    found, mirrored = [], []
    for number, part in enumerate(torch.tensor(indices).split(32)):
        rows = [pictures.rows[index] for index in part.tolist()]
        flips = torch.tensor([rng.randrange(2) for _ in rows])
        noisy = latents[part, flips].float()
        steps = schedule.timesteps[FIRST[number % len(FIRST)] :]
        noisy = schedule.add_noise(noisy, torch.randn(noisy.shape, generator=generator), steps[:1])
        asked = texts([f"{article(row['words'])}, {rng.choice(STYLES[row['style']])}" for row in rows])
        hidden = torch.cat([texts([""] * len(rows)), asked])
        for step in steps:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                both = unet(torch.cat([noisy] * 2).contiguous(memory_format=torch.channels_last), step, encoder_hidden_states=hidden).sample.float()
            plain, styled = both.chunk(2)
            noisy = schedule.step(plain + GUIDANCE * (styled - plain), step, noisy).prev_sample
        found.append(noisy.half())
        mirrored.append(flips)
    return torch.cat(found), torch.cat(mirrored)


def main():
    options = arguments(__doc__, steps=900, batch=16)
    model = options.out / "model"
    pictures, judge, texts = Pictures(options.data), load_teacher(options.out), Texts(model)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    before = copy.deepcopy(vae)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    latents = latents_of(pictures, vae, options.out / "latents.pt")
    items, unseen = chosen(pictures, pictures.train), chosen(pictures, pictures.held_out)[::40][:12]
    path = options.out / "repainted.pt"
    if not path.exists():
        unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).eval().to(memory_format=torch.channels_last)
        unet.set_attn_processor(AttnProcessor())
        shown = random.Random(0).sample(items, len(items))
        made = repainted(pictures, latents, unet, texts, shown, 0)
        torch.save((torch.tensor(shown), *made, *repainted(pictures, latents, unet, texts, unseen, 1)), path)
    shown, ways, mirrored, ways_unseen, mirrored_unseen = torch.load(path, weights_only=True)

    def pixels_of(indices, flips):
        pixels = pictures[indices]
        return torch.where(flips[:, None, None, None] > 0, pixels.flip(3), pixels).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def sheet(now):
        made = [net.decode(ways_unseen.float()).sample.clamp(-1, 1) for net in (before, now)]
        write_rows([pixels_of(unseen, mirrored_unseen), *made], options.out / "decoder.png")

    styles = torch.tensor([list(STYLES).index(row["style"]) for row in pictures.rows])
    stage = Stage(options.out / "decoder.pt", {"vae": vae}, peak=7e-4, options=options, decay=0.99)
    numbers = list(range(len(shown)))
    while stage.step < options.steps:
        generator = torch.Generator().manual_seed(stage.step)
        some = torch.tensor(batch_of(numbers, 9, stage.step, options.batch))
        indices, flips = shown[some], mirrored[some]
        clean = latents[indices, flips].float()
        clean = clean + NOISE * torch.rand(len(some), 1, 1, 1, generator=generator) * torch.randn(clean.shape, generator=generator)
        given = torch.where(torch.rand(len(some), 1, 1, 1, generator=generator) < CLEAN, clean, ways[some].float())
        pixels = pixels_of(indices, flips)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = vae.decode(given.contiguous(memory_format=torch.channels_last)).sample.float()
            said = judge(moved(out.clamp(-1.1, 1.1), generator).contiguous(memory_format=torch.channels_last))[0]
        loss = loss_of_pixels(judge, out, pixels) + STYLE * F.cross_entropy(said.float(), styles[indices], label_smoothing=0.1)
        if stage.learn(loss):
            ahead = copy.deepcopy(before)
            ahead.load_state_dict(stage.means["vae"].weights)
            sheet(ahead)
    vae = stage.with_means()["vae"]
    sheet(vae)
    vae.save_pretrained(model / "vae")


if __name__ == "__main__":
    main()
