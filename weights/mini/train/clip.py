"""Stage 3: the tokenizer, and the text and the vision encoder, taught to find each other's picture and caption.

    python clip.py DATA OUT [--steps N] [--threads N] [--start MODEL]

Needs OUT/teacher.pt: besides captions, the vision encoder learns what that net sees in every drawing. Writes OUT/clip.pt (checkpoint; the same command goes on from it) and, at the end, OUT/model/tokenizer, OUT/model/text_encoder
and OUT/image_encoder in diffusers' layout. With --start the vision encoder of MODEL learns on, without the teacher: every picture is compared with the names of all
things and styles, and half of them are mixed of pictures of one style. The text encoder stays what it is, so that what was trained on it stays right. Prints how often
the concept of a picture that was never shown is the nearest, and among the nearest five, of 200 captions, how often its style is the nearest of the seven, and how
often a linear layer tells it.
"""

import json
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from common import NONE, Everything, Pictures, Seen, Stage, arguments, article, batch_of, caption, moved
from data import STYLES
from teacher import load as load_teacher, told

LENGTH = 77
MERGES = 900
START, END = "<|startoftext|>", "<|endoftext|>"
PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
# Those of OpenAI's CLIP, which every program knows.
MEAN, DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def tokenizer(rows, folder):
    """A byte-pair vocabulary of the captions in CLIP's form: bytes, bytes that end a word, merges, two marks."""
    if not (folder / "vocab.json").exists():
        rng = random.Random(0)
        captions = [caption(row, rng)[0] for row in rows for _ in range(6)]
        learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        learned.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        learned.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(__import__("tokenizers").Regex(PATTERN), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=2 * len(letters) + MERGES, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
        )
        learned.train_from_iterator(captions, trainer)
        merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
        words = letters + [letter + "</w>" for letter in letters]
        words += [word for word in ("".join(pair) for pair in merges) if word not in set(words)] + [START, END]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}, ensure_ascii=False))
        lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        marks = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END, model_max_length=LENGTH)
        CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **marks).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def model(words):
    vocabulary, start, end = len(words), words.bos_token_id, words.eos_token_id
    text = dict(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=LENGTH, bos_token_id=start, eos_token_id=end, pad_token_id=end, projection_dim=256,
        hidden_act="quick_gelu",
    )
    vision = dict(
        hidden_size=192, intermediate_size=384, num_hidden_layers=5, num_attention_heads=4, image_size=64, patch_size=8,
        projection_dim=256, hidden_act="quick_gelu",
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=256, attn_implementation="eager"))


def encode(words, captions):
    return words(list(captions), padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids


def seen(pixels):
    """Pixels in -1..1 as the vision encoder takes them."""
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in (MEAN, DEVIATION))
    return (pixels / 2 + 0.5 - mean) / deviation


def embedded(net, pixels):
    """Image embeddings [n, 256]."""
    return net.visual_projection(net.vision_model(seen(pixels)).pooler_output)


def loss_of(net, texts, pictures, see, indices, seed):
    rng = random.Random(seed)
    rows = [pictures.rows[index] for index in indices]
    captions, plain = zip(*(caption(row, rng) for row in rows))
    pixels = see(indices, torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_text = net.text_projection(texts(captions)).float()
        by_image = embedded(net, pixels).float()
    logits = F.normalize(by_text, dim=1) @ F.normalize(by_image, dim=1).T * net.logit_scale.exp().clamp(max=100)
    # A caption without a style fits all pictures of its thing.
    fits = torch.tensor(
        [[a["concept"] == b["concept"] and (p or a["style"] == b["style"]) for b in rows] for a, p in zip(rows, plain)]
    ).float()
    per_text, per_image = fits / fits.sum(1, keepdim=True), fits.T / fits.T.sum(1, keepdim=True).clamp(min=1)
    found = (F.cross_entropy(logits, per_text) + F.cross_entropy(logits.T, per_image)) / 2
    # Against the styles alone.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_style = net.text_projection(texts([phrases[0] for phrases in STYLES.values()])).float()
    styles = F.normalize(by_image, dim=1) @ F.normalize(by_style, dim=1).T * net.logit_scale.exp().clamp(max=100)
    named = torch.tensor([list(STYLES).index(row["style"]) for row in rows])
    return found + 0.5 * F.cross_entropy(styles, named)


class Names:
    """All things and styles, by a text encoder that does not learn."""

    def __init__(self, texts, pictures):
        words = {row["concept"]: row["words"] for row in pictures.rows}
        self.things = texts([article(words[concept]) for concept in pictures.concepts])
        self.styles = texts([phrases[0] for phrases in STYLES.values()])

    def loss(self, net, by_image, things, styles):
        """How far embedded pictures are from theirs among all of them."""
        scale, found = net.logit_scale.exp().clamp(max=100), 0
        for names, right in ((self.things, things), (self.styles, styles)):
            logits = F.normalize(by_image, dim=1) @ F.normalize(net.text_projection(names), dim=1).T * scale
            found = found + F.cross_entropy(logits, right, ignore_index=NONE, label_smoothing=0.05)
        return found


def mixed(pixels, styles, generator, side=8):
    """Pictures whose patches are swapped at random with those in the same place of others of their style: only the style can be told."""
    across = pixels.shape[3] // side
    patches = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # [n, 64, 3, 8, 8]
    found, places = patches.clone(), torch.arange(patches.shape[1])
    for style in styles.unique():
        own = (styles == style).nonzero()[:, 0]
        others = own[torch.rand(len(places), len(own), generator=generator).argsort(1)]
        for at, one in enumerate(own):
            found[one] = patches[others[:, at], places]
    return found.unflatten(1, (across, across)).permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape)


