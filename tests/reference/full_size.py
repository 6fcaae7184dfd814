"""Writes a full-size Stable Diffusion 1.5 with random weights: `full_size.py DIR [--dtype f16|f32] [--parts a,b]`.

For timing and for memory, where only the shapes count, and to see that shapes and names are those of the real files; the
pictures are abstract but neither flat nor NaN. Nothing is downloaded. Layout:

DIR/model                 the diffusers folder: UNet (860 M), VAE (84 M), CLIP ViT-L text encoder (123 M), tokenizer, scheduler
DIR/controlnet            361 M
DIR/image_encoder         CLIP ViT-H with projection, 632 M
DIR/ip-adapter-plus_sd15.safetensors

In half precision 4.2 GB in all, in single 8.4 GB.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

import tiny

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def build(make, seed, dtype):
    """A module whose own initialisation never runs: shapes on the meta device, then one draw per tensor."""
    with torch.device("meta"):
        module = make()
    tensors = {name: tiny.draw(seed, name, meta.shape).to(dtype) for name, meta in module.state_dict().items()}
    module.load_state_dict(tensors, assign=True)
    return module


def unet(dtype):
    return tiny.carry_noise(build(lambda: UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
        down_block_types=DOWN, up_block_types=UP), "full unet", dtype))


def vae(dtype):
    return build(lambda: AutoencoderKL(
        sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215), "full vae", dtype)


def text_encoder(dtype):
    return build(lambda: CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768,
        bos_token_id=49406, eos_token_id=49407, pad_token_id=1)), "full text", dtype)


def image_encoder(dtype):
    return build(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="gelu")), "full vision", dtype)


def controlnet(dtype):
    return build(lambda: ControlNetModel(
        block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
        down_block_types=DOWN), "full controlnet", dtype)


def ip_adapter_plus(dtype):
    norm = lambda name, width: {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    shapes = {"latents": (1, 16, 768), "proj_in.weight": (768, 1280), "proj_in.bias": (768,),
              "proj_out.weight": (768, 768), "proj_out.bias": (768,), **norm("norm_out", 768)}
    for i in range(4):
        shapes |= {**norm(f"layers.{i}.0.norm1", 768), **norm(f"layers.{i}.0.norm2", 768),
                   f"layers.{i}.0.to_q.weight": (768, 768), f"layers.{i}.0.to_kv.weight": (1536, 768),
                   f"layers.{i}.0.to_out.weight": (768, 768), **norm(f"layers.{i}.1.0", 768),
                   f"layers.{i}.1.1.weight": (3072, 768), f"layers.{i}.1.3.weight": (768, 3072)}
    shapes = {f"image_proj.{name}": shape for name, shape in shapes.items()}
    # Two transformers per level going down, three per level going up, one in the middle; odd numbers are cross attention.
    widths = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
    for i, width in enumerate(widths):
        for kind in ("k", "v"):
            shapes[f"ip_adapter.{2 * i + 1}.to_{kind}_ip.weight"] = (width, 768)
    return {name: tiny.draw("full adapter", name, shape).to(dtype) for name, shape in shapes.items()}


def save(folder, module, file, rename=lambda name: name):
    folder.mkdir(parents=True, exist_ok=True)
    (module.save_config if hasattr(module, "save_config") else module.config.save_pretrained)(folder)
    tensors = {rename(name): tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / file, metadata={"format": "pt"})
    report(folder / file, sum(tensor.numel() for tensor in tensors.values()))


def report(file, parameters):
    print(f"{parameters / 1e6:6.1f} M parameters  {file.stat().st_size / 1e9:5.2f} GB  {file}", flush=True)


def save_folder_files(folder):
    """model_index.json, scheduler and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", "feature_extractor": [None, None],
             "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(tiny.SCHEDULER, indent=2))
    tiny.tokenizer(folder / "tokenizer", tiny.clip_merges())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=["f16", "f32"], default="f16")
    parser.add_argument("--parts", default="model,controlnet,image_encoder,ip_adapter")
    options = parser.parse_args()
    dtype = {"f16": torch.float16, "f32": torch.float32}[options.dtype]
    parts, start = options.parts.split(","), time.time()
    if "model" in parts:
        model = options.folder / "model"
        save_folder_files(model)
        # The Hub's text encoder carries the prefix that recent transformers leave out.
        save(model / "text_encoder", text_encoder(dtype), "model.safetensors", lambda name: f"text_model.{name}")
        save(model / "vae", vae(dtype), "diffusion_pytorch_model.safetensors")
        save(model / "unet", unet(dtype), "diffusion_pytorch_model.safetensors")
    if "controlnet" in parts:
        save(options.folder / "controlnet", controlnet(dtype), "diffusion_pytorch_model.safetensors")
    if "image_encoder" in parts:
        save(options.folder / "image_encoder", image_encoder(dtype), "model.safetensors")
    if "ip_adapter" in parts:
        file = options.folder / "ip-adapter-plus_sd15.safetensors"
        tensors = ip_adapter_plus(dtype)
        save_file(tensors, file, metadata={"format": "pt"})
        report(file, sum(tensor.numel() for tensor in tensors.values()))
    print(f"done in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
