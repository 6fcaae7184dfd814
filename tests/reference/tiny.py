"""Builds tests/fixtures/tiny: complete Stable Diffusion models of a few hundred kilobytes, weights random but well behaved.

model/          SD 1.5's blocks at 8 and 16 channels, a diffusers folder
inpaint/        the same idea with a nine-channel UNet, smaller
v-prediction/   SD 2.x's habits: linear projections, heads per block, exact GELU, "!" padding, v prediction
controlnet/     for model/; its zero convolutions are not zero
image_encoder/  CLIP vision tower with projection
ip-adapter*.    base, plus (also as a nested pickle) and full, for model/ and image_encoder/
single-file.safetensors   another SD 1.x model under the names of the original latent diffusion code

Weights are drawn per tensor from a seed made of the tensor's name, so the order in which modules register them does not
matter, and stored in half precision: read them into f32 and compute there.
"""

import json
import shutil
import zlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/tiny"
MERGES = 700
TOKENS = 512 + MERGES + 2
CROSS = 32


GAINS = {"time_emb_proj.weight": 2.0, "decoder.conv_out.weight": 0.8, "encoder.conv_out.weight": 4.0,
         "conv_out.weight": 1.0, "token_embedding.weight": 1.0, "position_embedding.weight": 0.3, "latents": 1.0}
TABLES = ("token_embedding.weight", "position_embedding.weight", "latents")


def draw(seed, name, shape, gain=1.0):
    """A tensor of unit gain, a norm near the identity or a small bias: signals neither fade nor explode."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    noise = torch.randn(shape, generator=generator)
    if len(shape) <= 1:
        return noise.mul_(0.1).add_(1 if name.endswith("weight") else 0)
    gain = next((own for end, own in GAINS.items() if name.endswith(end)), gain)
    return noise.mul_(gain if name.endswith(TABLES) else gain / torch.Size(shape[1:]).numel() ** 0.5)


def fill(module, seed):
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(draw(seed, name, tensor.shape).half())
    return module.eval()


def unet(seed, channels, **more):
    config = dict(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=CROSS, attention_head_dim=4, norm_num_groups=4,
    )
    return carry_noise(fill(UNet2DConditionModel(**(config | more)), seed))


def carry_noise(unet, amount=1.2):
    """Lets the input reach the output beside the random layers, for a trained UNet finds the noise in its input. Else the
    last picture is the first noise, and neither late steps nor an init image leave a trace.

    Each latent travels as a pair of channels x, -x, through the first skip connection; silu(x) - silu(-x) = x."""
    skip = unet.conv_in.out_channels
    shortcut = unet.up_blocks[-1].resnets[-1].conv_shortcut.weight
    with torch.no_grad():
        for i in range(4):
            for channel, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
                unet.conv_in.weight[channel, i, 1, 1] += sign
                shortcut[channel, shortcut.shape[1] - skip + channel] += amount
                unet.conv_out.weight[i, channel, 1, 1] += sign
        for weight in (unet.conv_in.weight, shortcut, unet.conv_out.weight):
            weight.copy_(weight.half().float())
    return unet


def vae(seed, channels, groups, layers=2):
    return fill(AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=64, layers_per_block=layers,
        block_out_channels=channels, norm_num_groups=groups, scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ), seed)


def text_encoder(seed, hidden=CROSS, tokens=TOKENS, heads=4, act="quick_gelu", layers=2):
    return fill(CLIPTextModel(CLIPTextConfig(
        vocab_size=tokens, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=77, hidden_act=act, projection_dim=hidden,
        bos_token_id=tokens - 2, eos_token_id=tokens - 1, pad_token_id=1,
    )), seed)


SCHEDULER = {
    # SD 1.5's own scheduler_config.json: no timestep_spacing, so each sampler takes the one its class is born with.
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
    "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
}


def tokenizer(folder, merges, pad="<|endoftext|>"):
    """CLIP's 512 byte tokens, its first merges and the two specials, in the four files of the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    words = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    assert len(vocab) == 512 + len(merges) + 2
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    specials = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
    config = dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77,
                  tokenizer_class="CLIPTokenizer") | specials
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def save_model(name, merges, pad="<|endoftext|>", scheduler=SCHEDULER, **parts):
    folder = OUT / name
    pipeline = StableDiffusionPipeline(
        **parts, tokenizer=tokenizer(folder / "tokenizer", merges, pad), scheduler=PNDMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(torch.float16)
    shutil.rmtree(folder)
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    tokenizer(folder / "tokenizer", merges, pad)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    if scheduler["_class_name"] != "PNDMScheduler":
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace("PNDMScheduler", scheduler["_class_name"]))


