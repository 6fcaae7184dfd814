"""Paints whole pictures with diffusers in single precision on the CPU: tests/fixtures/pictures/*.png and pictures.json.

Each entry of pictures.json holds the settings in the terms of `impasto generate`'s flags (paths from tests/fixtures; null
or absent: not given) and the picture diffusers paints with them. Two settings of ours differ from diffusers' defaults on
purpose: an init image enters as the mode of the VAE's posterior, not as a sample of it, and inpainting here is diffusers'
raw picture, unmasked pixels included: compare it inside the mask (`compare: "mask"`), outside ours keeps the init image.

For each picture the script prints how far double precision is from single (how well conditioned the picture is) and how
far the picture is from the plain one of the same seed (whether the setting matters at all).

`--inputs DIR` cuts the input pictures again from astronaut.png, chelsea.png, coffee.png and rocket.jpg of scikit-image.
"""

import argparse
import inspect
import json
import tempfile
import warnings
from pathlib import Path

import cv2
import diffusers
import numpy as np
import torch
import transformers
from DeepCache import DeepCacheSDHelper
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.controlnet import pipeline_controlnet_img2img, pipeline_controlnet_inpaint
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_inpaint
from PIL import Image
from transformers import CLIPVisionModelWithProjection

import lora
import tiny

FIXTURES = tiny.ROOT / "tests/fixtures"
OUT = FIXTURES / "pictures"
INPUT = OUT / "input"
BASE = dict(model="tiny/model", prompt="a lighthouse by the sea, oil on canvas", negative="", sampler="ddim",
            sigmas="default", steps=8, guidance=7.5, seed=7, width=96, height=64)
STYLE = dict(style=["pictures/input/painting.png"], style_scale=0.8, style_blocks="full",
             ip_adapter="tiny/ip-adapter.safetensors", image_encoder="tiny/image_encoder")
PLUS = STYLE | dict(ip_adapter="tiny/ip-adapter-plus.safetensors")
CONTROL = dict(structure="pictures/input/map.png", control="none", control_scale=1.0, control_start=0.0, control_end=1.0,
               controlnet="tiny/controlnet")
SIZE_OF_INIT = dict(width=None, height=None)
INPAINT = dict(init="pictures/input/astronaut.png", mask="pictures/input/mask.png", strength=1.0, width=96, height=96)
# The model that comes with the program, at its preset's settings.
MINI = dict(model="../../weights/mini", prompt="a red apple, glossy 3d", steps=20, guidance=4.0, width=64, height=64)

