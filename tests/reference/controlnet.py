"""Evaluations of diffusers' ControlNet for tests/it/controlnet.rs, alone and steering the tiny model's UNet.

Run tiny.py first. Writes tests/fixtures/controlnet/.
"""

from pathlib import Path

import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from unet import TINY, inputs, load_unet

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/controlnet"
TIMESTEP = 333.5
SCALE = 0.6


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    unet = load_unet("model")
    controlnet = ControlNetModel.from_pretrained(TINY / "controlnet", torch_dtype=torch.float32).eval()
    xs, text = inputs(unet, 2, 9, 13, 7)
    maps = torch.rand(1, 3, 72, 104, generator=torch.Generator().manual_seed(8))
    maps = (maps * 255).round() / 255
    tensors = {"xs": xs, "text": text, "map": maps}

    def run(name, latents, text, **more):
        images = maps.expand(len(latents), -1, -1, -1)
        down, mid = controlnet(latents, TIMESTEP, text, images, SCALE, return_dict=False, **more)
        # The deep residuals say the most and are small; the others show in the UNet's output.
        tensors.update({f"{name}.0": down[0], f"{name}.4": down[4], f"{name}.11": down[11], f"{name}.mid": mid})
        return down, mid

    down, mid = run("plain", xs, text)
    out = unet(xs, TIMESTEP, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
    tensors["plain.out"] = out.sample

    down, mid = run("guess", xs[1:], text[1:], guess_mode=True)
    down = [torch.cat([torch.zeros_like(d), d]) for d in down]
    mid = torch.cat([torch.zeros_like(mid), mid])
    out = unet(xs, TIMESTEP, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
    tensors["guess.out"] = out.sample

    controlnet.register_to_config(controlnet_conditioning_channel_order="bgr")
    run("bgr", xs[1:], text[1:])
    controlnet.register_to_config(controlnet_conditioning_channel_order="rgb", global_pool_conditions=True)
    down, mid = run("pooled", xs, text)
    out = unet(xs, TIMESTEP, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
    tensors["pooled.out"] = out.sample

    path = OUT / "cases.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    print(f"{path.stat().st_size:9} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