def ip_adapters(unet, encoder):
    """The three SD 1.5 forms. `N` of `ip_adapter.N` counts attention processors: down, up, mid; odd ones are cross attention."""
    layers = {}
    for n, (name, processor) in enumerate(unet.attn_processors.items()):
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            layers[f"{n}.to_k_ip.weight"] = (width, CROSS)
            layers[f"{n}.to_v_ip.weight"] = (width, CROSS)
    hidden, projected, dim, inner, tokens = encoder.hidden_size, encoder.projection_dim, 16, 128, 6
    norm = lambda name, width: {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    base = {"proj.weight": (4 * CROSS, projected), "proj.bias": (4 * CROSS,), **norm("norm", CROSS)}
    plus = {"latents": (1, tokens, dim), "proj_in.weight": (dim, hidden), "proj_in.bias": (dim,),
            "proj_out.weight": (CROSS, dim), "proj_out.bias": (CROSS,), **norm("norm_out", CROSS)}
    for i in range(4):
        plus |= {**norm(f"layers.{i}.0.norm1", dim), **norm(f"layers.{i}.0.norm2", dim),
                 f"layers.{i}.0.to_q.weight": (inner, dim), f"layers.{i}.0.to_kv.weight": (2 * inner, dim),
                 f"layers.{i}.0.to_out.weight": (dim, inner), **norm(f"layers.{i}.1.0", dim),
                 f"layers.{i}.1.1.weight": (4 * dim, dim), f"layers.{i}.1.3.weight": (dim, 4 * dim)}
    full = {"proj.0.weight": (hidden, hidden), "proj.0.bias": (hidden,),
            "proj.2.weight": (CROSS, hidden), "proj.2.bias": (CROSS,), **norm("proj.3", CROSS)}

    def tensors_of(seed, shapes):
        return {name: draw(seed, name, shape, gain=1.5).half() for name, shape in shapes.items()}

    for name, shapes in {"ip-adapter": base, "ip-adapter-plus": plus, "ip-adapter-full": full}.items():
        nested = {"image_proj": tensors_of(name, shapes), "ip_adapter": tensors_of(name, layers)}
        flat = {f"{group}.{key}": tensor for group, tensors in nested.items() for key, tensor in tensors.items()}
        save_file(flat, OUT / f"{name}.safetensors", metadata={"format": "pt"})
        if name == "ip-adapter-plus":
            torch.save(nested, OUT / f"{name}.bin")


def ldm_unet_name(name):
    """diffusers' name of a UNet tensor -> the name in the original code (two residual blocks per level)."""
    fixed = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for ours, theirs in fixed.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours):]
    words = name.split(".")
    if words[0] == "mid_block":
        kind, i, rest = words[1], int(words[2]), words[3:]
        place = f"middle_block.{2 * i if kind == 'resnets' else 1}"
    else:
        block, kind, i, rest = int(words[1]), words[2], int(words[3]), words[4:]
        if words[0] == "down_blocks":
            place = f"input_blocks.{3 * block + 1 + (2 if kind == 'downsamplers' else i)}"
            place += {"resnets": ".0", "attentions": ".1", "downsamplers": ".0.op"}[kind]
        else:
            place = f"output_blocks.{3 * block + (2 if kind == 'upsamplers' else i)}"
            place += {"resnets": ".0", "attentions": ".1", "upsamplers": ".1.conv" if block == 0 else ".2.conv"}[kind]
        if kind.endswith("samplers"):
            rest = rest[1:]
    inside = ".".join(rest)
    if kind == "resnets":
        for ours, theirs in {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
                             "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
                             "conv_shortcut": "skip_connection"}.items():
            inside = inside.replace(ours, theirs)
    return f"{place}.{inside}"


