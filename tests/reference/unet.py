"""Evaluations of diffusers' UNet for tests/it/unet.rs: the tiny models' UNets at even and odd sizes, and a distilled one.

Run tiny.py first: its models are read here. Writes tests/fixtures/unet/.
"""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from tiny import fill

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/fixtures/tiny"
OUT = ROOT / "tests/fixtures/unet"

# name: (model folder, batch, height, width, timestep)
CASES = {
    "even": ("model", 2, 16, 8, 999),
    "odd": ("model", 2, 9, 13, 500.25),
    "sliver": ("model", 1, 1, 3, 0),
    "inpaint": ("inpaint", 2, 8, 12, 41),
    "v-prediction": ("v-prediction", 2, 10, 8, 761),
}


def load_unet(name):
    return UNet2DConditionModel.from_pretrained(TINY / name / "unet", torch_dtype=torch.float32).eval()


def distilled():
    """No middle block, blocks of different depth, the guidance scale as an input: what distilled models do."""
    config = dict(
        sample_size=8, block_out_channels=(8, 12, 16), layers_per_block=(1, 2, 1), mid_block_type=None,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
        attention_head_dim=(1, 2, 4), cross_attention_dim=20, time_cond_proj_dim=10, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1, transformer_layers_per_block=(1, 2, 1), norm_eps=1e-4,
    )
    return fill(UNet2DConditionModel(**config), "distilled")


def inputs(unet, batch, height, width, seed):
    draw = torch.Generator().manual_seed(seed)
    xs = torch.randn(batch, unet.config.in_channels, height, width, generator=draw)
    return xs, torch.randn(batch, 77, unet.config.cross_attention_dim, generator=draw)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tensors, cases = {}, {}
    for seed, (name, (folder, batch, height, width, timestep)) in enumerate(CASES.items()):
        unet = load_unet(folder)
        xs, text = inputs(unet, batch, height, width, seed)
        tensors |= {f"{name}.xs": xs, f"{name}.text": text, f"{name}.out": unet(xs, timestep, text).sample}
        cases[name] = {"model": folder, "timestep": timestep}

    unet, guidance = distilled(), 8.5
    xs, text = inputs(unet, 1, 7, 10, 100)
    weight = torch.tensor([guidance - 1])
    width = unet.config.time_cond_proj_dim
    condition = StableDiffusionPipeline.get_guidance_scale_embedding(None, weight, embedding_dim=width)
    out = unet(xs, 799, text, timestep_cond=condition).sample
    tensors |= {"distilled.xs": xs, "distilled.text": text, "distilled.out": out}
    save_file({name: tensor.half() for name, tensor in unet.state_dict().items()}, OUT / "distilled.safetensors")
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    (OUT / "distilled.json").write_text(json.dumps(config, indent=1) + "\n")

    save_file(tensors, OUT / "cases.safetensors")
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:9} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
