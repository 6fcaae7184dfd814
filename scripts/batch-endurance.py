#!/usr/bin/env python3
"""A thousand pictures, killed at random ten times: what is left, what it cost, and how memory went.

    cargo build --release && python3 scripts/batch-endurance.py target/release/impasto [PICTURES [SIDE]]

Three parts, each of which ends the script with an error where it does not hold:

1. Loss. One batch is killed (SIGKILL) ten times at random moments and resumed. All pictures are there once and are the bytes of
   an uninterrupted run, every line of the log is whole, every picture has one line, no temporary file is left.
2. Memory. The uninterrupted run's VmRSS (/proc/PID/status, Linux) at the 10th picture, at every hundredth, and at the last.
3. Overhead. The wall clock of that run less the seconds the log says were spent on pictures, per picture; and beside it the plain
   `impasto stylize` of the same photos, which has no log.
"""

import json, os, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.argv[1]).resolve()
PICTURES = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
SIDE = int(sys.argv[3]) if len(sys.argv) > 3 else 64
KILLS = 10
STRENGTHS = ("0.2", "0.4", "0.6", "0.8", "1.0")


def lines(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def rss(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def pictures(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def start(place, *more):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([PROGRAM, "batch", place / "jobs.toml", *more], **quiet)


def main():
    place = Path(tempfile.mkdtemp(prefix="batch-endurance-"))
    fixtures = ROOT / "tests/fixtures/image"
    (place / "photos").mkdir()
    # As many files as pictures per style: photos are read, hashed and decoded as they would be.
    photos = [fixtures / f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "rocket")]
    each = PICTURES // 10
    for number in range(each):
        shutil.copy(photos[number % 4], place / f"photos/{number:04}.png")
    for name in ("coffee", "chelsea"):
        shutil.copy(fixtures / f"{name}.png", place / f"{name}.png")
    (place / "jobs.toml").write_text(f"""
[[job]]
command = "stylize"
content = "photos"
size = {SIDE}
file = "{{style}}-{{strength}}/{{content}}.png"
[job.matrix]
style = ["coffee.png", "chelsea.png"]
strength = [{", ".join(STRENGTHS)}]
""")
    total = 10 * each
    print(f"{total} pictures of {SIDE} pixels in {place}")

    # Memory and overhead: one run without a break.
    whole = place / "whole"
    log = whole / "batch.jsonl"
    marks = sorted({10, *range(100, total, 100), total - 1})
    began = time.monotonic()
    child = start(place, "-o", whole)
    seen = []
    while child.poll() is None:
        if marks and lines(log) >= marks[0]:
            seen.append((marks.pop(0), rss(child.pid)))
        time.sleep(0.005)
    wall = time.monotonic() - began
    assert child.returncode == 0, child.returncode
    print("VmRSS in MiB:", ", ".join(f"{kib / 1024:.1f} at {mark}" for mark, kib in seen))
    inside = sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())
    over = (wall - inside) / total
    print(f"wall {wall:.2f} s, painting {inside:.2f} s ({1e3 * inside / total:.2f} ms each), "
          f"rest {1e3 * over:.3f} ms each: {100 * (wall - inside) / inside:.2f} % of painting")

    # The same photos, styles and strengths with the plain command.
    began = time.monotonic()
    for style in ("coffee", "chelsea"):
        for strength in STRENGTHS:
            out = place / f"plain/{style}-{strength}"
            out.parent.mkdir(exist_ok=True)
            line = [PROGRAM, "stylize", place / "photos", "--style", place / f"{style}.png", "--strength", strength]
            subprocess.run([*line, "--size", str(SIDE), "-o", out], check=True, capture_output=True)
    plain = time.monotonic() - began
    print(f"`impasto stylize` takes {plain:.2f} s for the same: the batch {100 * (wall - plain) / plain:+.2f} %")

    # Loss: another folder, killed at random.
    folder = place / "killed"
    log = folder / "batch.jsonl"
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"kills by random seed {seed}")
    stops = sorted(chance.sample(range(total * 95 // 100), KILLS))
    killed = []
    for stop in stops:
        child = start(place, "--resume", "-o", folder)
        while child.poll() is None and lines(log) < stop:
            time.sleep(0.001)
        time.sleep(chance.random() * 2 * inside / total)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
        torn = log.exists() and not log.read_bytes().endswith(b"\n") and log.stat().st_size > 0
        left = len(list(folder.rglob(".*.tmp"))) if folder.exists() else 0
        killed.append((lines(log), len(pictures(folder)) if folder.exists() else 0, torn, left))
    for recorded, there, torn, left in killed:
        print(f"  killed with {recorded} lines, {there} pictures, {left} temporary files{', a torn line' if torn else ''}")
    child = start(place, "--resume", "-o", folder)
    assert child.wait() == 0, child.returncode
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert pictures(folder) == pictures(whole), "the pictures differ"
    assert len(pictures(folder)) == total
    assert sorted(line["index"] for line in found) == list(range(1, total + 1)), "lines are missing or twice"
    assert not list(folder.rglob("*.tmp")), "temporary files were left"
    states = {state: sum(line["status"] == state for line in found) for state in ("painted", "found", "failed")}
    print(f"all {total} there once, the same bytes; lines: {states}")
    again = subprocess.run([PROGRAM, "batch", place / "jobs.toml", "--resume", "-o", folder], capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == "", again.stdout
    shutil.rmtree(place)


main()