def ldm_vae_name(name):
    words = name.split(".")
    if "mid_block" in words:
        side, _, kind, i, *rest = words
        place = f"{side}.mid.block_{int(i) + 1}" if kind == "resnets" else f"{side}.mid.attn_1"
        inside = ".".join(rest)
        for ours, theirs in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
            inside = inside.replace(ours, theirs)
        return f"{place}.{inside}"
    if "down_blocks" in words or "up_blocks" in words:
        side, blocks, level, kind, i, *rest = words
        up = blocks == "up_blocks"
        place = f"{side}.{'up' if up else 'down'}.{3 - int(level) if up else level}"
        inside = ".".join(rest).replace("conv_shortcut", "nin_shortcut")
        return f"{place}.block.{i}.{inside}" if kind == "resnets" else f"{place}.{'up' if up else 'down'}sample.{inside}"
    return name.replace("conv_norm_out", "norm_out")


def single_file_parts():
    """The model of single-file.safetensors. Its files carry no configuration, so it keeps what all SD 1.x models share: 32
    groups, 8 heads, CLIP's whole vocabulary."""
    return dict(
        unet=unet("single unet", (32, 32, 32, 32), norm_num_groups=32, attention_head_dim=8, cross_attention_dim=4),
        vae=vae("single vae", (32, 32, 32, 32), 32),
        text_encoder=text_encoder("single text", hidden=4, tokens=49408, heads=1),
    )


def save_single_file():
    parts, tensors = single_file_parts(), {}
    for name, tensor in parts["unet"].state_dict().items():
        tensors["model.diffusion_model." + ldm_unet_name(name)] = tensor.half()
    for name, tensor in parts["vae"].state_dict().items():
        is_attention = "attentions" in name and tensor.ndim == 2
        tensors["first_stage_model." + ldm_vae_name(name)] = (tensor[:, :, None, None] if is_attention else tensor).half()
    for name, tensor in parts["text_encoder"].state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor.half()
    # Files of 2022 carry this buffer.
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "single-file.safetensors")


def clip_merges():
    """CLIP's 48,894 merges; the file starts with a version line."""
    return (ROOT / "weights/clip-bpe/merges.txt").read_text(encoding="utf-8").split("\n")[1:48895]


def main():
    torch.set_num_threads(1)
    merges = clip_merges()[:MERGES]
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    main_unet = unet("unet", (8, 16, 16, 16))
    save_model("model", merges, unet=main_unet, vae=vae("vae", (8, 8, 16, 16), 4),
               text_encoder=text_encoder("text"))
    save_model("inpaint", merges, unet=unet("inpaint unet", (8, 8, 8, 16), in_channels=9, layers_per_block=1),
               vae=vae("vae", (8, 8, 16, 16), 4), text_encoder=text_encoder("text"),
               scheduler=SCHEDULER | {"timestep_spacing": "leading"})
    save_model("v-prediction", merges, pad="!",
               unet=unet("v unet", (8, 8, 8, 16), layers_per_block=1, use_linear_projection=True,
                         attention_head_dim=[2, 2, 4, 4], upcast_attention=True),
               vae=vae("v vae", (8, 8, 8, 8), 4, layers=1), text_encoder=text_encoder("v text", act="gelu"),
               scheduler=SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})

    controlnet = ControlNetModel(
        in_channels=4, layers_per_block=2, block_out_channels=(8, 16, 16, 16), cross_attention_dim=CROSS,
        attention_head_dim=4, norm_num_groups=4, conditioning_embedding_out_channels=(8, 8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    )
    fill(controlnet, "controlnet").half().save_pretrained(OUT / "controlnet")
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, projection_dim=24, num_hidden_layers=3,
                              num_attention_heads=4, image_size=224, patch_size=16, hidden_act="gelu")
    fill(CLIPVisionModelWithProjection(vision), "vision").half().save_pretrained(OUT / "image_encoder")
    ip_adapters(main_unet, vision)
    save_single_file()

    for path in sorted(OUT.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:9} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
