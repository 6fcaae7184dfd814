"""Colour transfer and the style losses with their gradients, for tests/it/style.rs.

Colours in numpy: CORAL as in Gatys et al.'s code for "Controlling perceptual factors" (`match_color`, mode pca), histograms as
scikit-image's `match_histograms` but rounded, luminance as Rec. 601 luma with the colour paled into the gamut.
Losses in torch with autograd, in double precision: the Wasserstein distance as in Katherine Crowson's style-transfer-pytorch, its
matrix roots by eigenvalues instead of twelve steps of Newton-Schulz.
Writes tests/fixtures/style/{colour,loss,optimizer}.safetensors.
"""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/style"
LUMA = np.array([0.299, 0.587, 0.114])


def to_bytes(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def coral(style, content, ridge=1e-5):
    def moments(picture):
        rows = picture.reshape(-1, 3).T / 255.0
        mean = rows.mean(1, keepdims=True)
        rows = rows - mean
        return rows, mean, rows @ rows.T / rows.shape[1] + ridge * np.eye(3)

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values)) @ vectors.T

    rows, _, covariance = moments(style)
    _, mean, wanted = moments(content)
    moved = root(wanted) @ np.linalg.inv(root(covariance)) @ rows + mean
    return to_bytes(255.0 * moved.T.reshape(style.shape))


def histogram(style, content):
    out = np.empty_like(style)
    for channel in range(3):
        ours, theirs = style[..., channel].ravel(), content[..., channel].ravel()
        _, lookup, counts = np.unique(ours, return_inverse=True, return_counts=True)
        values, wanted = np.unique(theirs, return_counts=True)
        moved = np.interp(np.cumsum(counts) / ours.size, np.cumsum(wanted) / theirs.size, values)
        out[..., channel] = to_bytes(moved[lookup].reshape(style.shape[:2]))
    return out


def luminance(painted, content):
    luma = painted @ LUMA
    colour = content - (content @ LUMA)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(colour > 0, (255.0 - luma[..., None]) / colour, np.where(colour < 0, luma[..., None] / -colour, 1.0))
    share = np.minimum(room.min(-1), 1.0)[..., None]
    return to_bytes(luma[..., None] + share * colour)


def colours():
    draw = np.random.default_rng(5)
    # Correlated channels, clipped here and there, as pictures have them.
    def picture(height, width, spread):
        mixed = draw.normal(size=(height, width, 3)) @ draw.normal(size=(3, 3)) * spread + draw.uniform(60, 200, 3)
        return to_bytes(mixed)

    content, style = picture(13, 17, 40.0), picture(11, 19, 30.0)
    painted = picture(13, 17, 60.0)
    tensors = {
        "content": content,
        "style": style,
        "painted": painted,
        "coral": coral(style, content),
        "histogram": histogram(style, content),
        "luminance": luminance(painted.astype(np.float64), content.astype(np.float64)),
    }
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, OUT / "colour.safetensors")


def gram(features, style):
    def matrix(xs):
        rows = xs[0].flatten(1)
        return rows @ rows.T / rows.numel()

    return ((matrix(features) - matrix(style)) ** 2).mean()


def moments(features, style):
    def both(xs):
        return xs.mean((2, 3)), (xs.var((2, 3), unbiased=False) + 1e-5).sqrt()

    (mean, deviation), (style_mean, style_deviation) = both(features), both(style)
    return ((mean - style_mean) ** 2).mean() + ((deviation - style_deviation) ** 2).mean()


def root(matrix):
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp(min=1e-20).sqrt()) @ vectors.T


def wasserstein(features, style):
    def both(xs):
        rows = xs[0].flatten(1)
        mean = rows.mean(1)
        second = rows @ rows.T / rows.shape[1]
        return mean, second - torch.outer(mean, mean) + 1e-4 * torch.eye(len(mean), dtype=xs.dtype)

    (mean, covariance), (style_mean, style_covariance) = both(features), both(style)
    half = root(style_covariance)
    overlap = root(half @ covariance @ half)
    return ((mean - style_mean) ** 2).mean() + torch.diagonal(covariance + style_covariance - 2 * overlap).mean()


def content(features, style):
    return ((features - style) ** 2).mean()


def total_variation(features, _):
    across, down = features[..., 1:] - features[..., :-1], features[..., 1:, :] - features[..., :-1, :]
    return (across**2).mean() + (down**2).mean()


def losses():
    draw = torch.Generator().manual_seed(7)
    mix = torch.randn(12, 12, generator=draw).double()
    # Rectified and correlated, as features are, some channels a hundred times weaker, a wide one and a still one.
    strength = torch.logspace(0, -2, 12, dtype=torch.float64).view(1, 12, 1, 1)

    def features(height, width, shift):
        rows = torch.einsum("ck,bkhw->bchw", mix, torch.randn(1, 12, height, width, generator=draw).double())
        return ((rows + shift).clamp(min=0) * strength).float().double()

    ours, style, other = features(9, 7, 0.0), features(8, 11, 1.5), features(9, 7, 0.7)
    tensors = {"features": ours, "style": style, "other": other}
    for loss, target in [(gram, style), (moments, style), (wasserstein, style), (content, other), (total_variation, None)]:
        xs = ours.clone().requires_grad_(True)
        value = loss(xs, target)
        (gradient,) = torch.autograd.grad(value, xs)
        tensors[f"{loss.__name__}.value"], tensors[f"{loss.__name__}.gradient"] = value.detach().view(1), gradient
    safetensors.torch.save_file({name: xs.float().contiguous() for name, xs in tensors.items()}, OUT / "loss.safetensors")


def optimizers():
    """Rosenbrock's valley in eight dimensions, which needs curvature, from one start. L-BFGS in double precision: in single, torch
    itself is 3e-3 from its own double precision after 30 steps."""
    start = torch.tensor([-1.2, 1.0, 0.4, -0.3, 0.8, 1.3, -0.6, 0.2])
    tensors = {"start": start}

    def loss(xs):
        return (100 * (xs[1:] - xs[:-1] ** 2) ** 2 + (1 - xs[:-1]) ** 2).sum() / 100

    for name, dtype, make in [
        ("adam", torch.float32, lambda xs: torch.optim.Adam([xs], lr=0.02, betas=(0.9, 0.99), eps=1e-8)),
        ("lbfgs", torch.float64, lambda xs: torch.optim.LBFGS([xs], lr=1.0, max_iter=1, history_size=3, tolerance_grad=0.0, tolerance_change=0.0)),
    ]:
        xs = start.to(dtype, copy=True).requires_grad_(True)
        optimizer = make(xs)

        def closure():
            optimizer.zero_grad()
            value = loss(xs)
            value.backward()
            return value

        path = []
        for _ in range(30):
            optimizer.step(closure)
            path.append(xs.detach().clone())
        tensors[name] = torch.stack(path)
    safetensors.torch.save_file(tensors, OUT / "optimizer.safetensors")


def main():
    OUT.mkdir(exist_ok=True)
    colours()
    losses()
    optimizers()


if __name__ == "__main__":
    main()
