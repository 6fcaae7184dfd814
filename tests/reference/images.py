"""Pictures in every format, resized and prepared by Pillow, transformers and diffusers -> tests/fixtures/image/.

Pillow 12.3.0, transformers 5.23.0, diffusers 0.42.1, OpenCV 4.11.0 (only to write 16-bit PNGs).
astronaut.png (NASA, public domain), chelsea.png, coffee.png (CC0) and rocket.png (public domain) in that folder are crops
of scikit-image's test pictures and inputs of this script.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps, PngImagePlugin
from safetensors.torch import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

OUT = Path(__file__).parents[1] / "fixtures/image"
CROPS = ["astronaut", "chelsea", "coffee", "rocket"]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def crop(name):
    return Image.open(OUT / f"{name}.png").convert("RGB")


def formats():
    """Small files of every kind, and the RGB and L pictures they stand for."""
    folder = OUT / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    rgb = crop("astronaut").crop((40, 20, 64, 38))
    grey = rgb.convert("L")
    alpha = Image.fromarray(rng.integers(0, 256, (18, 24), dtype=np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    palette = rgb.quantize(16)
    wide = rng.integers(0, 65536, (18, 24, 4), dtype=np.uint16)

    rgb.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    grey.save(folder / "grey.png")
    grey_alpha.save(folder / "grey-alpha.png")
    grey.point(lambda v: 255 * (v > 99)).convert("1").save(folder / "bilevel.png")
    palette.save(folder / "palette.png")
    palette.save(folder / "palette-transparent.png", transparency=bytes(range(0, 256, 16)))
    cv2.imwrite(str(folder / "rgb16.png"), wide[..., :3])
    cv2.imwrite(str(folder / "rgba16.png"), wide)
    cv2.imwrite(str(folder / "grey16.png"), wide[..., 0])
    rgb.save(folder / "lossless.webp", lossless=True)
    rgba.save(folder / "lossless-alpha.webp", lossless=True, exact=True)
    rgb.save(folder / "lossy.webp", quality=90)
    rgb.save(folder / "444.jpg", quality=95, subsampling=0)
    rgb.save(folder / "420.jpg", quality=95, subsampling=2)
    rgb.save(folder / "progressive.jpg", quality=95, subsampling=0, progressive=True)
    grey.save(folder / "grey.jpg", quality=95)
    rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.save(folder / f"upright-{orientation}.png", exif=exif)
    rgb.save(folder / "upright-6.jpg", exif=exif_of(6), quality=95, subsampling=0)
    rgb.save(folder / "upright-8.webp", exif=exif_of(8), lossless=True)

    expected = {}
    for file in sorted(folder.iterdir()):
        picture = ImageOps.exif_transpose(Image.open(file))
        if picture.mode == "I;16":  # Pillow clips these to white; we take the high byte, as it does for RGB
            picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGB", picture.size, "white")
            black = Image.new("RGB", picture.size, "black")
            white.paste(picture, mask=picture.getchannel("A"))
            black.paste(picture, mask=picture.getchannel("A"))
        else:
            white = black = picture.convert("RGB")
        expected[f"{file.name}/rgb"] = torch.from_numpy(np.array(white))
        expected[f"{file.name}/grey"] = torch.from_numpy(np.array(black.convert("L")))
    save_file(expected, OUT / "formats.safetensors")


def jpeg():
    """Samplings, scans, restarts and sizes that end amid blocks, with hashes of Pillow's pixels."""
    folder = OUT / "jpeg"
    folder.mkdir(exist_ok=True)
    astronaut = np.array(crop("astronaut"))
    samplings = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "440": 0x121111, "411": 0x411111}
    for width, height in [(1, 1), (5, 3), (4, 9), (17, 33), (40, 23)]:
        pixels = np.ascontiguousarray(astronaut[30 : 30 + height, 50 : 50 + width, ::-1])
        for sampling, factors in samplings.items():
            for kind, progressive, restart in [("restarts", 0, 2), ("progressive", 1, 0)]:
                options = {
                    cv2.IMWRITE_JPEG_QUALITY: 80,
                    cv2.IMWRITE_JPEG_SAMPLING_FACTOR: factors,
                    cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
                    cv2.IMWRITE_JPEG_RST_INTERVAL: restart,
                }
                file = folder / f"{width}x{height}-{sampling}-{kind}.jpg"
                cv2.imwrite(str(file), pixels, [value for option in options.items() for value in option])
    picture = crop("chelsea").crop((10, 20, 59, 41))
    picture.save(folder / "rgb.jpg", keep_rgb=True, quality=90)
    picture.convert("L").save(folder / "grey-progressive.jpg", progressive=True, quality=90, restart_marker_blocks=2)
    picture.save(folder / "coarse.jpg", quality=2, optimize=True)
    hashes = {file.name: sha256(Image.open(file).convert("RGB").tobytes()) for file in sorted(folder.iterdir())}
    (OUT / "jpeg.json").write_text(json.dumps(hashes, indent=1) + "\n")


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def text():
    """Text chunks as Pillow writes them."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, caf\u00e9\nSteps: 20")
    info.add_text("squeezed", "long " * 100, zip=True)
    info.add_itxt("caption", "\u732b and \U0001f408", lang="ja", tkey="kept out")
    info.add_itxt("squeezed caption", "\u732b" * 200, zip=True)
    Image.new("RGB", (2, 2), "red").save(OUT / "text.png", pnginfo=info)


def resize():
    """Hashes of Pillow's resized pixels; crop pictures, and noise whose overshoots hit both ends of the range."""
    noise = np.random.default_rng(3).integers(0, 2, (53, 37, 3), dtype=np.uint8) * 255
    Image.fromarray(noise).save(OUT / "noise.png", optimize=True)
    sizes = [(64, 64), (512, 384), (224, 299), (1, 1), (1, 70), (90, 1), (33, 47), (2, 3)]
    cases = []
    for name in [*CROPS, "noise", "pixel", "row", "column"]:
        whole = {"pixel": (5, 7, 6, 8), "row": (0, 9, 37, 10), "column": (8, 0, 9, 53)}.get(name)
        picture = crop("noise").crop(whole) if whole else crop(name)
        own = [(picture.width, 40), (40, picture.height), (picture.width, picture.height), (picture.width + 1, picture.height - 1 or 1)]
        for size in sizes + own:
            for kind, filter in [("lanczos", Image.LANCZOS), ("bicubic", Image.BICUBIC)]:
                for mode in ["RGB", "L"]:
                    small = picture.convert(mode).resize(size, filter)
                    cases.append({"picture": name, "filter": kind, "mode": mode, "width": size[0], "height": size[1], "sha256": sha256(small.tobytes())})
    (OUT / "resize.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def clip():
    """CLIP pixels: whole at small sizes, hashed at the real one."""
    tensors, hashes = {}, {}
    pictures = {name: crop(name) for name in CROPS}
    pictures["noise"] = crop("noise")
    pictures["upscaled"] = crop("noise").crop((3, 4, 20, 12))
    for name, picture in pictures.items():
        for size in [16, 31, 224]:
            processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
            pixels = torch.as_tensor(np.array(processor(picture, return_tensors="np")["pixel_values"]))
            if size == 224:
                hashes[name] = sha256(pixels.numpy().tobytes())
            else:
                tensors[f"{name}/{size}"] = pixels
    save_file(tensors, OUT / "clip.safetensors")
    (OUT / "clip.json").write_text(json.dumps(hashes, indent=1) + "\n")


def tensors():
    """VaeImageProcessor on all byte values, and back from values at and around the rounding ties."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32)).convert("RGB")
    grey = ramp.getchannel(0)
    processor = VaeImageProcessor(vae_scale_factor=1)
    plain = VaeImageProcessor(vae_scale_factor=1, do_normalize=False)
    masks = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    # One row per channel value: k + 1/2 levels exactly where f32 can hold them, their neighbours, and the outside.
    levels = (torch.arange(0, 255) + 0.5) / 255 * 2 - 1
    outside = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 1.5, float("inf"), float("-inf")])
    row = torch.cat([levels, levels.nextafter(torch.tensor(9.0)), levels.nextafter(torch.tensor(-9.0)), outside])
    row = torch.cat([row, row[: (-len(row)) % 3]])
    values = row.reshape(1, 3, 1, -1)
    values = torch.cat([values, values.flip(-1)])
    pictures = [torch.from_numpy(np.array(picture)) for picture in processor.postprocess(values, output_type="pil")]
    save_file(
        {
            "signed": processor.preprocess(ramp).contiguous(),
            "unit": plain.preprocess(ramp).contiguous(),
            "mask": masks.preprocess(grey).contiguous(),
            "values": values.contiguous(),
            "pictures": torch.stack(pictures),
        },
        OUT / "tensor.safetensors",
    )


def main():
    text()
    resize()
    formats()
    jpeg()
    clip()
    tensors()
    files = [file for file in OUT.rglob("*") if file.is_file()]
    print(f"{OUT}: {len(files)} files, {sum(file.stat().st_size for file in files)} bytes")


if __name__ == "__main__":
    main()
