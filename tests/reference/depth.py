"""Depth Anything by transformers 5.23.0, torch 2.15.0 -> tests/fixtures/depth/.

The weights come from a formula that the test repeats, so that a model of real size needs no committed weights: only names,
shapes, ranges and results are kept. Names are those of the files on the Hub (what save_pretrained writes).
"""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DepthEstimationPipeline, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

FIXTURES = Path(__file__).parents[1] / "fixtures"
OUT = FIXTURES / "depth"

SMALL = DepthAnythingConfig(
    backbone_config=Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, out_indices=[3, 6, 9, 12], reshape_hidden_states=False)
)
TINY = DepthAnythingConfig(
    backbone_config=Dinov2Config(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=4, image_size=70, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    ),
    reassemble_hidden_size=32,
    neck_hidden_sizes=[8, 12, 16, 20],
    fusion_hidden_size=16,
    head_hidden_size=8,
)


def noise(name, count):
    """Values in -1..1, from the index and the name."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x45D9F3B)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def spread(name, shape):
    """Centre and half width of a tensor's values: what keeps signals of about the same size from layer to layer."""
    if "norm" in name and name.endswith("weight"):
        return 1.0, 0.25
    if name.endswith("bias"):
        return (0.5, 0.1) if "head.conv3" in name else (0.0, 0.1)
    if "lambda1" in name:
        return 0.5, 0.25
    if "embeddings" in name and "projection" not in name:
        return 0.0, 0.5
    return 0.0, float(np.float32((3 / np.prod(shape[1:])) ** 0.5))


def model_of(config):
    """The model with weights by the formula, and what the test needs to make them again."""
    model = DepthAnythingForDepthEstimation(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        tensors, entries = load_file(file), []
        for name, tensor in tensors.items():
            centre, width = spread(name, tensor.shape)
            values = noise(name, tensor.numel()) * np.float32(width) + np.float32(centre)
            tensors[name] = torch.from_numpy(values.reshape(tensor.shape))
            entries.append({"name": name, "shape": list(tensor.shape), "centre": centre, "width": width})
        save_file(tensors, file, {"format": "pt"})
        written = json.loads((Path(folder) / "config.json").read_text())
        model, info = DepthAnythingForDepthEstimation.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval(), written, sorted(entries, key=lambda entry: entry["name"])


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    processor = DPTImageProcessorPil(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    results = {}
    for name, config, sizes in [("tiny", TINY, [(70, 70), (56, 98), (14, 28)]), ("small", SMALL, [(98, 140)])]:
        model, written, entries = model_of(config)
        for height, width in sizes:
            pixels = torch.from_numpy(noise(f"{height}x{width}", 3 * height * width).reshape(1, 3, height, width) * np.float32(2))
            with torch.no_grad():
                results[f"{name}/{height}x{width}"] = model(pixels).predicted_depth
        (OUT / f"{name}.json").write_text(json.dumps({"config": written, "tensors": entries}, indent=None).replace("{\"name\"", "\n{\"name\"") + "\n")
        if name == "tiny":
            # A smaller size than the real 518, so that the maps stay small.
            small = DPTImageProcessorPil(
                size={"height": 84, "width": 84}, keep_aspect_ratio=True, ensure_multiple_of=14, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
            )
            pipe = DepthEstimationPipeline(model=model, image_processor=small)
            for picture in ["astronaut", "rocket"]:
                image = Image.open(FIXTURES / f"image/{picture}.png").convert("RGB")
                pixels = small(image, return_tensors="pt")["pixel_values"]
                results[f"pixels/{picture}"] = pixels.contiguous()
                results[f"map/{picture}"] = torch.from_numpy(np.array(pipe(image)["depth"]))
    fitted = []
    for width, height in [(512, 512), (640, 480), (480, 640), (1920, 1080), (100, 1000), (30, 20), (301, 299), (37, 1)]:
        pixels = processor(Image.new("RGB", (width, height)), return_tensors="np")["pixel_values"][0]
        fitted.append([width, height, pixels.shape[2], pixels.shape[1]])
    (OUT / "fitted.json").write_text(json.dumps(fitted) + "\n")
    save_file(results, OUT / "depth.safetensors")
    for name, result in results.items():
        print(name, tuple(result.shape), result.float().min().item(), result.float().max().item())
    print(f"{OUT}: {sum(file.stat().st_size for file in OUT.iterdir())} bytes")


if __name__ == "__main__":
    main()
