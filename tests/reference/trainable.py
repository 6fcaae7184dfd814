"""Values and gradients of torch's convolutions and normalisations, for tests/it/trainable.rs.

Every result is multiplied by a random tensor and summed; the gradients are those of this sum. Computed in double precision.
Writes tests/fixtures/trainable.safetensors.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/trainable.safetensors"

# kernel, stride, padding, pixels, upsample, batch, in, out, height, width
CONVS = [
    (3, 1, "reflect", 1, 1, 2, 3, 4, 7, 6),
    (3, 2, "reflect", 1, 1, 2, 3, 4, 8, 9),
    (3, 2, "reflect", 1, 1, 9, 2, 3, 7, 7),
    (3, 1, "reflect", 1, 2, 2, 3, 4, 5, 4),
    (3, 1, "zeros", 1, 2, 2, 3, 4, 5, 4),
    (3, 1, "zeros", 1, 1, 1, 5, 2, 6, 7),
    (3, 1, "zeros", 0, 1, 1, 3, 4, 6, 7),
    (3, 2, "zeros", 1, 1, 2, 3, 4, 7, 8),
    (9, 1, "reflect", 4, 1, 1, 3, 4, 9, 8),
    (9, 1, "reflect", 4, 2, 1, 3, 4, 5, 6),
    (9, 1, "reflect", 4, 1, 2, 5, 3, 10, 11),
    (1, 1, "zeros", 0, 1, 2, 5, 4, 6, 5),
    (1, 2, "zeros", 0, 1, 2, 5, 4, 6, 5),
    (4, 2, "zeros", 1, 1, 2, 3, 4, 8, 6),
    (3, 1, "reflect", 1, 2, 1, 2, 3, 2, 2),
]


def main():
    draw = torch.Generator().manual_seed(3)
    tensors = {}

    def random(*shape):
        return torch.randn(shape, generator=draw).double()

    def record(name, names, inputs, function):
        inputs = [tensor.requires_grad_() for tensor in inputs]
        outs = function(*inputs)
        weights = [random(*out.shape) for out in outs]
        gradients = torch.autograd.grad(sum((out * weight).sum() for out, weight in zip(outs, weights)), inputs)
        for index, (out, weight) in enumerate(zip(outs, weights)):
            tensors[f"{name}.out{index}"], tensors[f"{name}.gradient{index}"] = out, weight
        for key, tensor, gradient in zip(names, inputs, gradients):
            tensors[f"{name}.{key}"], tensors[f"{name}.to_{key}"] = tensor, gradient

    for index, (kernel, stride, padding, n, upsample, batch, inputs, outputs, height, width) in enumerate(CONVS):

        def conv(xs, weight, bias):
            xs = xs.repeat_interleave(upsample, 2).repeat_interleave(upsample, 3)
            xs = F.pad(xs, (n,) * 4, mode="reflect" if padding == "reflect" else "constant")
            return (F.conv2d(xs, weight, bias, stride=stride),)

        arguments = random(batch, inputs, height, width), random(outputs, inputs, kernel, kernel), random(outputs)
        record(f"conv.{index}", ["xs", "weight", "bias"], arguments, conv)

    for relu in (False, True):

        def norm(xs, scale, shift):
            out = F.instance_norm(xs, eps=1e-5) * scale[:, :, None, None] + shift[:, :, None, None]
            return (F.relu(out) if relu else out,)

        arguments = random(2, 3, 5, 7) * 2 + 3, random(2, 3), random(2, 3)
        record(f"norm.{int(relu)}", ["xs", "scale", "shift"], arguments, norm)

    def moments(xs):
        return xs.mean((2, 3)), (xs.var((2, 3), unbiased=False) + 1e-5).sqrt()

    record("moments", ["xs"], [random(2, 3, 5, 7) * 2 + 3], moments)
    record("relu", ["xs"], [random(2, 3, 4, 5)], lambda xs: (F.relu(xs),))

    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, OUT)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
