"""Stage 5: the IP-Adapter, from a picture of another thing to the style of this one. The UNet is frozen.

    python ip_adapter.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Needs OUT/model and OUT/image_encoder of the stages before. Writes OUT/ip_adapter.pt (checkpoint; the same command goes on from it),
OUT/ip_adapter.png (rows: reference pictures; columns: captions without a style) and, at the end, OUT/ip-adapter.safetensors in the
published adapters' names. Begins with MODEL/ip-adapter.safetensors, if given.

The reference shows another thing in the style of the picture that is learned, and the caption says nothing of style: so the adapter
can only help by telling the style (compare Ye et al. 2023, arXiv:2308.06721, who show the picture itself). What it learns is what the UNet itself
predicts when the caption names the style: unlike the noise that was added, this holds nothing that nobody can know.
"""

import random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from clip import seen as as_seen
from common import OTHER_NAMES, Pictures, Stage, arguments, article, batch_of
from data import STYLES
from unet import SCHEDULE, Texts, chosen, latents_of, noised, pipeline

TOKENS, WIDTH = 4, 256
NOTHING = 0.1
SHOWN = ["a red apple", "a cat face", "a rocket", "a rose", "an owl", "a house"]


@torch.no_grad()
def embeddings_of(pictures, encoder):
    """What the vision encoder makes of every picture [n, 256]."""
    parts = [encoder(as_seen(pictures[list(range(at, min(at + 64, len(pictures.rows))))])).image_embeds
             for at in range(0, len(pictures.rows), 64)]
    return torch.cat(parts)


def attach(unet, start=None):
    """Gives a UNet an adapter that says nothing yet; returns what can be trained, by the published names."""
    torch.manual_seed(0)
    state = {
        "image_proj": {
            "proj.weight": torch.randn(TOKENS * WIDTH, WIDTH) * WIDTH**-0.5,
            "proj.bias": torch.zeros(TOKENS * WIDTH),
            "norm.weight": torch.ones(WIDTH),
            "norm.bias": torch.zeros(WIDTH),
        },
        "ip_adapter": {},
    }
    key, places = 1, []
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for what in ("to_k", "to_v"):
                weight = getattr(attention, what).weight.detach().clone()
                state["ip_adapter"][f"{key}.{what}_ip.weight"] = weight * (what == "to_k")
            places.append((name, key))
            key += 2
    # Numbers 1, 3, 5, ... are the published ones.
    for name, value in load_file(start).items() if start else ():
        group, rest = name.split(".", 1)
        state[group][rest] = value.float()
    unet._load_ip_adapter_weights([state])
    processors = {}
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            slow = IPAdapterAttnProcessor(processor.hidden_size, processor.cross_attention_dim, [TOKENS], [1.0])
            slow.load_state_dict(processor.state_dict())
            processors[name] = slow
        else:
            processors[name] = AttnProcessor()
    unet.set_attn_processor(processors)
    return places


class Adapter(torch.nn.Module):
    """The trained part, as one module: the projection and the keys and values of every place."""

    def __init__(self, unet, places):
        super().__init__()
        self.projection = unet.encoder_hid_proj.image_projection_layers[0]
        self.places = places
        self.values = torch.nn.ModuleList([unet.attn_processors[name] for name, _ in places])

    def published(self):
        weights = {
            "image_proj.proj.weight": self.projection.image_embeds.weight, "image_proj.proj.bias": self.projection.image_embeds.bias,
            "image_proj.norm.weight": self.projection.norm.weight, "image_proj.norm.bias": self.projection.norm.bias,
        }
        for (_, key), values in zip(self.places, self.values):
            weights[f"ip_adapter.{key}.to_k_ip.weight"] = values.to_k_ip[0].weight
            weights[f"ip_adapter.{key}.to_v_ip.weight"] = values.to_v_ip[0].weight
        return {name: value.detach().clone().contiguous() for name, value in weights.items()}