class Seeing(torch.nn.Module):
    """From the image embedding to what the teacher says and sees: 7 logits of styles, 160 features."""

    def __init__(self):
        super().__init__()
        self.style, self.features = torch.nn.Linear(256, len(STYLES)), torch.nn.Linear(256, 160)

    def loss(self, net, judge, pixels, generator):
        """How far the vision encoder is from it, on pictures half of which have the right side of another one: nobody drew these, but in colours that
        somebody used."""
        count, side = len(pixels), pixels.shape[3]
        at = torch.where(torch.rand(count, generator=generator) < 0.5, torch.rand(count, generator=generator), 1.0)
        left = torch.arange(side) < side * at[:, None, None, None]
        pixels = torch.where(left, pixels, pixels.roll(1, 0)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                there = judge.features(pixels)[-1].float().mean((2, 3))
                said = judge.styled(there, pixels).float().softmax(1)
            by_image = embedded(net, pixels).float()
        return F.cross_entropy(self.style(by_image), said) + 1 - F.cosine_similarity(self.features(by_image), there).mean()

    def told(self, net, pictures):
        """The share of held-out pictures whose style the embedding tells."""
        return told(lambda pixels: self.style(embedded(net, pixels)), pictures)


def named_loss(net, names, seeing, pixels, things, styles, generator):
    """Of a batch whose first half is mixed."""
    half = len(pixels) // 2
    pixels = torch.cat([mixed(pixels[:half], styles[:half], generator), pixels[half:]])
    things = torch.cat([torch.full_like(things[:half], NONE), things[half:]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_image = embedded(net, pixels).float()
    return names.loss(net, by_image, things, styles) + F.cross_entropy(seeing.style(by_image), styles, label_smoothing=0.05)


class Pooled:
    """What the text encoder makes of captions [n, 256]; computed once for each if it does not learn."""

    def __init__(self, net, words, learns):
        self.net, self.words, self.learns, self.known = net, words, learns, {}

    def __call__(self, captions):
        if self.learns:
            return self.net.text_model(encode(self.words, captions)).pooler_output
        new = sorted(set(captions) - set(self.known))
        if new:
            with torch.no_grad():
                self.known.update(zip(new, self.net.text_model(encode(self.words, new)).pooler_output))
        return torch.stack([self.known[text] for text in captions])


@torch.no_grad()
def meet(net, texts, pictures):
    """A projection of the texts to begin with, where the pictures already are: least squares."""
    images, pooled = [], []
    for at in range(0, len(pictures.train), 128):
        some = pictures.train[at : at + 128]
        images.append(F.normalize(embedded(net, pictures[some]), dim=1))
        pooled.append(texts([caption(pictures.rows[index], random.Random(index))[0] for index in some]))
    net.text_projection.weight.copy_(torch.linalg.lstsq(torch.cat(pooled), torch.cat(images)).solution.T)


@torch.no_grad()
def ranks(net, words, pictures, count=200, seed=0):
    """For held-out pictures: how often the right caption of `count` is first, among the first five, and the right style first."""
    concepts = sorted({row["concept"] for row in pictures.rows})
    chosen = random.Random(seed).sample(concepts, count)
    names = {row["concept"]: row["words"] for row in pictures.rows}
    texts = encode(words, [article(names[concept]) for concept in chosen])
    by_text = F.normalize(net.text_projection(net.text_model(texts).pooler_output), dim=1)
    shown = [index for index in pictures.held_out if pictures.rows[index]["concept"] in set(chosen)]
    by_image = F.normalize(embedded(net, pictures[shown]), dim=1)
    best = (by_image @ by_text.T).topk(5, dim=1).indices
    right = torch.tensor([chosen.index(pictures.rows[index]["concept"]) for index in shown])[:, None]
    styles = encode(words, [phrases[0] for phrases in STYLES.values()])
    by_style = F.normalize(net.text_projection(net.text_model(styles).pooler_output), dim=1)
    own = torch.tensor([list(STYLES).index(pictures.rows[index]["style"]) for index in shown])
    styled = (by_image @ by_style.T).argmax(1) == own
    return [float(found.float().mean()) for found in (best[:, :1] == right, (best == right).any(1), styled)]


def main():
    options = arguments(__doc__, steps=1_600, batch=96)
    pictures = Pictures(options.data)
    words = tokenizer(pictures.rows, options.out / "model" / "tokenizer") if not options.start else (
        CLIPTokenizer.from_pretrained(options.start / "tokenizer"))
    net = model(words)
    if options.start:
        text = CLIPTextModel.from_pretrained(options.start / "text_encoder", dtype=torch.float32)
        net.text_model.load_state_dict(getattr(text, "text_model", text).state_dict())
        net.text_model.requires_grad_(False)
        vision = CLIPVisionModelWithProjection.from_pretrained(options.start / "image_encoder", dtype=torch.float32)
        net.vision_model.load_state_dict(vision.vision_model.state_dict())
        net.visual_projection.load_state_dict(vision.visual_projection.state_dict())
    texts = Pooled(net, words, not options.start)
    vae = AutoencoderKL.from_pretrained(options.out / "model" / "vae", torch_dtype=torch.float32).eval()
    everything, seeing = Everything(options.data), Seeing()
    see = Seen(everything, vae, options.data)  # the pictures are the first of everything
    if options.start and not (options.out / "clip.pt").exists():
        meet(net, texts, pictures)
    print(f"{len(words)} words, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M weights", flush=True)
    judge, names = (None, Names(texts, pictures)) if options.start else (load_teacher(options.out), None)
    stage = Stage(options.out / "clip.pt", {"clip": net, "seeing": seeing}, peak=1e-3, options=options, weight_decay=0.1)
    while stage.step < options.steps:
        generator = torch.Generator().manual_seed(stage.step)
        some = batch_of(everything.train, 5, stage.step, options.batch)
        if options.start:
            loss = named_loss(net, names, seeing, see(some, generator), everything.things[some], everything.styles[some], generator)
        else:
            indices = batch_of(pictures.train, 2, stage.step, options.batch)
            loss = loss_of(net, texts, pictures, see, indices, stage.step)
            loss = loss + seeing.loss(net, judge, moved(everything[some], generator), generator)
        if stage.learn(loss):
            print("held out: first {:.1%}, first five {:.1%}, style {:.1%}".format(*ranks(net, words, pictures)),
                  f"style by a linear layer {seeing.told(net, pictures):.1%}", flush=True)
    net, seeing = stage.with_means().values()
    print(f"style by a linear layer, running mean {seeing.told(net, pictures):.1%}")
    print("held out, running mean: first {:.1%}, first five {:.1%}, style {:.1%}".format(*ranks(net, words, pictures)))
    text = CLIPTextModel(net.config.text_config)
    text.load_state_dict({name.removeprefix("text_model."): value for name, value in net.state_dict().items()
                          if name.startswith("text_model.")}, strict=True) if not hasattr(text, "text_model") else (
        text.text_model.load_state_dict(net.text_model.state_dict()))
    text.save_pretrained(options.out / "model" / "text_encoder")
    vision = CLIPVisionModelWithProjection(net.config.vision_config)
    vision.vision_model.load_state_dict(net.vision_model.state_dict())
    vision.visual_projection.load_state_dict(net.visual_projection.state_dict())
    vision.save_pretrained(options.out / "image_encoder")
    side = {"height": 64, "width": 64}
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=side, image_mean=MEAN, image_std=DEVIATION).save_pretrained(
        options.out / "image_encoder"
    )


if __name__ == "__main__":
    main()