PICTURES = {
    "plain": {},
    "euler": dict(sampler="euler"),
    "euler-karras": dict(sampler="euler", sigmas="karras"),
    "euler-a": dict(sampler="euler-a", steps=10),
    "heun": dict(sampler="heun", steps=6),
    "dpmpp-2m-karras": dict(sampler="dpmpp-2m", sigmas="karras", steps=10),
    "unipc": dict(sampler="unipc", steps=10),
    "pndm": dict(sampler="pndm", steps=10),
    "lcm": dict(sampler="lcm", steps=5, guidance=1.0),
    "euler-exponential": dict(sampler="euler", sigmas="exponential"),
    "heun-karras": dict(sampler="heun", sigmas="karras", steps=6),
    "unipc-exponential": dict(sampler="unipc", sigmas="exponential"),
    "heun-one-step": dict(sampler="heun", steps=1),
    "dpmpp-2m-two-steps": dict(sampler="dpmpp-2m", steps=2),
    "unipc-two-steps": dict(sampler="unipc", steps=2),
    "pndm-two-steps": dict(sampler="pndm", steps=2),
    "seed-above-32-bits": dict(seed=2**32 + 8),
    "negative": dict(negative="blurry, low quality photograph"),
    "guidance-1": dict(guidance=1.0, negative="not looked at"),
    "long-prompt": dict(prompt="a small boat on a stormy sea with dark clouds and white foam, " * 8),
    "unicode-prompt": dict(prompt="  Ein GEMÄLDE am   Meer's edge, 灯台 🎨 1889 "),
    "clip-skip": dict(clip_skip=1),
    "odd-size": dict(width=72, height=56),
    "smallest": dict(width=16, height=8, sampler="euler-a"),
    "tall": dict(width=64, height=128, sampler="dpmpp-2m"),
    "v-prediction": dict(model="tiny/v-prediction", sampler="ddim"),
    "v-prediction-euler": dict(model="tiny/v-prediction", sampler="euler"),
    "v-prediction-unipc": dict(model="tiny/v-prediction", sampler="unipc"),
    "v-prediction-dpmpp-2m": dict(model="tiny/v-prediction", sampler="dpmpp-2m", sigmas="karras"),
    "v-prediction-lcm": dict(model="tiny/v-prediction", sampler="lcm", steps=4, guidance=1.5),
    "v-prediction-pndm": dict(model="tiny/v-prediction", sampler="pndm", seed=4),
    "single-file": dict(model="tiny/single-file.safetensors", width=96, height=96, steps=5),
    "control": CONTROL,
    "control-window": CONTROL | dict(control_scale=0.6, control_start=0.2, control_end=0.7, sampler="unipc", steps=10),
    "control-window-heun": CONTROL | dict(control_start=0.3, control_end=0.6, sampler="heun", steps=5),
    "control-window-pndm": CONTROL | dict(control_start=0.0, control_end=0.5, sampler="pndm"),
    "control-canny": CONTROL | dict(structure="pictures/input/astronaut.png", control="canny", width=96, height=96),
    "control-resized": CONTROL | dict(structure="pictures/input/chelsea.png", control="canny", width=72, height=56,
                                      sampler="euler"),
    "style": STYLE,
    "style-photo": STYLE | dict(style=["pictures/input/rocket.jpg"], style_scale=1.0, sampler="euler-a"),
    "style-guidance-1": STYLE | dict(guidance=1.0),
    "style-two": STYLE | dict(style=["pictures/input/painting.png", "pictures/input/chelsea.png"]),
    "style-blocks": STYLE | dict(style_blocks="style", style_scale=1.0),
    "style-composition": PLUS | dict(style_blocks="style+composition"),
    "style-named-blocks": PLUS | dict(style_blocks="up_blocks.1=0.5,down_blocks.2=1.5,mid_block=0.7", style_scale=0.9),
    "style-plus": PLUS | dict(style=["pictures/input/coffee.png"]),
    "style-plus-bin": PLUS | dict(ip_adapter="tiny/ip-adapter-plus.bin", sampler="euler"),
    "style-full": STYLE | dict(ip_adapter="tiny/ip-adapter-full.safetensors"),
    "style-plus-control": PLUS | CONTROL | dict(control_scale=0.8, sampler="dpmpp-2m", steps=10),
    "init": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.6, steps=10),
    "init-euler-a": SIZE_OF_INIT | dict(init="pictures/input/astronaut.png", strength=0.75, sampler="euler-a"),
    "init-heun": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.5, sampler="heun"),
    "init-pndm": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.7, sampler="pndm", steps=10),
    "init-unipc-karras": SIZE_OF_INIT | dict(init="pictures/input/astronaut.png", strength=0.7, sampler="unipc",
                                             sigmas="karras", steps=10),
    "init-dpmpp-2m": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.65, sampler="dpmpp-2m", steps=12),
    "init-lcm": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.5, sampler="lcm", guidance=1.0),
    "init-euler-karras": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=0.6, sampler="euler", sigmas="karras"),
    "init-full-strength": SIZE_OF_INIT | dict(init="pictures/input/chelsea.png", strength=1.0, sampler="euler"),
    "init-style-control": SIZE_OF_INIT | STYLE | CONTROL | dict(
        init="pictures/input/astronaut.png", structure="pictures/input/astronaut.png", control="canny", strength=0.8),
    "inpaint": INPAINT,
    "inpaint-strength": INPAINT | dict(strength=0.7, sampler="euler-a"),
    "inpaint-dpmpp-2m": INPAINT | dict(mask="pictures/input/mask-small.png", sampler="dpmpp-2m"),
    "inpaint-control": INPAINT | STYLE | CONTROL | dict(structure="pictures/input/astronaut.png", control="canny"),
    "inpaint-unipc": INPAINT | dict(strength=0.9, sampler="unipc", steps=10),
    "inpaint-heun": INPAINT | dict(mask="pictures/input/mask-small.png", strength=0.8, sampler="heun"),
    "inpaint-pndm": INPAINT | dict(strength=0.8, sampler="pndm"),
    "inpaint-lcm": INPAINT | dict(sampler="lcm", steps=4, guidance=1.5),
    "inpaint-9": INPAINT | dict(model="tiny/inpaint", sampler="euler"),
    "mini": MINI,
    "mini-style-control": MINI | dict(
        style=["pictures/input/painting.png"], style_scale=1.0, style_blocks="full", ip_adapter="../../weights/mini/ip-adapter.safetensors",
        image_encoder="../../weights/mini/image_encoder", controlnet="../../weights/mini/controlnet",
        structure="pictures/input/coffee.png", control="canny", control_scale=1.0, control_start=0.0, control_end=1.0),
    "lora-kohya": dict(lora=[["lora/kohya.safetensors", 0.8]]),
    "lora-peft": dict(lora=[["lora/peft.safetensors", 1.0]]),
    "lora-locon": dict(lora=[["lora/locon.safetensors", 0.7]], sampler="euler"),
    "lora-old": dict(lora=[["lora/old.safetensors", -1.2]]),
    "lora-two-style-control": STYLE | CONTROL | dict(lora=[["lora/kohya.safetensors", 0.5], ["lora/peft.safetensors", 0.4]]),
    "guidance-end": dict(guidance_end=0.5, negative="blurry, low quality photograph"),
    "guidance-end-unipc": dict(guidance_end=0.3, sampler="unipc", steps=10),
    "deepcache": dict(fast="deepcache=3"),
    "deepcache-dpmpp-2m": dict(fast="deepcache=2", sampler="dpmpp-2m", sigmas="karras", steps=10),
    "deepcache-init": SIZE_OF_INIT | dict(fast="deepcache=4", init="pictures/input/chelsea.png", strength=0.6, steps=20),
    "deepcache-style-control": STYLE | CONTROL | dict(fast="deepcache=3", control_scale=0.8, control_end=0.6, sampler="unipc", steps=12),
    "mini-deepcache": MINI | dict(fast="deepcache=3"),
    "inpaint-9-strength": INPAINT | dict(model="tiny/inpaint", strength=0.8, sampler="pndm", steps=10),
}

