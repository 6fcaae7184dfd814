"""Paints six pictures in as many manners, so that an example may show styles that belong to nobody.

    python scripts/example-paintings.py FOLDER

Needs numpy and Pillow. The same pictures every time: 512x512 JPEGs named after their manner.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 512
SCALE = 2  # painted larger, for smooth edges


def noise(rng, cells, side=SIDE):
    """Smooth noise of 0..1 with `cells` bumps along a side."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1)).astype(np.float32), mode="F")
    values = np.asarray(coarse.resize((side, side), Image.BICUBIC))
    return (values - values.min()) / (values.max() - values.min())


def colours(*codes):
    return np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes], float)


def along(palette, values):
    """Colours between those of a palette, at 0..1."""
    at = np.clip(values, 0, 1) * (len(palette) - 1)
    low = np.minimum(at.astype(int), len(palette) - 2)
    part = (at - low)[..., None]
    return palette[low] * (1 - part) + palette[low + 1] * part


def landscape(rng):
    """What several of them paint: a sky, hills, a field; 0..1 along a palette."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    hills = 0.55 + 0.12 * np.sin(5 * x + 1) + 0.06 * (noise(rng, 6)[0][None, :] - 0.5)
    sky = 0.75 + 0.25 * (1 - y) - 0.35 * np.exp(-(((x - 0.7) ** 2 + (y - 0.25) ** 2) / 0.01))
    field = 0.45 - 0.5 * (y - hills) + 0.25 * (noise(rng, 9) - 0.5)
    return np.where(y < hills, sky + 0.2 * (noise(rng, 5) - 0.5), field)


def blocks(rng):
    """Fields of primary colours between black bars."""
    canvas = Image.new("RGB", (SIDE, SIDE), (240, 236, 224))
    draw = ImageDraw.Draw(canvas)
    fills = ["#d0281e", "#1f4fa3", "#f2c61f", "#f0ece0", "#f0ece0", "#e6e2d6"]

    def divide(left, top, right, bottom, depth):
        wide, high = right - left, bottom - top
        if depth == 0 or max(wide, high) < 90 or (depth < 4 and rng.random() < 0.15):
            draw.rectangle([left, top, right, bottom], fill=fills[rng.integers(len(fills))])
            draw.rectangle([left, top, right, bottom], outline="#15130f", width=int(rng.integers(5, 9)))
            return
        share = rng.uniform(0.3, 0.7)
        if wide > high:
            middle = left + int(wide * share)
            divide(left, top, middle, bottom, depth - 1)
            divide(middle, top, right, bottom, depth - 1)
        else:
            middle = top + int(high * share)
            divide(left, top, right, middle, depth - 1)
            divide(left, middle, right, bottom, depth - 1)

    divide(-4, -4, SIDE + 4, SIDE + 4, 6)
    return canvas


def dots(rng):
    """Points of unmixed colour."""
    tones = landscape(rng)
    palette = colours("1d2f6f", "2f7d4f", "a8b83c", "f0d060", "f4a8b8", "7fb4e8", "e8f0f8")
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), (236, 226, 200))
    draw = ImageDraw.Draw(canvas)
    for _ in range(26_000):
        x, y = rng.integers(0, SIDE, 2)
        tone = tones[y, x] + rng.normal(0, 0.13)
        colour = along(palette, np.array(tone)) + rng.normal(0, 14, 3)
        size = rng.uniform(2.2, 4.0) * SCALE / 1.5
        draw.ellipse(
            [x * SCALE - size, y * SCALE - size, x * SCALE + size, y * SCALE + size],
            fill=tuple(int(c) for c in np.clip(colour, 0, 255)),
        )
    return canvas.resize((SIDE, SIDE), Image.LANCZOS)


def strokes(rng):
    """Long strokes of a loaded brush along a whirling field."""
    tones, field = landscape(rng), noise(rng, 4) * 4 * np.pi
    palette = colours("3a1410", "8c2f1b", "d8702a", "f2b544", "f7e3b0", "6f8f7a", "28475c")
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), (120, 60, 40))
    draw = ImageDraw.Draw(canvas)
    for _ in range(9_000):
        x, y = rng.uniform(0, SIDE, 2)
        tone = tones[int(y), int(x)] + rng.normal(0, 0.07)
        base = along(palette, np.array(tone))
        path = []
        for _ in range(int(rng.integers(6, 14))):
            if not (0 <= x < SIDE and 0 <= y < SIDE):
                break
            angle = field[int(y), int(x)]
            path.append((x * SCALE, y * SCALE))
            x, y = x + 4 * np.cos(angle), y + 4 * np.sin(angle)
        if len(path) < 3:
            continue
        for offset, light in ((0, -26), (-2, 12), (-4, 34)):
            colour = np.clip(base + light + rng.normal(0, 6, 3), 0, 255)
            draw.line([(a, b + offset) for a, b in path], fill=tuple(int(c) for c in colour), width=4, joint="curve")
    return canvas.resize((SIDE, SIDE), Image.LANCZOS)


def woodcut(rng):
    """Black lines that swell where it is dark."""
    tones = landscape(rng)
    tones = (tones - tones.min()) / (tones.max() - tones.min())
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    bent = y + 22 * noise(rng, 5) * np.sin(x / 60) + 60 * noise(rng, 3)
    wave = 0.5 + 0.5 * np.sin(bent * 2 * np.pi / 9)
    ink = 1 / (1 + np.exp((wave - (0.95 - 0.85 * tones)) * 18))
    paper, black, red = colours("efe3c8")[0], colours("1b1714")[0], colours("b4462c")[0]
    sky = (tones > 0.8)[..., None] * 0.55
    ground = paper * (1 - sky) + red * sky
    picture = ground * (1 - ink[..., None]) + black * ink[..., None]
    picture += rng.normal(0, 5, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def watercolour(rng):
    """Transparent washes that dry darker at their edges."""
    grain = 0.9 + 0.2 * noise(rng, 160)
    picture = np.full((SIDE, SIDE, 3), 248.0) * (0.97 + 0.03 * noise(rng, 200)[..., None])
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    palette = colours("2a6f97", "61a5c2", "e07a5f", "81b29a", "f2cc8f", "3d405b", "c8553d")
    for _ in range(46):
        cx, cy, size = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.06, 0.24)
        shape = np.hypot((x - cx) * rng.uniform(0.7, 1.5), y - cy) / size + 0.7 * (noise(rng, 7) - 0.5)
        inside = 1 / (1 + np.exp((shape - 1) * 30))
        edge = np.exp(-(((shape - 0.97) / 0.05) ** 2))
        depth = (inside * rng.uniform(0.25, 0.5) * (0.6 + 0.6 * noise(rng, 4)) + 0.28 * edge) * grain
        colour = palette[rng.integers(len(palette))]
        picture *= 1 - np.clip(depth, 0, 1)[..., None] * (1 - colour / 255)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def mosaic(rng):
    """Little stones in grey mortar."""
    tones = landscape(rng)
    palette = colours("123047", "1f6f78", "58b09c", "e0c068", "c8643c", "7c2f3c", "e8dcc8")
    cells = 40
    step = SIDE / cells
    sites = (np.stack(np.meshgrid(np.arange(-1, cells + 1), np.arange(-1, cells + 1)), -1) + 0.5) * step
    sites = (sites + rng.uniform(-0.34, 0.34, sites.shape) * step).reshape(-1, 2)
    pixels = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    nearest = np.empty((SIDE * SIDE, 2))
    index = np.empty(SIDE * SIDE, int)
    for start in range(0, SIDE * SIDE, 8192):
        distance = np.linalg.norm(pixels[start : start + 8192, None] - sites[None], axis=2)
        two = np.argpartition(distance, 2, axis=1)[:, :2]
        values = np.take_along_axis(distance, two, 1)
        order = np.argsort(values, 1)
        nearest[start : start + 8192] = np.take_along_axis(values, order, 1)
        index[start : start + 8192] = np.take_along_axis(two, order, 1)[:, 0]
    at = np.clip(sites.round().astype(int), 0, SIDE - 1)
    stones = along(palette, tones[at[:, 1], at[:, 0]] + rng.normal(0, 0.08, len(sites))) + rng.normal(0, 9, (len(sites), 3))
    gap = np.clip((nearest[:, 1] - nearest[:, 0]) / 2.2, 0, 1)[:, None]
    picture = stones[index] * gap + np.array([92, 88, 82]) * (1 - gap)
    picture = picture.reshape(SIDE, SIDE, 3) + rng.normal(0, 4, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, paint in enumerate([blocks, dots, strokes, woodcut, watercolour, mosaic]):
        paint(np.random.default_rng(seed)).save(folder / f"{paint.__name__}.jpg", quality=92)


if __name__ == "__main__":
    main()