@torch.no_grad()
def samples(painter, embeddings, references, pictures, path, guidance=4.0):
    painter.set_progress_bar_config(disable=True)
    sheet = Image.new("RGB", (7 * 132, len(references) * 132), "white")
    for row, reference in enumerate(references):
        seen = Image.fromarray(pictures.bytes[reference].permute(1, 2, 0).numpy())
        sheet.paste(seen.resize((128, 128), Image.NEAREST), (0, row * 132))
        embedded = embeddings[reference][None, None]
        both = torch.cat([torch.zeros_like(embedded), embedded]).repeat_interleave(1, 0)
        for column, prompt in enumerate(SHOWN):
            picture = painter(
                prompt, num_inference_steps=20, guidance_scale=guidance, generator=torch.Generator().manual_seed(column),
                height=64, width=64, ip_adapter_image_embeds=[both],
            ).images[0]
            sheet.paste(picture.resize((128, 128), Image.NEAREST), ((column + 1) * 132, row * 132))
    sheet.save(path)


def main():
    options = arguments(__doc__, steps=2_000, batch=32)
    model = options.out / "model"
    pictures = Pictures(options.data)
    vae, texts = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval(), Texts(model)
    latents = latents_of(pictures, vae, options.out / "latents.pt")
    encoder = CLIPVisionModelWithProjection.from_pretrained(options.out / "image_encoder", torch_dtype=torch.float32).eval()
    embeddings = embeddings_of(pictures, encoder)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).requires_grad_(False)
    start = options.start / "ip-adapter.safetensors" if options.start else None
    adapter = Adapter(unet, attach(unet, start)).requires_grad_(True)
    unet.to(memory_format=torch.channels_last)
    items = chosen(pictures, pictures.train)
    of_style = {}
    for index in pictures.train:
        of_style.setdefault(pictures.rows[index]["style"], []).append(index)
    references = [others[len(others) // 3] for others in of_style.values()]
    schedule = DDIMScheduler(**SCHEDULE)
    stage = Stage(options.out / "ip_adapter.pt", {"adapter": adapter}, peak=1e-3, options=options, decay=0.998)
    painter = pipeline(model, unet, vae, texts)

    def predict(noisy, steps, hidden, images, scale):
        for values in adapter.values:
            values.scale = [scale]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return unet(noisy, steps, encoder_hidden_states=hidden, added_cond_kwargs={"image_embeds": [images]}).sample.float()

    while stage.step < options.steps:
        draw = random.Random(stage.step)
        asked, named, seen, clean = [], [], [], []
        for index in batch_of(items, 4, stage.step, options.batch):
            row = pictures.rows[index]
            other = draw.choice(of_style[row["style"]])
            while pictures.rows[other]["concept"] == row["concept"]:
                other = draw.choice(of_style[row["style"]])
            words = draw.choice([row["words"], *OTHER_NAMES.get(row["concept"], [])])
            words = draw.choice([words, article(words)])
            nothing = draw.random() < NOTHING
            asked.append("" if nothing else words)
            named.append("" if nothing else f"{words}, {draw.choice(STYLES[row['style']])}")
            seen.append(embeddings[other] * (not nothing))
            clean.append(latents[index, draw.randrange(2)])
        images = torch.stack(seen)[:, None]
        noisy, steps, _ = noised(schedule, torch.stack(clean).float(), torch.Generator().manual_seed(stage.step))
        with torch.no_grad():
            wanted = predict(noisy, steps, texts(named), images, 0.0)
        loss = (predict(noisy, steps, texts(asked), images, 1.0) - wanted).pow(2).mean()
        if stage.learn(loss):
            samples(painter, embeddings, references, pictures, options.out / "ip_adapter.png")
    adapter = stage.with_means()["adapter"]
    samples(painter, embeddings, references, pictures, options.out / "ip_adapter.png")
    save_file(adapter.published(), options.out / "ip-adapter.safetensors")


if __name__ == "__main__":
    main()
