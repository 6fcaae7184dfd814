"""Edges by OpenCV 4.11.0 on RGB arrays -> tests/fixtures/canny/.

The pictures are tests/fixtures/image/*.png (see images.py) and noise made by a formula that the test repeats. One result is
kept whole for looking at, all as hashes of the edge map with its count of edge pixels.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FIXTURES = Path(__file__).parents[1] / "fixtures"
OUT = FIXTURES / "canny"
PICTURES = ["astronaut", "chelsea", "coffee", "rocket", "noise"]
THRESHOLDS = [(100, 200), (50, 200), (200, 100), (0, 0), (10, 30), (100.9, 200.9), (31.9, 61.9), (-5, 40), (300, 900), (150, 5000)]


def formula(width, height, modulus):
    """Pixels of a linear congruential generator; a small modulus gives plateaus and ties between channels."""
    state, values = 12345 + 7 * width + height, []
    for _ in range(width * height * 3):
        state = (1664525 * state + 1013904223) % 2**32
        values.append((state >> 16) % modulus * (255 // (modulus - 1)))
    return np.array(values, np.uint8).reshape(height, width, 3)


def main():
    pictures = {name: np.array(Image.open(FIXTURES / f"image/{name}.png").convert("RGB")) for name in PICTURES}
    for width, height in [(64, 48), (1, 1), (1, 9), (9, 1), (2, 2), (3, 7), (33, 5)]:
        for modulus in [2, 3, 6, 256]:
            pictures[f"{width}x{height}/{modulus}"] = formula(width, height, modulus)
    cases = []
    for name, picture in pictures.items():
        for low, high in THRESHOLDS:
            edges = cv2.Canny(picture, low, high)
            digest = hashlib.sha256(edges.tobytes()).hexdigest()
            cases.append({"picture": name, "low": low, "high": high, "edges": int((edges > 0).sum()), "sha256": digest})
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "canny.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    Image.fromarray(cv2.Canny(pictures["chelsea"], 100, 200)).convert("1").save(OUT / "chelsea-100-200.png")
    print(f"{OUT}: {len(cases)} cases, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
