"""Makes tests/fixtures/stylize: untrained nets of a few kilobytes, for the tests of `impasto stylize`.

    python tests/reference/stylize.py

They paint nothing worth looking at; what they paint depends on the photo and on the style, which is all the tests need.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).parent.parent / "fixtures" / "stylize"


def uniform(rng, gain, *shape):
    bound = gain / np.sqrt(np.prod(shape[1:]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def compact(seed):
    """Names and shapes of nets::adain::compact with the sizes below."""
    rng = np.random.default_rng(seed)
    painter, blocks, style, hidden = (4, 6, 8), 1, (4, 4, 6, 8), 8
    tensors = {}

    def layer(name, inputs, outputs, kernel):
        tensors[f"{name}.weight"] = uniform(rng, 1.7, outputs, inputs, kernel, kernel)
        tensors[f"{name}.bias"] = uniform(rng, 0.5, outputs)

    inputs = 3
    for scale, width in enumerate(style):
        layer(f"style.{scale}.down", inputs, width, 3)
        if scale:
            layer(f"style.{scale}.mix", width, width, 3)
        inputs = width
    full, half, quarter = painter
    layer("down.0", 3, full, 5)
    layer("down.1", full, half, 3)
    layer("down.2", half, quarter, 3)
    for index in range(2 * blocks):
        layer(f"residual.{index}", quarter, quarter, 3)
    layer("up.0", quarter, half, 3)
    layer("up.1", half, full, 3)
    layer("bare", full, 3, 5)
    modulated = full + half + quarter + 2 * blocks * quarter + half + full
    code = 2 * modulated + quarter
    for name, rows, columns in [("hidden", hidden, 2 * sum(style)), ("modulation", code, hidden)]:
        tensors[f"{name}.weight"] = uniform(rng, 2.0, rows, columns)
        tensors[f"{name}.bias"] = np.zeros(rows, np.float32)
    return tensors


def fast(seed, styles):
    """Names and shapes of nets::fast, the conditional flavour."""
    rng = np.random.default_rng(seed)
    (a, b, c), (d, e) = (4, 6, 8), (6, 4)
    tensors = {}

    def layer(name, inputs, outputs, kernel, last=False):
        tensors[f"{name}.w"] = uniform(rng, 1.7, outputs, inputs, kernel, kernel)
        if last:
            tensors[f"{name}.b"] = uniform(rng, 0.5, outputs)
        else:
            tensors[f"{name}.norm.gamma"] = rng.uniform(0.5, 1.5, (styles, outputs)).astype(np.float32)
            tensors[f"{name}.norm.beta"] = rng.uniform(-1, 1, (styles, outputs)).astype(np.float32)

    layer("contract.0", 3, a, 9)
    layer("contract.1", a, b, 3)
    layer("contract.2", b, c, 3)
    for half in range(2):
        layer(f"res.0.{half}", c, c, 3)
    layer("expand.0", c, d, 3)
    layer("expand.1", d, e, 3)
    layer("expand.2", e, 3, 9, last=True)
    return tensors


def vgg16(seed):
    """torchvision's names, eight channels all the way, blocks 1 to 4."""
    rng = np.random.default_rng(seed)
    tensors, inputs = {}, 3
    for number in [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]:
        tensors[f"features.{number}.weight"] = uniform(rng, 2.4, 8, inputs, 3, 3)
        tensors[f"features.{number}.bias"] = uniform(rng, 0.1, 8)
        inputs = 8
    return tensors


OUT.mkdir(exist_ok=True)
save_file(vgg16(2), OUT / "vgg16.safetensors")
save_file(compact(0), OUT / "adain.safetensors")
save_file(fast(0, 1), OUT / "fast.safetensors")
save_file(fast(1, 3), OUT / "fast-three.safetensors")
