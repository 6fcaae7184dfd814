"""Stage 2: the VAE, 64x64 pixels to 16x16 latents of 4 channels.

    python vae.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Needs OUT/teacher.pt: the features of that net are part of the loss. Writes OUT/vae.pt (checkpoint; the same command goes on from it), OUT/vae.png (above pictures that it never saw, below
what it gives back) and, at the end, OUT/model/vae in diffusers' layout, its latents standardized so that the scaling factor is 1.
With --start the decoder of MODEL/vae learns on and the encoder stays what it is, so that what was trained on its latents stays right.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from common import Pictures, Stage, arguments, batch_of
from teacher import load as load_teacher

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    block_out_channels=[32, 64, 96],
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=16,
    scaling_factor=1.0,
    sample_size=64,
    mid_block_add_attention=False,
)
SEEN = 0.3  # weight of what the teacher sees


def gradients(xs):
    """Differences of neighbours: edges are where an emoji is judged."""
    return xs[..., 1:, :] - xs[..., :-1, :], xs[..., 1:] - xs[..., :-1]


def unlike(judge, out, pixels):
    """How differently the teacher sees both: as LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its learned weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        both = judge.features(torch.cat([out, pixels]))
    halves = (F.normalize(layer.float(), dim=1).chunk(2) for layer in both)
    return sum((a - b).square().sum(1).mean() for a, b in halves)


def loss_of_pixels(judge, out, pixels):
    """How far what was decoded is from the picture: pixels, edges, quarters of the size, and what the teacher sees."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(out), gradients(pixels)))
    halves = F.l1_loss(F.avg_pool2d(out, 4), F.avg_pool2d(pixels, 4))
    return F.l1_loss(out, pixels) + F.mse_loss(out, pixels) + edges + halves + SEEN * unlike(judge, out, pixels)


def loss_of(vae, judge, pixels, generator):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.set_grad_enabled(vae.quant_conv.weight.requires_grad):
            posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        out = vae.decode(latents).sample.float()
    return loss_of_pixels(judge, out, pixels) + 1e-4 * posterior.kl().float().mean() / 256


def write_rows(rows, path):
    """Pictures in rows, one below the other, at twice their size."""
    grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    picture = Image.fromarray(((grid + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy())
    picture.resize((picture.width * 2, picture.height * 2), Image.NEAREST).save(path)


@torch.no_grad()
def sheet(vae, pictures, path, count=12):
    """Writes it; the signal to noise ratio of what is on it."""
    pixels = pictures[pictures.held_out[:: max(1, len(pictures.held_out) // count)][:count]]
    out = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    write_rows([pixels, out], path)
    return float(10 * torch.log10(4 / F.mse_loss(out, pixels)))


@torch.no_grad()
def standardize(vae, pictures):
    """Latents of mean 0 and deviation 1 in every channel, by the two 1x1 convolutions at the middle; what comes out stays the same."""
    chosen = pictures.train[:: len(pictures.train) // 2048]
    means = torch.cat([vae.encode(pictures[chosen[i : i + 64]]).latent_dist.mean for i in range(0, len(chosen), 64)])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    count = len(shift)
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ shift
    vae.post_quant_conv.weight *= scale[None, :, None, None]
    vae.quant_conv.bias[:count] = (vae.quant_conv.bias[:count] - shift) / scale
    vae.quant_conv.weight[:count] /= scale[:, None, None, None]
    vae.quant_conv.bias[count:] -= 2 * scale.log()


def main():
    options = arguments(__doc__, steps=2_200, batch=16)
    pictures, judge = Pictures(options.data), load_teacher(options.out)
    vae = AutoencoderKL.from_pretrained(options.start / "vae", torch_dtype=torch.float32) if options.start else AutoencoderKL(**CONFIG)
    vae.to(memory_format=torch.channels_last)
    if options.start:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    stage = Stage(options.out / "vae.pt", {"vae": vae}, peak=7e-4 if options.start else 1.5e-3, options=options, decay=0.998)
    while stage.step < options.steps:
        generator = torch.Generator().manual_seed(stage.step)
        pixels = pictures[batch_of(pictures.train, 1, stage.step, options.batch)]
        if torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(3)
        loss = loss_of(vae, judge, pixels, generator)
        if stage.learn(loss):
            print(f"held out: {sheet(vae, pictures, options.out / 'vae.png'):.2f} dB", flush=True)
    vae = stage.with_means()["vae"]
    print(f"held out, running mean: {sheet(vae, pictures, options.out / 'vae.png'):.2f} dB")
    if not options.start:
        standardize(vae, pictures)
    vae.save_pretrained(options.out / "model" / "vae")


if __name__ == "__main__":
    main()
