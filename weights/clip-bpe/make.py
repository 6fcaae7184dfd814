"""Writes merges.txt from the vocabulary that open-clip-torch carries: python weights/clip-bpe/make.py

Needs: pip download --no-deps open-clip-torch==3.3.0 (the wheel is a zip file; pass its path), nothing else.
"""

import gzip
import pathlib
import sys
import zipfile

HERE = pathlib.Path(__file__).parent
WORDS = 49152 - 256 - 2  # CLIP uses this many of the file's merges: all byte letters and the two specials make 49408

wheel = zipfile.ZipFile(sys.argv[1])
text = gzip.decompress(wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode("utf-8")
merges = text.split("\n")[1 : WORDS + 1]
(HERE / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
print(f"wrote {HERE / 'merges.txt'}: {len(merges)} merges")
