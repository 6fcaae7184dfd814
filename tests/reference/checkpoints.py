"""Fixtures of src/weights: the same tensors in every form people store them in.

and the names of single-file checkpoints with what diffusers makes of them.

Run: python tests/reference/checkpoints.py   (torch 2.15.0, diffusers 0.42.1, transformers 5.23.0, safetensors 0.8)
"""
import collections
import json
import pathlib

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as reference
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "checkpoints"
OUT.mkdir(parents=True, exist_ok=True)


def forms():
    """One state dictionary as safetensors (three types), zip pickles and the form before PyTorch 1.6."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator).to(torch.bfloat16).to(torch.float16).float()
    # bf16 -> f16 -> f32 leaves numbers that every type holds exactly.
    kernel = torch.randint(-8, 8, (3, 2, 2, 2), generator=generator).float() / 4
    state = {"net.weight": matrix, "net.conv.weight": kernel, "ids": torch.arange(5).unsqueeze(0)}
    for name, dtype in [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]:
        typed = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        save_file(typed, OUT / f"{name}.safetensors")
        torch.save(collections.OrderedDict(typed), OUT / f"{name}.bin")
    # This form names storages by their address, so it would differ in every run: kept once made.
    if not (OUT / "legacy.ckpt").exists():
        torch.save(state, OUT / "legacy.ckpt", _use_new_zipfile_serialization=False)

    whole = torch.stack([matrix, matrix * 2])
    views = {
        "state_dict": {
            "transposed": matrix.t(),
            "slice": whole[1],
            "channels_last": kernel.to(memory_format=torch.channels_last),
            "column": matrix[:, 2],
            "expanded": matrix[0, :1].expand(3),
            "parameter": torch.nn.Parameter(matrix),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
            "double": matrix.double(),
        },
        "epoch": 3,
        "loss": 0.25,
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}},
        "when": __import__("datetime").date(2024, 1, 1),
    }
    torch.save(views, OUT / "views.ckpt")
    adapter = {
        "image_proj": {"proj.weight": matrix, "norm.weight": matrix[0].clone()},
        "ip_adapter": {"1.to_k_ip.weight": kernel.flatten(1)},
    }
    torch.save(adapter, OUT / "nested.bin")
    torch.save(torch.nn.Linear(2, 2), OUT / "module.pt")

    expected = {k: v.flatten().tolist() for k, v in state.items()}
    expected |= {"views." + k: v.detach().flatten().tolist() for k, v in views["state_dict"].items()}
    shapes = {k: list(v.shape) for k, v in state.items()}
    shapes |= {"views." + k: list(v.shape) for k, v in views["state_dict"].items()}
    with open(OUT / "values.json", "w") as file:
        json.dump({"values": expected, "shapes": shapes}, file)


# ---- Names. Small nets with the block structure of the published ones; the original names are made here from diffusers'
# ---- by the inverse of its rules, and taken for right only if diffusers' own conversion leads back to every tensor.

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def ldm_unet(name, attends_up):
    part, _, rest = name.partition(".")
    fixed = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
             "controlnet_mid_block": "middle_block_out.0"}
    if part in fixed:
        return f"{fixed[part]}.{rest}"
    words = name.split(".")
    if part == "time_embedding":
        return f"time_embed.{2 * int(words[1][-1]) - 2}.{words[2]}"
    if part == "controlnet_down_blocks":
        return f"zero_convs.{words[1]}.0.{words[2]}"
    if part == "controlnet_cond_embedding":
        if words[1] == "blocks":
            return f"input_hint_block.{2 * int(words[2]) + 2}.{words[3]}"
        return f"input_hint_block.{0 if words[1] == 'conv_in' else 14}.{words[2]}"
    if part == "mid_block":
        index = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[f"{words[1]}.{words[2]}"]
        tail = words[3:]
        where = f"middle_block.{index}"
    else:
        block, kind, layer, tail = int(words[1]), words[2], int(words[3]), words[4:]
        down = part == "down_blocks"
        index = 3 * block + layer + (1 if down else 0)
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op.{tail[1]}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{2 if attends_up[block] else 1}.conv.{tail[1]}"
        where = f"{'input' if down else 'output'}_blocks.{index}.{0 if kind == 'resnets' else 1}"
    if "resnets" in words:
        tail = [RESNET[tail[0]], *tail[1:]]
    return ".".join([where, *tail])


def ldm_vae(name):
    words = name.split(".")
    if words[0] not in ("encoder", "decoder"):
        return name
    side, part, *rest = words
    tail = [word.replace("conv_shortcut", "nin_shortcut") for word in rest]
    if part == "conv_norm_out":
        return ".".join([side, "norm_out", *tail])
    if part in ("conv_in", "conv_out"):
        return name
    if part == "mid_block":
        if rest[0] == "resnets":
            return ".".join([side, "mid", f"block_{int(rest[1]) + 1}", *tail[2:]])
        inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[rest[2]]
        return ".".join([side, "mid", "attn_1", inner, rest[-1]])
    block = int(rest[0]) if part == "down_blocks" else 3 - int(rest[0])
    way = part.split("_")[0]
    if rest[1] == "resnets":
        return ".".join([side, way, str(block), "block", *tail[2:]])
    return ".".join([side, way, str(block), f"{way}sample", *rest[3:]])


def check(made, wanted):
    assert made.keys() == wanted.keys(), made.keys() ^ wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(made[name], tensor), name


def number(state):
    """Every tensor filled with a number of its own."""
    return {name: torch.full(tensor.shape, float(index)) for index, (name, tensor) in enumerate(state.items())}


def names():
    """Per family: [original name, shape, the rows of diffusers' tensors in it, in order]."""
    common = dict(block_out_channels=(32, 64, 64, 64), layers_per_block=2, norm_num_groups=32)
    families, configs = {}, {}
    for family, width, extra in [
        ("sd15", 48, dict(attention_head_dim=8, in_channels=9)),
        ("sd21", 128, dict(attention_head_dim=[1, 1, 1, 1], use_linear_projection=True)),
    ]:
        unet = UNet2DConditionModel(cross_attention_dim=width, **common, **extra)
        state = number(unet.state_dict())
        attends = [kind.startswith("Cross") for kind in unet.config.up_block_types]
        ldm = {"model.diffusion_model." + ldm_unet(name, attends): tensor for name, tensor in state.items()}
        check(reference.convert_ldm_unet_checkpoint(ldm, unet.config), state)
        entries = [[k, list(v.shape), [n]] for (k, v), n in zip(ldm.items(), state)]

        vae = AutoencoderKL(block_out_channels=(32, 32, 64, 64), layers_per_block=2, latent_channels=4,
                            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
        state = number(vae.state_dict())
        ldm = {}
        for name, tensor in state.items():
            squeezed = ".attentions." in name and name.endswith("weight") and tensor.ndim == 2
            ldm["first_stage_model." + ldm_vae(name)] = tensor[:, :, None, None] if squeezed else tensor
        check(reference.convert_ldm_vae_checkpoint(ldm, vae.config), state)
        entries += [[k, list(v.shape), [n]] for (k, v), n in zip(ldm.items(), state)]

        configs[family] = {"unet": dict(unet.config), "vae": dict(vae.config)}
        layers = 3
        text = CLIPTextModel(CLIPTextConfig(vocab_size=100, hidden_size=width, intermediate_size=2 * width,
                                            num_hidden_layers=layers, num_attention_heads=width // 64 or 1,
                                            hidden_act="quick_gelu" if family == "sd15" else "gelu"))
        configs[family]["text_encoder"] = text.config.to_dict()
        state = {"text_model." + n.removeprefix("text_model."): v for n, v in number(text.state_dict()).items()}
        if family == "sd15":
            ldm = {"cond_stage_model.transformer." + n: v for n, v in state.items()}
            check(reference.convert_ldm_clip_checkpoint(ldm), state)
            entries += [[k, list(v.shape), [n]] for (k, v), n in zip(ldm.items(), state)]
            entries.append(["cond_stage_model.transformer.text_model.embeddings.position_ids", [1, 77], []])
        else:
            entries += open_clip(text, state, layers)
        entries.append(["model_ema.diffusion_modelinput_blocks00weight", [4], []])
        families[family] = entries

    net = ControlNetModel(cross_attention_dim=48, attention_head_dim=8, conditioning_embedding_out_channels=(8, 16, 24, 32), **common)
    state = number(net.state_dict())
    ldm = {"control_model." + ldm_unet(name, []): tensor for name, tensor in state.items()}
    check(reference.convert_controlnet_checkpoint(ldm, net.config), state)
    families["controlnet"] = [[k, list(v.shape), [n]] for (k, v), n in zip(ldm.items(), state)]

    configs["controlnet"] = dict(net.config)
    keys = {"in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types", "up_block_types",
            "cross_attention_dim", "attention_head_dim", "use_linear_projection", "latent_channels", "hidden_size",
            "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "vocab_size",
            "max_position_embeddings", "conditioning_channels", "conditioning_embedding_out_channels"}

    def chosen(value):
        kept = {k: chosen(v) if isinstance(v, dict) else v for k, v in value.items() if k in keys or isinstance(v, dict)}
        return {k: v for k, v in kept.items() if v not in (None, {})}

    with open(OUT / "configs.json", "w") as file:
        json.dump(chosen(configs), file)
    write_names(families)


def write_names(families):
    """One line per tensor; `+` at the end of a name stands for `weight` and `bias` of as many rows, on one line."""
    prefixes = ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model.",
                "cond_stage_model.model.", "control_model."]
    with open(OUT / "names.txt", "w") as file:
        for family, entries in families.items():
            section = None
            shapes = {name: shape for name, shape, _ in entries}
            for name, shape, parts in entries:
                prefix = next((p for p in prefixes if name.startswith(p)), "")
                if prefix != section:
                    print(f"[{family}] {prefix}", file=file)
                    section = prefix
                stem, _, kind = name.rpartition(".")
                paired = len(parts) == 1 and shapes.get(f"{stem}.weight", [0])[:1] == shapes.get(f"{stem}.bias", [])
                if paired and kind == "bias":
                    continue
                if paired:
                    name, parts = f"{stem}.+", [parts[0].removesuffix("weight") + "+"]
                print(name.removeprefix(prefix), ",".join(map(str, shape)), *parts, file=file)


def open_clip(text, state, layers):
    """OpenCLIP's names, with the joint query, key and value matrices."""
    table = reference.DIFFUSERS_TO_LDM_MAPPING["openclip"]
    outer = table["layers"]
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}
    prefix = "cond_stage_model.model."
    ldm, entries = {}, []

    def add(name, tensor, parts):
        ldm[prefix + name] = tensor
        entries.append([prefix + name, list(tensor.shape), parts])

    for name, tensor in state.items():
        if name in outer:
            add(outer[name], tensor, [name])
            continue
        _, _, _, layer, rest = name.split(".", 4)
        where = f"transformer.resblocks.{layer}."
        if rest.startswith("self_attn.q_proj"):
            kind = rest.rsplit(".", 1)[1]
            parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            add(f"{where}attn.in_proj_{kind}", torch.cat([state[part] for part in parts]), parts)
        elif "_proj" not in rest or "out_proj" in rest:
            key, kind = rest.rsplit(".", 1)
            add(f"{where}{inner[key]}.{kind}", tensor, [name])
    made = reference.convert_open_clip_checkpoint(text, ldm, prefix)
    check(made, state)
    # One layer more, which must not come out.
    for name, shape, _ in [e for e in entries if ".resblocks.0." in e[0]]:
        entries.append([name.replace("resblocks.0.", f"resblocks.{layers}."), shape, []])
    entries.append([prefix + "text_projection", [text.config.hidden_size] * 2, []])
    entries.append([prefix + "logit_scale", [], []])
    return entries


def main():
    torch.manual_seed(0)
    forms()
    names()
    for path in sorted(OUT.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
