"""Fixtures of src/weights: the same tensors in every form people store them in.

Run: python tests/reference/checkpoints.py   (torch 2.15.0, safetensors 0.8; writes tests/fixtures/checkpoints)
"""
import collections
import json
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "checkpoints"
OUT.mkdir(parents=True, exist_ok=True)


def forms():
    """One state dictionary as safetensors (three types), zip pickles and the form before PyTorch 1.6."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator).to(torch.bfloat16).to(torch.float16).float()
    # bf16 -> f16 -> f32 leaves numbers that every type holds exactly.
    kernel = torch.randint(-8, 8, (3, 2, 2, 2), generator=generator).float() / 4
    state = {"net.weight": matrix, "net.conv.weight": kernel, "ids": torch.arange(5).unsqueeze(0)}
    for name, dtype in [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]:
        typed = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        save_file(typed, OUT / f"{name}.safetensors")
        torch.save(collections.OrderedDict(typed), OUT / f"{name}.bin")
    torch.save(state, OUT / "legacy.ckpt", _use_new_zipfile_serialization=False)

    whole = torch.stack([matrix, matrix * 2])
    views = {
        "state_dict": {
            "transposed": matrix.t(),
            "slice": whole[1],
            "channels_last": kernel.to(memory_format=torch.channels_last),
            "column": matrix[:, 2],
            "expanded": matrix[0, :1].expand(3),
            "parameter": torch.nn.Parameter(matrix),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
            "double": matrix.double(),
        },
        "epoch": 3,
        "loss": 0.25,
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}},
        "when": __import__("datetime").date(2024, 1, 1),
    }
    torch.save(views, OUT / "views.ckpt")
    adapter = {
        "image_proj": {"proj.weight": matrix, "norm.weight": matrix[0].clone()},
        "ip_adapter": {"1.to_k_ip.weight": kernel.flatten(1)},
    }
    torch.save(adapter, OUT / "nested.bin")
    torch.save(torch.nn.Linear(2, 2), OUT / "module.pt")

    expected = {k: v.flatten().tolist() for k, v in state.items()}
    expected |= {"views." + k: v.detach().flatten().tolist() for k, v in views["state_dict"].items()}
    shapes = {k: list(v.shape) for k, v in state.items()}
    shapes |= {"views." + k: list(v.shape) for k, v in views["state_dict"].items()}
    with open(OUT / "values.json", "w") as file:
        json.dump({"values": expected, "shapes": shapes}, file)


def main():
    torch.manual_seed(0)
    forms()
    for path in sorted(OUT.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
