"""CLIP token ids of awkward prompts, from transformers' CLIPTokenizer, called as diffusers' encode_prompt calls it.

python tests/reference/tokenizer.py      (transformers 5.23.0, tokenizers 0.23.3)
"""

import hashlib
import json
import pathlib
import shutil
import tempfile

from transformers import CLIPTokenizer

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "tests/fixtures/tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"

# One letter per byte, in the order of CLIP's vocabulary: the printable bytes, then U+0100 on for the others.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
LETTERS = [chr(byte) for byte in PRINTABLE] + [chr(0x100 + index) for index in range(256 - len(PRINTABLE))]

PROMPTS = [
    "",
    " ",
    "a photo of a cat",
    "A Painting In The Style Of WATERCOLOR, Trending on ArtStation!!",
    "don't can't I'd we're they've I'm she'll it's 'tis rock'n'roll DON'T 'S 'Re",
    "1234567890 3.14159 1920x1080 10% ½ ² Ⅷ ٣٤ 万",
    "emoji 🎨🖌️ 👩‍🎨 👨‍👩‍👧‍👦 🇫🇷 😀😀😀 ❤️",
    "水彩画风格的山水 和風の浮世絵 한국 수묵화 ภาพวาดสีน้ำ",
    "café naïve Ångström",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "İstanbul IĞDIR ıspanak STRAẞE Straße ΟΔΥΣΣΕΥΣ ΣΊΣΥΦΟΣ ǅ ŉ ΐ",
    "ﬁne ﬂow ﬀ ﬃ Ĳssel ａｂｃ ① ㎏",
    "zero\u200bwidth\u200djoin\ufeffbom\u2060word\u00adsoft",
    "tabs\tand\nnewlines\r\n  and   many    spaces\u00a0nbsp\u3000ideographic\u2028line\u0085nel\u000bvt\u180emvs",
    "snake_case __init__ a_b _ -- --- ... ?!? (((weighted:1.3))) [brackets] {braces} <lora:x:0.8>",
    "a <|endoftext|> b",
    "a<|endoftext|><|startoftext|>b",
    "<|ENDOFTEXT|> <|StartOfText|>",
    "<|endoftext <|end oftext|> |> <|",
    "hello! wow!!! a!b ! !?",
    "مرحبا بالعالم לוח שמן \u202eright to left\u202c",
    "\x00nul\x00 \x01\x02 bell\x07 del\x7f c1\x9b",
    "ñ ç ø æ œ þ ð ł ş ţ ő ű č",
    "Привет мир КИСТЬ й и\u0306 ё е\u0308",
    "नमस्ते दुनिया ক্ষ தமிழ்",
    "math ∑∫√∞ ≠≤ 𝒜𝓑 𝟘𝟙 x² E=mc²",
    "http://example.com/a_b?c=d&e=f#g mail@host.org @artist #tag $5 €10",
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "\u0301leading mark a\u0301\u0302\u0303\u0304\u0305 e\u0323\u0302 \u1ec7",
    "𐐀𐐁 𐀀 𝄞 \U0001f3a8\ufe0e \U000e0041",
    "word " * 75,
    "word " * 74 + "last",
    "word " * 75 + "over",
    "a very long prompt, " * 20 + "with an End that Doesn't fit: café 🎨 水 <|endoftext|> 1234!",
    "🎨" * 60,
    "水" * 100,
    "x" * 500,
    "the oil painting of the rain in the town on the hill " * 4,
]


def described(content, normalized=True):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def special(pad, kind):
    """The special tokens as the Hub's SD 1.5 and SD 2.1 folders write them."""
    extra = {"__type": "AddedToken"} if kind == "config" else {}
    return {
        "bos_token": {**extra, **described(START)},
        "eos_token": {**extra, **described(END)},
        "pad_token": pad,
        "unk_token": {**extra, **described(END)},
    }


def tiny(folder, merges):
    """A vocabulary made of the first merges only."""
    tokens = LETTERS + [letter + "</w>" for letter in LETTERS] + ["".join(m.split()) for m in merges] + [START, END]
    folder.mkdir(parents=True)
    write(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def encode(tokenizer, prompt, length):
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    whole = tokenizer(prompt, padding="longest").input_ids
    cut = None
    if len(whole) >= len(ids) and whole != ids:
        cut = tokenizer.batch_decode([whole[length - 1 : -1]])[0]
    return {"prompt": prompt, "ids": ids, "cut": cut}


shutil.rmtree(OUT, ignore_errors=True)
merges = (ROOT / "weights/clip-bpe/merges.txt").read_text(encoding="utf-8").split("\n")[1:48895]
cases = {}

with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch) / "clip"
    tiny(folder, merges)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    digest = hashlib.sha256("\n".join(by_id).encode()).hexdigest()
    cases["clip"] = [encode(tokenizer, prompt, 77) for prompt in PROMPTS]

# Model folders as they are found, on a small vocabulary: only what the folder's files say differs.
small = merges[:400]
for name, pad, length in [("sd15", END, 77), ("sd21", "!", 77), ("short", END, 16)]:
    tiny(OUT / name, small)
    config = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": length}
    config |= special(pad, "config") | {"tokenizer_class": "CLIPTokenizer"}
    write(OUT / name / "tokenizer_config.json", config)
    write(OUT / name / "special_tokens_map.json", special(pad, "map"))
tiny(OUT / "bare", small)
# As SDXL's second tokenizer: the config lists its added tokens, and one of them is not in the vocabulary.
tiny(OUT / "listed", small)
added = {0: described("!", False), 912: described(START), 913: described(END, False), 914: described("<ink>", False)}
added = {str(index): {**token, "special": token["content"] != "<ink>"} for index, token in added.items()}
tokens = {"bos_token": START, "eos_token": END, "pad_token": "!", "unk_token": END}
write(OUT / "listed/tokenizer_config.json", {"model_max_length": 77, "added_tokens_decoder": added} | tokens)
CLIPTokenizer.from_pretrained(OUT / "sd21").save_pretrained(OUT / "saved")

for name in ["sd15", "sd21", "short", "bare", "listed", "saved"]:
    tokenizer = CLIPTokenizer.from_pretrained(OUT / name)
    length = min(tokenizer.model_max_length, 77)
    cases[name] = [encode(tokenizer, prompt, length) for prompt in [*PROMPTS[:7], *PROMPTS[14:20], "an <ink>wash", *PROMPTS[-1:]]]

write(OUT / "prompts.json", {"vocabulary_sha256": digest, "cases": cases})
print("wrote", OUT, {name: len(list_) for name, list_ in cases.items()})
