"""Pictures and captions that the mini model learns from: emoji of seven sets, rendered at 64x64.

    python data.py SETS OUT [--size 64]

SETS is a folder with the unpacked npm packages of the sets (`npm pack @iconify-json/NAME` for each of STYLES below), each as
SETS/NAME/icons.json. OUT gets pictures.npy (uint8, [n, size, size, 3], on white) and pictures.json: concept, style and
words of each, and whether the pair of concept and style is held out (15 %, never shown in training). more.npy and more.json are what else
the sets hold (signs, letters, people): its styles can be learned.

Licences: fluent-emoji* MIT (Microsoft), noto and noto-v1 Apache-2.0 (Google), twemoji and emojione CC BY 4.0 (Twitter and
contributors; JoyPixels).
"""

import argparse
import hashlib
import io
import json
import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from PIL import Image

# The sets, and what a caption may call them.
STYLES = {
    "fluent-emoji": ["glossy 3d", "glossy", "3d render"],
    "fluent-emoji-flat": ["flat", "flat design"],
    "fluent-emoji-high-contrast": ["black and white", "high contrast", "stencil"],
    "noto": ["soft gradient", "noto"],
    "noto-v1": ["blob", "old noto blob"],
    "twemoji": ["simple", "twemoji"],
    "emojione": ["emojione", "bright cartoon"],
}
# Names that draw no thing (skin tones, flags, clocks, letters, arrows, signs), and the many that vary a person.
LEFT_OUT = re.compile(
    r"skin-tone|^flag-|-flag$|^flags?$|^(keycap|clock)-|oclock|-thirty$|button|arrow|^(input|no|up|down|left|right|on|top|regional|"
    r"letter|end|back|soon|light|dark|medium)-|square$|circle$|-(small|large)-|symbol|wheelchair|facing-right|-button|"
    r"^(man|woman|person|people|men|women|mr|mrs|mx|pregnant|family|couple|kiss|deaf|breast|mage|health|role|genderless)-|-(man|woman)$|"
    r"-hands?$|^(aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus)$"
)
VARIANTS = re.compile(r"skin-tone|-(light|medium|dark)$|^flag|^(regional|keycap)-|facing-right")
LEAST_SETS = 5
HELD_OUT = 15  # of a hundred


def words_of(name):
    """'man-mountain-biking' -> 'man mountain biking'."""
    return " ".join(part for part in name.split("-") if part)


def is_held_out(concept, style):
    digest = hashlib.sha256(f"{concept}/{style}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % 100 < HELD_OUT


def render(svg, size):
    """RGB on white, through twice the size for smooth edges."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * size, height=2 * size))
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((size, size), Image.LANCZOS))


def render_all(icons, size):
    """A few of the drawings make the renderer abort: each is rendered in a process that may die."""
    rendered = {}
    todo = list(icons.items())
    while todo:
        with ProcessPoolExecutor(max_workers=1) as pool:
            submitted = [(key, pool.submit(render, svg, size)) for key, svg in todo]
            for at, (key, future) in enumerate(submitted):
                try:
                    rendered[key] = future.result()
                except BrokenProcessPool:
                    print(f"left out: {key}", flush=True)
                    todo = todo[at + 1 :]
                    break
                except Exception as error:  # a drawing that is refused
                    print(f"left out: {key}: {error}", flush=True)
            else:
                todo = []
    return rendered


def drawings(folder):
    """{(concept, style): SVG} of the concepts that are in most of the sets, and of all else but skin tones and flags."""
    sets = {style: json.loads((folder / style / "icons.json").read_text()) for style in STYLES}
    counts = {}
    for icons in sets.values():
        for name in icons["icons"]:
            counts[name] = counts.get(name, 0) + 1
    wanted = {name for name, count in counts.items() if count >= LEAST_SETS and not LEFT_OUT.search(name)}
    found, others = {}, {}
    for style, icons in sets.items():
        side = (icons.get("width", 16), icons.get("height", 16))
        for name, icon in sorted(icons["icons"].items()):
            if name not in wanted and VARIANTS.search(name):
                continue
            width, height = icon.get("width", side[0]), icon.get("height", side[1])
            body = icon["body"].replace("currentColor", "#111")
            (found if name in wanted else others)[name, style] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{body}</svg>'
            )
    return found, others


def write(folder, name, rendered, rows):
    np.save(folder / f"{name}.npy", np.stack(rendered))
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=0) + "\n")


def alike(picture, others):
    """Whether one of the others is nearly the same drawing."""
    return len(others) > 0 and bool((np.abs(others.astype(np.int16) - picture).mean((1, 2, 3)) < 6).any())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    found, others = drawings(options.sets)
    # A drawing that came out empty teaches nothing.
    rendered = {key: picture for key, picture in render_all(found, options.size).items() if picture.min() < 200}
    options.out.mkdir(parents=True, exist_ok=True)
    keys = sorted(rendered)
    rows = [
        {"concept": concept, "style": style, "words": words_of(concept), "held_out": is_held_out(concept, style)}
        for concept, style in keys
    ]
    write(options.out, "pictures", [rendered[key] for key in keys], rows)
    held_out = {style: np.stack([rendered[key] for key, row in zip(keys, rows) if row["held_out"] and key[1] == style]) for style in STYLES}
    more = {key: picture for key, picture in render_all(others, options.size).items() if picture.min() < 200}
    keys = sorted(key for key, picture in more.items() if not alike(picture, held_out[key[1]]))
    write(options.out, "more", [more[key] for key in keys], [{"name": name, "style": style} for name, style in keys])
    print(f"{len(more)} other drawings to tell the styles by, {len(more) - len(keys)} left out as too much like held-out ones")
    concepts = {row["concept"] for row in rows}
    print(f"{len(rows)} pictures of {len(concepts)} concepts, {sum(row['held_out'] for row in rows)} held out")


if __name__ == "__main__":
    main()
