"""Stage 4: the UNet, from captions to latents.

    python unet.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Needs OUT/model/vae, tokenizer and text_encoder of the stages before, all frozen. Writes OUT/unet.pt (checkpoint; the same command
goes on from it; without one, MODEL/unet is where it begins, if given), OUT/unet.png (samples of captions whose pair of thing and style was never shown) and, at the end, OUT/model/unet
and OUT/model/scheduler in diffusers' layout.

It predicts velocities (Salimans and Ho 2022); a tenth of the captions are empty, for classifier-free guidance. Only things of concepts.txt are shown, those that people ask for. Latents and hidden states of all
captions are computed once.
"""

import json
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from clip import LENGTH
from common import Pictures, Stage, arguments, batch_of, caption

CONFIG = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    block_out_channels=[64, 128, 160],
    layers_per_block=1,
    cross_attention_dim=256,
    attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.x
    norm_num_groups=16,
)
SCHEDULE = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
)
CAPTIONS = 8  # drawn for each picture, once
EMPTY = 0.1
SHOWN = [
    "a red apple, glossy 3d", "a cat face, flat", "a rocket, blob", "a rose, black and white", "an owl, simple",
    "a key, glossy 3d", "a pizza, soft gradient", "a house, flat", "a skull, bright cartoon", "a bicycle, blob",
    "a banana, black and white", "an umbrella, glossy 3d",
]


class Texts:
    """Hidden states of captions [77, 256], computed when they are first asked for."""

    def __init__(self, model):
        self.words = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
        self.known = {}

    @torch.no_grad()
    def __call__(self, captions):
        new = sorted(set(captions) - set(self.known))
        for at in range(0, len(new), 128):
            part = new[at : at + 128]
            ids = self.words(part, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
            for text, states in zip(part, self.encoder(ids).last_hidden_state):
                self.known[text] = states.half()
        return torch.stack([self.known[text] for text in captions]).float()


@torch.no_grad()
def latents_of(pictures, vae, path):
    """Of every picture and its mirror image, [n, 2, 4, 16, 16] times the scaling factor."""
    if path.exists():
        return torch.load(path, weights_only=True)
    parts = []
    for at in range(0, len(pictures.rows), 64):
        pixels = pictures[list(range(at, min(at + 64, len(pictures.rows))))]
        both = [vae.encode(xs).latent_dist.mean * vae.config.scaling_factor for xs in (pixels, pixels.flip(3))]
        parts.append(torch.stack(both, 1).half())
    latents = torch.cat(parts)
    torch.save(latents, path)
    return latents


def noised(schedule, latents, generator):
    """Latents with noise, how much of it, and the velocities to predict."""
    noise = torch.randn(latents.shape, generator=generator)
    # One of each part of the noise levels (Kingma et al. 2021, arXiv:2107.00630, appendix I.1): the loss of a batch varies less.
    count = len(latents)
    steps = ((torch.arange(count) + torch.rand(count, generator=generator)) * (1000 / count)).long().clamp(max=999)
    noisy = schedule.add_noise(latents, noise, steps).contiguous(memory_format=torch.channels_last)
    return noisy, steps, schedule.get_velocity(latents, noise, steps)


def loss_of(predict, schedule, latents, texts, generator):
    noisy, steps, wanted = noised(schedule, latents, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predict(noisy, steps, texts).float()
    # All noise levels alike. Weighted as min-SNR the noisiest, which decide what is shown, hardly count: colours came out right, things wrong.
    return (found - wanted).pow(2).mean()


def chosen(pictures, indices):
    """Those of the indices whose thing is in concepts.txt."""
    wanted = set((Path(__file__).parent / "concepts.txt").read_text().split())
    return [index for index in indices if pictures.rows[index]["concept"] in wanted]


def pipeline(model, unet, vae, texts):
    return StableDiffusionPipeline(
        vae=vae, text_encoder=texts.encoder, tokenizer=texts.words, unet=unet, scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


@torch.no_grad()
def samples(painter, path):
    painter.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    pictures = painter(SHOWN, num_inference_steps=20, guidance_scale=4.0, generator=generator, height=64, width=64).images
    sheet = Image.new("RGB", (6 * 132, 2 * 132), "white")
    for at, picture in enumerate(pictures):
        sheet.paste(picture.resize((128, 128), Image.NEAREST), (at % 6 * 132, at // 6 * 132))
    sheet.save(path)


def main():
    options = arguments(__doc__, steps=8_000, batch=32)
    model = options.out / "model"
    pictures = Pictures(options.data)
    vae, texts = AutoencoderKL.from_pretrained(model / "vae").eval(), Texts(model)
    latents = latents_of(pictures, vae, options.out / "latents.pt")
    rng = random.Random(1)
    captions = [[caption(row, rng)[0] for _ in range(CAPTIONS)] for row in pictures.rows]
    begin = UNet2DConditionModel.from_pretrained(options.start / "unet", torch_dtype=torch.float32) if options.start else (
        UNet2DConditionModel(**CONFIG))
    unet = begin.to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # its backward pass is twice as fast on a CPU
    items = chosen(pictures, pictures.train)
    print(f"{len(items)} pictures", flush=True)
    schedule = DDIMScheduler(**SCHEDULE)

    def predict(noisy, steps, texts):
        return unet(noisy, steps, encoder_hidden_states=texts).sample

    peak = 3e-4 if options.start else 5e-4  # what is trained already loses less
    stage = Stage(options.out / "unet.pt", {"unet": unet}, peak=peak, options=options)
    while stage.step < options.steps:
        draw = random.Random(stage.step)
        indices = batch_of(items, 3, stage.step, options.batch)
        asked = [draw.choice(captions[index]) if draw.random() >= EMPTY else "" for index in indices]
        # A mirrored letter is no letter, but an emoji has few of them.
        clean = torch.stack([latents[index, draw.randrange(2)] for index in indices]).float()
        hidden = texts(asked)
        loss = loss_of(predict, schedule, clean, hidden, torch.Generator().manual_seed(stage.step))
        if stage.learn(loss):
            ahead = UNet2DConditionModel(**CONFIG)
            ahead.load_state_dict(stage.means["unet"].weights)
            samples(pipeline(model, ahead, vae, texts), options.out / "unet.png")
    painter = pipeline(model, stage.with_means()["unet"], vae, texts)
    samples(painter, options.out / "unet.png")
    painter.save_pretrained(model)
    print(json.dumps({"steps": stage.step}))


if __name__ == "__main__":
    main()
