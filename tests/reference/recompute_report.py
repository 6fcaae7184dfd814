"""Measures the pictures of a report of `impasto compare` again, and sums them up again, in Python.

    python tests/reference/recompute_report.py REPORT [--shared SHARED] [--judge se5|hed]

SSIM, MS-SSIM, the F-score of Canny's edges and the histogram distance of every row are measured by the programs that
tests/reference/metrics.py names (install what it says), from the PNGs, the photos and the paintings. With --shared, a folder with
weights/wct16x_se5.safetensors and weights/hed_vgg16.safetensors, content and style distance too, if --judge measured the report. Medians and intervals of all
metrics are summed up from results.csv as tests/reference/report.py does, and held against those in report.html.
Run it where the comparison was run: paths are as they were given to it. Pillow must be the pinned 12.3.0: 13 resizes in another
order where a picture gets wider and lower.
"""

import argparse
import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from metrics import ROOT, canny, f_score, hellinger, histogram, structural, tensor
from PIL import Image, ImageOps
from report import spread

import torch

# Values pass through eight bits nowhere but in the pictures: what is left is rounding. Canny's edges turn on single levels.
TOLERANCE = {"ssim": 1e-6, "ms-ssim": 1e-6, "edge-f-canny": 1e-9, "histogram-distance": 1e-5,
             "content-distance": 1e-4, "style-distance": 1e-4}


def opened(path):
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def resized(picture, size):
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS))


def long_side(picture, side):
    scale = side / max(picture.size)
    return tuple(max(1, int(edge * scale + 0.5)) for edge in picture.size)


def judge_of(shared, name):
    place = importlib.util.spec_from_file_location("style_quality", ROOT / "benches/style_quality.py")
    judge = importlib.util.module_from_spec(place)
    sys.modules["style_quality"] = judge
    place.loader.exec_module(judge)
    net = judge.load_networks(shared)[name]
    f32 = lambda picture: tensor(picture, torch.float32)
    return (lambda a, b: float(judge.content_distance(net, f32(a), f32(b))),
            lambda a, b: float(judge.style_distance(net, f32(a), f32(b))))


def measured(row, folder, side, judge):
    photo, style = opened(row["content"]), opened(row["style"])
    painting = resized(style, long_side(style, side))
    if row["picture"]:
        painted = as_style = np.asarray(opened(folder / row["picture"]))
        photo = resized(photo, (painted.shape[1], painted.shape[0]))
    else:
        photo = resized(photo, long_side(photo, side))
        identity = row["method"] == "identity"
        painted = photo if identity else resized(Image.fromarray(painting), (photo.shape[1], photo.shape[0]))
        as_style = photo if identity else painting
    found = structural(photo.astype(int), painted.astype(int))
    found["edge-f-canny"] = f_score(canny(painted), canny(photo))
    found["histogram-distance"] = hellinger(histogram(as_style), histogram(painting))
    if judge:
        found["content-distance"] = judge[0](painted, photo)
        found["style-distance"] = judge[1](as_style, painting)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--judge", choices=["se5", "hed"], default="se5", help="the network that measured the report")
    args = parser.parse_args()
    page = (args.report / "report.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    rows = list(csv.DictReader((args.report / "results.csv").open(newline="")))
    side = max(max(row["size"]) for row in data["report"]["rows"])
    judge = judge_of(args.shared, args.judge) if args.shared else None
    worst, wrong = {}, 0
    for row in rows:
        if row["error"]:
            continue
        for name, value in measured(row, args.report, side, judge).items():
            if not row.get(name):
                continue
            off = abs(value - float(row[name]))
            worst[name] = max(worst.get(name, (0, "")), (off, f"{row['variant']} {row['content']} {row['style']}"))
            wrong += off > TOLERANCE[name] * max(1, abs(value))
    for name, (off, where) in worst.items():
        print(f"{name:20} off by at most {off:.1e}  ({where})")
    summed = 0
    for variant, cells in enumerate(data["summary"]["cells"]):
        for metric, cell in zip(data["report"]["metrics"], cells):
            own = [row for row, entry in zip(rows, data["report"]["rows"]) if entry["variant"] == variant]
            values = [float(row[metric["name"]]) for row in own if row[metric["name"]]]
            if not values:
                assert cell is None
                continue
            for key, value in spread(values).items():
                wrong += abs(cell[key] - value) > 1e-9 * max(1, abs(value))
                summed += 1
    print(f"{len(rows)} rows, {summed} sums, {wrong} of all wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