SCHEDULERS = {
    "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler", "dpmpp-2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler",
    "pndm": "PNDMScheduler", "lcm": "LCMScheduler",
}
# InstantStyle's blocks of SD 1.5, in diffusers' form.
BLOCKS = {
    "full": lambda s: s,
    "style": lambda s: {"up": {"block_1": s}},
    "composition": lambda s: {"down": {"block_2": s}, "mid": s},
    "style+composition": lambda s: {"up": {"block_1": s}, "down": {"block_2": s}, "mid": s},
}


def named_blocks(text, scale):
    scales = {"down": {}, "up": {}}
    for item in text.split(","):
        name, value = item.split("=")
        if name == "mid_block":
            scales["mid"] = float(value) * scale
        else:
            side, index = name.split("_blocks.")
            scales[side][f"block_{index}"] = float(value) * scale
    # diffusers fills in a missing side only when it is absent.
    return {side: value for side, value in scales.items() if value != {}}


def load(args):
    """The parts of args["model"], in single precision."""
    if args["model"].endswith(".safetensors"):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = tiny.tokenizer(Path(folder) / "tokenizer", tiny.clip_merges())
        scheduler = diffusers.PNDMScheduler.from_config(tiny.SCHEDULER)
        return tiny.single_file_parts() | dict(tokenizer=tokenizer, scheduler=scheduler)
    pipe = StableDiffusionPipeline.from_pretrained(FIXTURES / args["model"], dtype=torch.float32)
    return {name: part for name, part in pipe.components.items() if name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}


