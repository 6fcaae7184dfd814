"""Makes tests/fixtures/report.json: numbers as a comparison has them, and what a report must sum them up as.

    python tests/reference/report.py

Medians and quantiles are NumPy's, the draws of the bootstrap torch's (`torch.randint` with seed 0), win rates are counted
pair by pair. Values are random, with ties and with holes.
"""

import json
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).parent.parent / "fixtures" / "report.json"

CONTENTS, STYLES = 4, 3
METRICS = {"ssim": True, "content-distance": False, "style-distance": False}
# The anchors, then a method with two settings, then one that knows one painting only.
VARIANTS = [("identity", None), ("copy", None), ("a", 0.5), ("a", 1), ("b", None)]
KNOWN_STYLE = 1


def spread(values):
    """Median and 90 % percentile bootstrap interval."""
    values = np.array(values)
    draws = torch.randint(len(values), (1000, len(values)), generator=torch.Generator().manual_seed(0)).numpy()
    low, high = np.quantile(np.median(values[draws], axis=1), [0.05, 0.95])
    return {"count": len(values), "median": float(np.median(values)), "low": float(low), "high": float(high)}


def wins(own, other, higher):
    """How often `own` is better on the pairs that both have."""
    common = [pair for pair in own if pair in other]
    if not common:
        return None
    score = 0.0
    for pair in common:
        a, b = own[pair], other[pair]
        score += 0.5 if a == b else float((a > b) == higher)
    return score / len(common)


def main():
    rng = np.random.default_rng(5)
    rows, columns = [], {}
    for content in range(CONTENTS):
        for style in range(STYLES):
            for variant, (name, _) in enumerate(VARIANTS):
                if name == "b" and style != KNOWN_STYLE:
                    continue
                # Two digits, so that there are ties.
                values = [round(float(value), 2) for value in rng.uniform(0.2, 0.8, len(METRICS))]
                if name == "identity":
                    values[0], values[1] = 1.0, 0.0
                if name == "copy":
                    values[2] = 0.0
                # A picture that could not be measured.
                if (content, style, variant) == (2, 1, 3):
                    values = [None] * len(METRICS)
                rows.append({"content": content, "style": style, "variant": variant, "values": values})
                for metric, value in enumerate(values):
                    if value is not None:
                        columns.setdefault((variant, metric), {})[content, style] = value

    method = lambda variant: VARIANTS[variant][0]
    cells, duels = [], []
    for variant in range(len(VARIANTS)):
        cells.append([])
        for metric, higher in enumerate(METRICS.values()):
            own = columns[variant, metric]
            cell = spread(list(own.values()))
            if variant < 2:
                cell |= {"wins": None, "best": False}
            else:
                rivals = [other for other in range(2, len(VARIANTS)) if method(other) != method(variant)]
                scores = [(wins(own, columns[other, metric], higher), len(own.keys() & columns[other, metric].keys())) for other in rivals]
                total = sum(count for _, count in scores)
                medians = [float(np.median(list(columns[other, metric].values()))) for other in range(2, len(VARIANTS))]
                best = max(medians) if higher else min(medians)
                cell |= {"wins": sum(score * count for score, count in scores) / total, "best": cell["median"] == best}
            cells[-1].append(cell)
    for metric, higher in enumerate(METRICS.values()):
        duel = lambda a, b: None if a == b else wins(columns[a, metric], columns[b, metric], higher)
        duels.append([[duel(a, b) for b in range(len(VARIANTS))] for a in range(len(VARIANTS))])

    plane = []
    for variant in range(2, len(VARIANTS)):
        share = lambda metric, pair: ((columns[variant, metric][pair] - columns[0, metric][pair])
                                      / (columns[1, metric][pair] - columns[0, metric][pair]))
        pairs = list(columns[variant, 1])
        plane.append({"variant": variant, "kept": spread([1 - share(1, pair) for pair in pairs]),
                      "taken": spread([share(2, pair) for pair in pairs])})

    fixture = {"contents": CONTENTS, "styles": STYLES, "metrics": list(METRICS), "variants": VARIANTS, "rows": rows,
               "cells": cells, "wins": duels, "plane": plane}
    OUT.write_text(json.dumps(fixture) + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
