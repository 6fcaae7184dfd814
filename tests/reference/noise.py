"""Draws of torch's CPU generator -> tests/fixtures/noise/noise.safetensors.

A key is `seed/name`; each file entry is what the calls in CASES give one after another from one generator.
torch 2.15.0 on x86 with AVX2 (other processors differ in the last bits).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parents[1] / "fixtures/noise/noise.safetensors"

# Shapes drawn in turn from one generator.
CASES = {
    "latents": [[1, 4, 64, 64]],
    "steps": [[1, 4, 8, 8], [1, 4, 8, 8], [2, 4, 5, 7]],
    "tail": [[17], [31], [16], [33], [15], [18]],
    "small": [[1], [2], [3], [15], [1, 3, 2], [7]],
    "mixed": [[3], [40], [3], [0], [1], [16], [2], [5, 5], [4]],
}
SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 42, 2**64 - 1]


def main():
    tensors = {}
    for seed in SEEDS:
        for name, shapes in CASES.items():
            if name == "latents" and seed not in (0, 42):
                continue
            generator = torch.Generator().manual_seed(seed)
            for i, shape in enumerate(shapes):
                tensors[f"{seed}/{name}/{i}"] = torch.randn(shape, generator=generator)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT)
    print(f"{OUT}: {len(tensors)} tensors, {OUT.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
