"""Tiny CLIP encoders with random weights: transformers' CLIPTextModel and CLIPVisionModelWithProjection.

python tests/reference/clip.py      (torch 2.15.0, transformers 5.23.0)
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

OUT = pathlib.Path(__file__).parents[2] / "tests/fixtures/clip"
OUT.mkdir(parents=True, exist_ok=True)


def randomise(model):
    """Weights large enough that every part of the net shows in its output, and exact in half precision."""
    for name, weight in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        fan_in = weight[0].numel() if weight.dim() > 1 else 25
        weight.data = (centre + torch.randn_like(weight) * fan_in**-0.5).half().float()
    return model.eval()


def save(name, config, weights, inputs, outputs):
    tensors = {f"weights.{key}": value.half() if value.is_floating_point() else value for key, value in weights.items()}
    tensors |= {f"inputs.{key}": value for key, value in inputs.items()}
    tensors |= {f"outputs.{key}": value for key, value in outputs.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    print("wrote", OUT / f"{name}.safetensors", sum(value.numel() for value in weights.values()), "weights")


@torch.no_grad()
def text(name, activation, prefix):
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=20, hidden_act=activation, layer_norm_eps=1e-5, eos_token_id=98,
    )
    model = randomise(CLIPTextModel(config))
    inputs = {"full": torch.randint(0, 99, (2, 20)), "short": torch.randint(0, 99, (1, 7))}
    outputs = {"short": model(inputs["short"]).last_hidden_state, "full": model(inputs["full"]).last_hidden_state}
    states = model(inputs["full"], output_hidden_states=True).hidden_states
    for skip in range(4):
        outputs[f"skip{skip}"] = model.final_layer_norm(states[-(skip + 1)])
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    if prefix:
        weights[prefix + "embeddings.position_ids"] = torch.arange(20).expand(1, -1)
    save(name, config, weights, {key: value.to(torch.uint32) for key, value in inputs.items()}, outputs)


@torch.no_grad()
def vision(name, activation, prefix):
    torch.manual_seed(2)
    # 30 pixels hold four patches of 7 and a rest that no patch sees.
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=56, projection_dim=24, num_hidden_layers=3, num_attention_heads=4,
        image_size=30, patch_size=7, hidden_act=activation, layer_norm_eps=1e-5,
    )
    model = randomise(CLIPVisionModelWithProjection(config))
    pixels = torch.randn(2, 3, 30, 30)
    result = model(pixels, output_hidden_states=True)
    outputs = {"image_embeds": result.image_embeds, "penultimate": result.hidden_states[-2]}
    weights = {key.replace("vision_model.", prefix): value for key, value in model.state_dict().items()}
    if prefix:
        weights[prefix + "embeddings.position_ids"] = torch.arange(17).expand(1, -1)
    save(name, config, weights, {"pixels": pixels}, outputs)


text("text-openai", "quick_gelu", "text_model.")
text("text-openclip", "gelu", "")
vision("vision-openai", "quick_gelu", "vision_model.")
vision("vision-openclip", "gelu", "")
