"""Chains of VGG convolutions by torch 2.15.0, and torch's gradients to the picture -> tests/fixtures/vgg/.

Each kind is torch's own modules put together as its authors do, with few channels. Weights, pictures and the loss come from a
formula that the test repeats, so only names, shapes and results are kept: `vgg.json` says what a file of each kind holds.
The loss is the sum of all features asked for, each times a weight of its own.
"""

import json
from pathlib import Path

import torch
from depth import noise
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).parents[1] / "fixtures/vgg"
BLOCKS = {16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}
TORCHVISION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CAFFE = ([103.939, 116.779, 123.68], None)
HED = ([104.00699, 116.66877, 122.67892], None)

# The first biases and the first filter of the VGG group's VGG-16, and two of its filters summed for blue, green and red.
CAFFE_BIASES = [0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249]
CAFFE_FILTER = [0.4295, 0.3735, -0.0614, 0.2748, 0.0387, -0.3672, -0.0575, -0.2622, -0.3501]
CAFFE_COLOURS = {1: [0.77, 0.38, -1.06], 5: [2.01, -1.25, -0.39]}


def values(name, shape):
    return torch.from_numpy(noise(name, int(torch.Size(shape).numel())).reshape(shape))


class Prepare(nn.Module):
    """RGB from 0 to 1 to RGB of that mean and deviation, or to BGR from 0 to 255 less a mean in BGR."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = torch.tensor(mean).view(1, 3, 1, 1), std

    def forward(self, xs):
        if self.std is None:
            return xs.flip(1) * 255 - self.mean
        return (xs - self.mean) / torch.tensor(self.std).view(1, 3, 1, 1)


def conv(kind, name, inputs, outputs, kernel, padding):
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding)
    with torch.no_grad():
        layer.weight.copy_(values(f"{kind}/{name}.weight", layer.weight.shape) * (6 / (inputs * kernel**2)) ** 0.5)
        layer.bias.copy_(values(f"{kind}/{name}.bias", layer.bias.shape) * 0.2)
    return layer


def chain(kind, blocks, widths, names, prepare, mirror, ceil, pooling):
    """The modules, the names of the rectifiers among them by position, and the convolutions by name."""
    modules, taps, convs, inputs, before = list(prepare), {}, {}, 3, 0
    for block, (count, outputs) in enumerate(zip(blocks, widths), 1):
        if block > 1:
            modules.append((nn.MaxPool2d if pooling == "max" else nn.AvgPool2d)(2, 2, ceil_mode=ceil))
        for index in range(1, count + 1):
            if mirror:
                modules.append(nn.ReflectionPad2d(1))
            name = names(block, index, before)
            convs[name] = conv(kind, name, inputs, outputs, 3, 0 if mirror else 1)
            modules += [convs[name], nn.ReLU()]
            taps[len(modules) - 1] = f"{block}_{index}"
            inputs, before = outputs, before + 1
    return modules, taps, convs


def weigh(modules, taps, heads, asked, case, picture, results):
    """Runs the chain, keeps small results, and the gradient of the weighted sum of those asked for."""
    xs, found = picture, {}
    for number, module in enumerate(modules):
        xs = module(xs)
        if number in taps:
            found[taps[number]] = xs
    loss = 0
    for name in asked:
        place = name.removeprefix("relu").removeprefix("narrow")
        features = found[place]
        if name.startswith("relu") and place in heads:
            features = torch.relu(heads[place](features))
        loss = loss + (features * values(f"{case}/{name}", features.shape)).mean()
        if features.numel() <= 600:
            results[f"{case}/{name}"] = features.detach()
    results[f"{case}/gradient"] = torch.autograd.grad(loss, picture)[0]


def numbered(prefix, step, first):
    return lambda block, index, before: f"{prefix}{step * before + block - 1 + first}"


def by_block(pattern):
    return lambda block, index, before: pattern.format(block, index)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    results, shapes = {}, {}
    kinds = {
        # depth, widths, names, preparation, mirrored edges, pools that keep an odd line
        "vgg16": (16, [4, 6, 8, 8, 8], numbered("features.", 2, 0), TORCHVISION, False, False),
        "vgg19": (19, [4, 6, 8, 8, 8], numbered("features.", 2, 0), TORCHVISION, False, False),
        "vgg16-caffe": (16, [8, 4, 4, 4, 4], by_block("conv{}_{}"), CAFFE, False, False),
        "vgg19-caffe": (19, [8, 4, 4, 4, 4], numbered("features.", 2, 0), CAFFE, False, False),
        "vgg-normalised": (19, [4, 6, 8, 8, 8], numbered("", 3, 2), None, True, True),
        "hed": (16, [4, 6, 8, 8, 8], by_block("conv{}_{}"), HED, False, True),
    }
    for kind, (depth, widths, names, preparation, mirror, ceil) in kinds.items():
        for pooling in ["max", "average"]:
            prepare = [Prepare(*preparation)] if preparation else [conv(kind, "0", 3, 3, 1, 0)]
            modules, taps, convs = chain(kind, BLOCKS[depth], widths, names, prepare, mirror, ceil, pooling)
            if kind.endswith("caffe"):
                name, first = next(iter(convs.items()))
                with torch.no_grad():
                    first.bias[:8] = torch.tensor(CAFFE_BIASES)
                    first.weight[0] = torch.tensor(CAFFE_FILTER).view(3, 3)
                    for number, sums in CAFFE_COLOURS.items():
                        first.weight[number] = torch.tensor(sums).view(3, 1, 1) / 9
                results[f"{kind}/{name}.weight"], results[f"{kind}/{name}.bias"] = first.weight.detach(), first.bias.detach()
            if preparation is None:
                convs["0"] = prepare[0]
            shapes[kind] = {f"{name}.weight": list(layer.weight.shape) for name, layer in convs.items()}
            for height, width in [(16, 24), (21, 19)] if not mirror else [(21, 19), (32, 17)]:
                picture = (values(f"{height}x{width}", (1, 3, height, width)) / 2 + 0.5).requires_grad_()
                asked = ["relu1_1", "relu2_1", "relu3_2", "relu4_1", "relu5_1"]
                weigh(modules, taps, {}, asked, f"{kind}/{pooling}/{height}x{width}", picture, results)
    shapes["hed"]["dsn1.weight"] = [1, 4, 1, 1]

    for deepest, (height, width) in [(3, (19, 16)), (5, (35, 32))]:
        kind, blocks = f"distilled{deepest}", BLOCKS[19][: deepest - 1] + [1]
        prepare = conv(kind, "conv0", 3, 3, 1, 0)
        widths = [4, 6, 8, 8, 8]
        modules, taps, convs = chain(kind, blocks, widths, by_block("conv{}{}"), [prepare], True, False, "max")
        heads = {f"{block}_1": conv(kind, f"conv{block}1_aux", n, 2 * n, 1, 0) for block, n in enumerate(widths[:deepest], 1)}
        layers = {"conv0": prepare, **convs, **{f"conv{name[0]}1_aux": head for name, head in heads.items()}}
        shapes[kind] = {f"{name}.weight": list(layer.weight.shape) for name, layer in layers.items()}
        picture = (values(f"{height}x{width}", (2, 3, height, width)) / 2 + 0.5).requires_grad_()
        asked = ["narrow1_2", "relu2_1", "narrow2_1", f"relu{deepest}_1", f"narrow{deepest}_1"]
        weigh(modules, taps, heads, asked, f"{kind}/max/{height}x{width}", picture, results)

    save_file({name: tensor.contiguous() for name, tensor in results.items()}, OUT / "vgg.safetensors")
    (OUT / "vgg.json").write_text(json.dumps(shapes).replace('}, "', '},\n"') + "\n")
    for name, tensor in results.items():
        print(name, tuple(tensor.shape), tensor.min().item(), tensor.max().item())
    print(f"{OUT}: {sum(file.stat().st_size for file in OUT.iterdir())} bytes")


if __name__ == "__main__":
    main()