def structure(args):
    image = Image.open(FIXTURES / args["structure"]).convert("RGB")
    if args["control"] == "canny":
        # At the picture's own size; the pipeline then resizes the edges, as in diffusers' guides.
        edges = cv2.Canny(np.array(image), 100, 200)
        image = Image.fromarray(np.repeat(edges[:, :, None], 3, axis=2))
    return image


def paint(args, dtype=torch.float32):
    parts = load(args)
    config = {"default": {}, "karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
    scheduler = getattr(diffusers, SCHEDULERS[args["sampler"]])
    parts["scheduler"] = scheduler.from_config(parts["scheduler"].config, **config[args["sigmas"]])
    kind = "StableDiffusion"
    call = dict(prompt=args["prompt"], negative_prompt=args["negative"] or None, num_inference_steps=args["steps"],
                guidance_scale=args["guidance"], generator=torch.Generator("cpu").manual_seed(args["seed"]),
                clip_skip=args.get("clip_skip"), output_type="np", height=args["height"], width=args["width"])
    # For clip skip, diffusers looks for the text model where transformers 4 kept it.
    if args.get("clip_skip"):
        object.__setattr__(parts["text_encoder"], "text_model", parts["text_encoder"])
    if "structure" in args:
        kind += "ControlNet"
        parts["controlnet"] = diffusers.ControlNetModel.from_pretrained(FIXTURES / args["controlnet"], dtype=torch.float32)
        call["control_image" if "init" in args else "image"] = structure(args)
        call |= dict(controlnet_conditioning_scale=args["control_scale"],
                     control_guidance_start=args["control_start"], control_guidance_end=args["control_end"])
    if "init" in args:
        kind += "Inpaint" if "mask" in args else "Img2Img"
        call |= dict(image=Image.open(FIXTURES / args["init"]).convert("RGB"), strength=args["strength"])
    if "mask" in args:
        call["mask_image"] = Image.open(FIXTURES / args["mask"])
    if "style" in args:
        parts["image_encoder"] = CLIPVisionModelWithProjection.from_pretrained(FIXTURES / args["image_encoder"], dtype=torch.float32)
    pipe = getattr(diffusers, kind + "Pipeline")(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if "style" in args:
        file = FIXTURES / args["ip_adapter"]
        pipe.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
        blocks, scale = args["style_blocks"], args["style_scale"]
        pipe.set_ip_adapter_scale(BLOCKS[blocks](scale) if blocks in BLOCKS else named_blocks(blocks, scale))
        call["ip_adapter_image"] = [[Image.open(FIXTURES / path).convert("RGB") for path in args["style"]]]
    pipe.set_progress_bar_config(disable=True)
    for index, (file, scale) in enumerate(args.get("lora", [])):
        path = FIXTURES / file
        if path.stem in ("kohya", "peft"):
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"lora{index}")
        else:
            lora.changed(pipe.unet, path, scale)
    by_name = {f"lora{index}": scale for index, (file, scale) in enumerate(args.get("lora", [])) if "kohya" in file or "peft" in file}
    if by_name:
        pipe.set_adapters(list(by_name), list(by_name.values()))
    if args.get("guidance_end", 1.0) < 1.0:
        # diffusers' guide to dynamic guidance: the callback of a step switches it off for those that follow.
        last = int(args["steps"] * args["guidance_end"]) - 1

        def without_guidance(pipe, index, timestep, tensors):
            if index == last:
                tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
                pipe._guidance_scale = 0.0
            return tensors

        call |= dict(callback_on_step_end=without_guidance, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    if "fast" in args:
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=int(args["fast"].removeprefix("deepcache=")), cache_branch_id=0)
        helper.enable()
    known = inspect.signature(pipe.__call__).parameters
    return pipe.to(dtype=dtype)(**{k: v for k, v in call.items() if k in known and v is not None}).images[0]


def psnr(a, b):
    return 10 * np.log10(1 / max(np.mean((a - b) ** 2), 1e-20))


def cut_inputs(source):
    """Small crops of pictures in the public domain or CC0, and a painting made of sines."""
    INPUT.mkdir(parents=True, exist_ok=True)
    astronaut = Image.open(source / "astronaut.png").convert("RGB").crop((96, 0, 384, 288)).resize((96, 96), Image.LANCZOS)
    astronaut.save(INPUT / "astronaut.png")
    chelsea = Image.open(source / "chelsea.png").convert("RGB").crop((100, 20, 340, 200)).resize((101, 75), Image.LANCZOS)
    chelsea.save(INPUT / "chelsea.png")
    Image.open(source / "coffee.png").convert("RGB").crop((150, 50, 450, 350)).resize((80, 80), Image.LANCZOS).save(INPUT / "coffee.png")
    Image.open(source / "rocket.jpg").convert("RGB").crop((200, 0, 440, 400)).resize((72, 120), Image.LANCZOS).save(INPUT / "rocket.jpg", quality=92)

    y, x = np.mgrid[0:90, 0:120] / 90.0
    stroke = np.sin(9 * x + 4 * np.sin(5 * y)) + np.sin(14 * (x - y) + 3 * np.sin(7 * x))
    swirl = np.sin(24 * np.hypot(x - 0.4, y - 0.45) + 2 * stroke)
    painting = np.stack([140 + 60 * swirl + 40 * stroke, 110 + 40 * stroke, 120 - 70 * swirl + 20 * np.cos(11 * y)], 2)
    Image.fromarray(painting.clip(0, 255).astype(np.uint8)).save(INPUT / "painting.png")
    ring = 255 * np.exp(-((np.hypot(x - 0.6, y - 0.5) - 0.3) / 0.05) ** 2)
    lines = 200 * (np.abs((3 * x + y) % 1 - 0.5) < 0.06)
    Image.fromarray(np.stack([ring, lines, np.maximum(ring, lines) * 0.8], 2).astype(np.uint8)).save(INPUT / "map.png")

    # A soft edge, so that where the mask is cut at one half is tested too.
    y, x = np.mgrid[0:96, 0:96]
    mask = 255 * (1 / (1 + np.exp((np.hypot(x - 50, (y - 40) * 1.3) - 30) / 3)))
    mask = Image.fromarray(mask.round().astype(np.uint8))
    mask.save(INPUT / "mask.png")
    mask.transpose(Image.Transpose.ROTATE_90).resize((50, 40), Image.BILINEAR).save(INPUT / "mask-small.png")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    diffusers.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    OUT.mkdir(parents=True, exist_ok=True)
    if options.inputs:
        cut_inputs(options.inputs)

    for module in (pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_inpaint, pipeline_controlnet_img2img,
                   pipeline_controlnet_inpaint):
        module.retrieve_latents = lambda encoded, generator=None, sample_mode="argmax": encoded.latent_dist.mode()
    # So that double precision sees the same noise.
    draw = torch.randn
    torch.randn = lambda *size, dtype=None, **more: draw(*size, dtype=torch.float32, **more).to(dtype or torch.float32)

    entries = []
    for name, changes in PICTURES.items():
        args = BASE | changes
        entry = dict(name=name, args=args, picture=f"{name}.png")
        if "mask" in args:
            entry["compare"] = "mask"
        entries.append(entry)
        if options.only and options.only not in name:
            continue
        picture = paint(args)
        Image.fromarray((picture * 255).round().astype(np.uint8)).save(OUT / entry["picture"], optimize=True)
        size = dict(width=picture.shape[1], height=picture.shape[0])
        plain = paint(BASE | size | {"model": args["model"]}) if "9" not in name else picture
        clipped = np.mean((picture <= 0) | (picture >= 1))
        print(f"{name:20} {picture.shape[1]:3}x{picture.shape[0]:<3} contrast {picture.std() * 255:5.1f}  clipped {clipped:5.1%}"
              f"  double {psnr(picture, paint(args, torch.float64)):5.1f} dB  plain {psnr(picture, plain):5.1f} dB")
    (OUT / "pictures.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {len(entries)} entries to {(OUT / 'pictures.json').relative_to(tiny.ROOT)}")


if __name__ == "__main__":
    main()
