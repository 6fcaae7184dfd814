"""Writes tests/fixtures/lora: LoRA files for tiny/model, their names written in the ways that people have them.

kohya.safetensors     text encoder and attention of the UNet as kohya's trainer writes them, alpha not the rank
locon.safetensors     convolutions and projections too, one of them with `lora_mid`
peft.safetensors      by PEFT and `StableDiffusionPipeline.save_lora_weights`, the scale in the file's notes
old.safetensors       attention alone, as diffusers of early 2023 wrote it

`pictures.py` paints with the first and the third by `load_lora_weights`; today's diffusers does not read the other two, so
`changed` puts them into the weights by the definition.
"""

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

import tiny

OUT = tiny.ROOT / "tests/fixtures/lora"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def modules(net, ends):
    return {name: module for name, module in net.named_modules() if name.endswith(ends) and hasattr(module, "weight")}


def thin(seed, module, rank):
    """Down and up of a module: one changes a picture visibly and does not drown it."""
    weight = module.weight
    if weight.ndim == 4:
        down, up = (rank, weight.shape[1], *weight.shape[2:]), (weight.shape[0], rank, 1, 1)
    else:
        down, up = (rank, weight.shape[1]), (weight.shape[0], rank)
    return [tiny.draw(seed, name, shape, gain=0.7).half() for name, shape in (("down", down), ("up", up))]


def kohya(net, prefix, ends, rank, alpha, seed):
    tensors = {}
    for name, module in modules(net, ends).items():
        flat = prefix + name.replace(".", "_")
        down, up = thin(f"{seed}/{name}", module, rank)
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(alpha).half()}
    return tensors


@torch.no_grad()
def changed(unet, file, scale):
    """Adds the changes in a file to a UNet's weights."""
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    for name, module in unet.named_modules():
        flat = "lora_unet_" + name.replace(".", "_")
        layer, _, projection = name.removesuffix(".0").rpartition(".")
        for down, up, mid, alpha in (
            [f"{flat}.lora_{role}.weight" for role in ("down", "up", "mid")] + [f"{flat}.alpha"],
            [f"{layer}.processor.{projection}_lora.{role}.weight" for role in ("down", "up", "mid")] + [""],
        ):
            if down not in tensors or not hasattr(module, "weight"):
                continue
            factor = scale * (float(tensors[alpha]) / len(tensors[down]) if alpha in tensors else 1.0)
            thick, thin = tensors[up].flatten(1), tensors[down].flatten(1)
            change = torch.einsum("pi,ijkl,jr->prkl", thick, tensors[mid], thin) if mid in tensors else thick @ thin
            module.weight += factor * change.reshape(module.weight.shape)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    pipe = StableDiffusionPipeline.from_pretrained(tiny.OUT / "model", dtype=torch.float32)
    unet, text = pipe.unet, pipe.text_encoder
    te = "lora_te_" if hasattr(text, "text_model") else "lora_te_text_model_"
    save_file(kohya(unet, "lora_unet_", ATTENTION, 4, 3.0, "kohya") | kohya(text, te, TEXT, 2, 1.0, "kohya text"),
              OUT / "kohya.safetensors")

    tensors = kohya(unet, "lora_unet_", ("conv1", "conv2", "proj_in", "conv_shortcut", "time_emb_proj"), 3, 2.0, "locon")
    # One convolution in three factors: ranks 2 and 3.
    name = "lora_unet_mid_block_resnets_0_conv1"
    conv = unet.mid_block.resnets[0].conv1.weight
    for role, shape in {"down": (3, conv.shape[1], 1, 1), "mid": (2, 3, 3, 3), "up": (conv.shape[0], 2, 1, 1)}.items():
        tensors[f"{name}.lora_{role}.weight"] = tiny.draw("mid", role, shape, gain=0.7).half()
    save_file(tensors, OUT / "locon.safetensors")

    layers, notes = {}, {}
    for part, net, ends in (("unet", unet, ATTENTION), ("text_encoder", text, TEXT)):
        own = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 1} if part == "unet" else {}
        config = LoraConfig(r=4, lora_alpha=6, target_modules=list(ends), alpha_pattern=own)
        inject_adapter_in_model(config, net)
        layers[f"{part}_lora_layers"] = {
            name: tiny.draw(f"peft/{part}", name, tensor.shape, gain=0.7).half()
            for name, tensor in get_peft_model_state_dict(net).items()
        }
        notes[f"{part}_lora_adapter_metadata"] = config.to_dict() | {"target_modules": sorted(ends)}
    StableDiffusionPipeline.save_lora_weights(OUT, weight_name="peft.safetensors", **layers, **notes)
    pipe = StableDiffusionPipeline.from_pretrained(tiny.OUT / "model", dtype=torch.float32)
    unet = pipe.unet

    old = {}
    for name, module in modules(unet, ATTENTION).items():
        layer, projection = name.removesuffix(".0").rsplit(".", 1)
        down, up = thin(f"old/{name}", module, 2)
        old |= {f"{layer}.processor.{projection}_lora.down.weight": down, f"{layer}.processor.{projection}_lora.up.weight": up}
    save_file(old, OUT / "old.safetensors")
    for path in sorted(OUT.glob("*.safetensors")):
        print(f"{path.stat().st_size:9} {path.relative_to(tiny.ROOT)}  {len(load_file(path))} tensors")


if __name__ == "__main__":
    main()
