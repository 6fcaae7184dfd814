"""Colour transfer and the style losses with their gradients, for tests/it/style.rs.

Colours in numpy: CORAL as in Gatys et al.'s code for "Controlling perceptual factors" (`match_color`, mode pca), histograms as
scikit-image's `match_histograms` but rounded, luminance as Rec. 601 luma with the colour paled into the gamut.
Writes tests/fixtures/style/colour.safetensors.
"""

from pathlib import Path

import numpy as np
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


def main():
    OUT.mkdir(exist_ok=True)
    colours()


if __name__ == "__main__":
    main()
