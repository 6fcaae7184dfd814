"""Tiny autoencoders with random weights: diffusers' AutoencoderKL, whole and in tiles.

python tests/reference/vae.py      (torch 2.15.0, diffusers 0.42.1)
"""

import json
import pathlib

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parents[2] / "tests/fixtures/vae"
OUT.mkdir(parents=True, exist_ok=True)
# Height and width; "large" is more than one tile of 32 both ways, with rests that are not whole tiles.
SIZES = {"even": (24, 40), "odd": (27, 33), "large": (60, 84)}
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def randomise(model):
    """Weights large enough that every part of the net shows in its output, and exact in half precision."""
    for name, weight in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        fan_in = weight[0].numel() if weight.dim() > 1 else 25
        weight.data = (centre + torch.randn_like(weight) * fan_in**-0.5).half().float()
    return model.eval()


def older(key, value):
    """The attention as files from before diffusers 0.15 have it: other names, and 1 x 1 convolutions."""
    if ".attentions." not in key:
        return key, value
    for new, old in OLDER.items():
        key = key.replace(f".{new}.", f".{old}.")
    return key, value[:, :, None, None] if value.dim() == 2 else value


@torch.no_grad()
def autoencoder(name, sizes, rename=None, **options):
    torch.manual_seed(3)
    config = {
        "block_out_channels": [8, 16, 24], "layers_per_block": 2, "norm_num_groups": 4, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "sample_size": 32,
    } | options
    model = randomise(AutoencoderKL(**config))
    # Log variances on both sides of the clamp: every channel of them gets an offset of its own.
    last = model.quant_conv or model.encoder.conv_out
    last.bias.data[4:] = (last.bias.data[4:] + torch.tensor([0.0, -29.5, 19.5, 3.0])).half().float()
    weights = dict(rename(*item) if rename else item for item in model.state_dict().items())
    inputs, outputs = {}, {}
    for size in sizes:
        height, width = SIZES[size]
        pixels = torch.rand(1 if size == "large" else 2, 3, height, width) * 2 - 1
        posterior = model.encode(pixels).latent_dist
        noise = torch.randn_like(posterior.mean)
        latents = torch.randn_like(posterior.mean)
        inputs |= {f"{size}.pixels": pixels, f"{size}.noise": noise, f"{size}.latents": latents}
        outputs |= {f"{size}.mean": posterior.mean, f"{size}.logvar": posterior.logvar}
        outputs |= {f"{size}.decoded": model.decode(latents).sample}
        # As DiagonalGaussianDistribution.sample does with noise of its own.
        outputs |= {f"{size}.sample": posterior.mean + posterior.std * noise}
    if "large" in sizes:
        model.enable_tiling()
        tiled = model.encode(inputs["large.pixels"]).latent_dist
        outputs |= {"tiled.mean": tiled.mean, "tiled.logvar": tiled.logvar}
        outputs |= {"tiled.decoded": model.decode(inputs["large.latents"]).sample}

    tensors = {f"weights.{key}": value.half() for key, value in weights.items()}
    tensors |= {f"inputs.{key}": value for key, value in inputs.items()}
    tensors |= {f"outputs.{key}": value for key, value in outputs.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps({key: value for key, value in model.config.items() if key[0] != "_"}, indent=1) + "\n")
    print("wrote", OUT / f"{name}.safetensors", sum(value.numel() for value in weights.values()), "weights")


autoencoder("newer", ["even", "odd", "large"])
autoencoder("older", ["even"], rename=older)
autoencoder(
    "bare", ["odd"],
    use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False, layers_per_block=1,
)
