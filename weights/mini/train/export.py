"""Stage 8: what the stages left in OUT, in half precision, as one folder that diffusers and Impasto load.

    python export.py OUT FOLDER [--mean MODEL]

With --mean the UNet is the mean of OUT's and of MODEL's, which it was trained from (Wortsman et al. 2022, arXiv:2203.05482). FOLDER gets the parts of a Stable Diffusion in diffusers' layout, and beside them image_encoder, controlnet and
ip-adapter.safetensors.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

PARTS = ["model/text_encoder", "model/vae", "model/unet", "image_encoder", "controlnet"]
KEPT = ["model/tokenizer/vocab.json", "model/tokenizer/merges.txt", "model/tokenizer/tokenizer_config.json",
        "model/scheduler/scheduler_config.json", "image_encoder/preprocessor_config.json"]
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "requires_safety_checker": False,
}


def halved(source, target, other=None):
    tensors = load_file(source)
    if other:
        tensors = {name: (value.float() + tensors[name]) / 2 for name, value in load_file(other).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}, target, {"format": "pt"})
    target.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mean", type=Path)
    options = parser.parse_args()
    for part in PARTS:
        source, target = options.out / part, options.folder / Path(part).name
        (weights,) = source.glob("*.safetensors")
        halved(weights, target / weights.name, options.mean / "unet" / weights.name if options.mean and part == "model/unet" else None)
        # Where it lay while it was trained is nobody's business.
        config = {key: value for key, value in json.loads((source / "config.json").read_text()).items() if key != "_name_or_path"}
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for kept in KEPT:
        target = options.folder / kept.removeprefix("model/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.out / kept, target)
    halved(options.out / "ip-adapter.safetensors", options.folder / "ip-adapter.safetensors")
    (options.folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    files = sorted(file for file in options.folder.rglob("*") if file.suffix in (".safetensors", ".json", ".txt") and "train" not in file.parts)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(options.folder)}\n" for file in files]
    (options.folder / "SHA256SUMS").write_text("".join(sums))
    size = sum(file.stat().st_size for file in files)
    print(f"{size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
