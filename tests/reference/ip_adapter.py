"""Tokens of diffusers' IP-Adapter projections, and the tiny model's UNet seeing them, for tests/it/ip_adapter.rs.

Run tiny.py first: the adapters are its. Writes tests/fixtures/ip_adapter/.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.loaders import IPAdapterMixin
from safetensors.torch import load_file, save_file

from unet import TINY, inputs, load_unet

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/ip_adapter"
TIMESTEP = 621

# A scale as the program's users write it, and as diffusers wants it.
BLOCKS = {
    "style": {"up": {"block_1": 1.0}},
    "composition": {"down": {"block_2": 1.0}, "mid": 1.0},
    "style+composition": {"down": {"block_2": 1.0}, "mid": 1.0, "up": {"block_1": 1.0}},
    "down.1=0.3,mid=-0.5,up_blocks.3=0.8": {"down": {"block_1": 0.3}, "mid": -0.5, "up": {"block_3": 0.8}},
    "up_blocks.2=0.5,up_blocks.2.attentions.1=1.5": {"up": {"block_2": [0.5, 1.5, 0.5]}},
    "mid=1": {"mid": 1.0},
}
SCALE = 0.75


def load_adapter(name):
    """A flat file into the two groups diffusers wants."""
    state = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(TINY / f"{name}.safetensors").items():
        group, key = key.split(".", 1)
        state[group][key] = tensor.float()
    return state


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(11)
    tensors = {}
    xs, text = inputs(load_unet("model"), 2, 9, 13, 10)
    tensors |= {"xs": xs, "text": text}

    def evaluate(names, features, scales):
        """`features`: per adapter [2, pictures, ..], the unconditional row first; one scale (number or blocks) each."""
        unet = load_unet("model")
        unet._load_ip_adapter_weights([load_adapter(name) for name in names], low_cpu_mem_usage=False)
        IPAdapterMixin.set_ip_adapter_scale(SimpleNamespace(unet=unet, unet_name="unet"), scales)
        tokens = [tokens.flatten(1, 2) for tokens in unet.encoder_hid_proj(features)]
        return tokens, unet(xs, TIMESTEP, text, added_cond_kwargs={"image_embeds": features}).sample

    shapes = {"ip-adapter": (24,), "ip-adapter-plus": (10, 32), "ip-adapter-full": (7, 32)}
    both = {}
    for name, shape in shapes.items():
        pictures = torch.randn(2, *shape, generator=draw)
        nothing = torch.zeros(1, *shape) if name == "ip-adapter" else torch.randn(1, *shape, generator=draw)
        tensors |= {f"{name}.pictures": pictures, f"{name}.nothing": nothing}
        one = torch.stack([nothing, pictures[:1]])
        two = torch.stack([nothing.expand_as(pictures), pictures])
        tokens, out = evaluate([name], [one], 1.0)
        tensors |= {f"{name}.one.tokens": tokens[0], f"{name}.one.out": out}
        tokens, out = evaluate([name], [two], 0.6)
        tensors |= {f"{name}.two.tokens": tokens[0], f"{name}.two.out": out}
        both[name] = one

    names = ["ip-adapter", "ip-adapter-plus"]
    _, out = evaluate(names, [both[name] for name in names], [0.7, {"up": {"block_1": 0.9}}])
    tensors["both.out"] = out

    times = lambda entry: {k: times(v) for k, v in entry.items()} if isinstance(entry, dict) else (
        [times(v) for v in entry] if isinstance(entry, list) else entry * SCALE)
    for index, blocks in enumerate(BLOCKS.values()):
        _, out = evaluate(["ip-adapter"], [both["ip-adapter"]], times(blocks))
        tensors[f"blocks.{index}.out"] = out
    (OUT / "blocks.json").write_text(json.dumps({"scale": SCALE, "blocks": list(BLOCKS)}, indent=1) + "\n")

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, OUT / "cases.safetensors")
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:9} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
