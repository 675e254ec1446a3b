"""Write small random checkpoints in the published layouts, and the reference code's scores of them.

Run by hand, in an environment of its own (the rewards need none of it):

    pip install torch torchvision transformers open_clip_torch timm ftfy
    pip install --no-deps image-reward==1.5 hpsv2==1.2.0
    python tests/golden/make_rewards.py

References: transformers' own CLIPModel and CLIPProcessor for PickScore and CLIP score; open_clip's
CLIP and tokenizer with the hpsv2 package's preprocessing for HPSv2; the image-reward package's
models, heads and preprocessing for ImageReward and the aesthetic predictor.

The references resize as PIL does, in 8 bits, except HPSv2's. Here they resize the float tensor
(torchvision's own resize) and clamp, so that scores can be compared to 1e-5; how far that is from
PIL's pixels, tests/rewards/test_clip_score.py holds.
Weights are multiples of 1/64, exact in the float16 they are stored in. The merges are the first of
CLIP's own (OpenAI, MIT).
"""

import functools
import gzip
import json
import shutil
from pathlib import Path

# Before the others: it makes torchvision importable.
from packages import MED_CONFIG, bare, build_image_reward, floats, full_size, import_image_reward

# isort: split
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer, basic_clean, default_bpe
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

HERE = Path(__file__).parent / "rewards"
SIDE = 32  # of the models' input
MERGES = 300  # of CLIP's 48,894: the most frequent
SIZES = ((32, 32), (45, 64), (20, 30), (64, 33), (21, 96), (100, 35))  # height, width
PROMPTS = (
    "a fox",
    "A Cat at NIGHT, it's oil on canvas!",
    "a &amp;quot;red&quot; barn &lt; 3 miles away",
    "“curly” quotes and ‘single’ ones",
    "",
    "  spaces\t and\nlines  ",
    "a very long prompt about " + "many animals and their houses, " * 40,
    "naïve café, 12 ants & 1 elephant",
    "狐 and 🦊",
    "a dog's dinner -- they've eaten",
    "an owl",
    "a fox",
)


# --- material ---------------------------------------------------------------------------------


def draw_images() -> dict[str, np.ndarray]:
    """Two pictures "2 3 H W" of each size: waves, a rectangle, some noise; uint8."""
    rng, drawn = np.random.default_rng(0), {}
    for height, width in SIZES:
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        a, b, c = rng.uniform(2, 12, (3, 2, 3, 1, 1))
        picture = 0.5 + 0.4 * np.sin(a * x + b * y + c)
        picture[:, :, height // 4 : height // 2, width // 3 : width // 2] = rng.random((2, 3, 1, 1))
        picture += 0.05 * rng.standard_normal(picture.shape)
        drawn[f"{height}x{width}"] = (255 * picture.clip(0, 1)).round().astype(np.uint8)
    return drawn


def to_float(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).float() / 255


def shake(module: nn.Module, seed: int) -> nn.Module:
    """Random multiples of 1/64 for every parameter: LayerNorms near 1, matrices by fan-in."""
    torch.manual_seed(seed)
    for name, p in module.named_parameters():
        if p.ndim == 0:  # CLIP's logit_scale
            value = torch.tensor(2.5)
        elif p.ndim == 1:
            value = 0.2 * torch.randn_like(p) + (1 if name.endswith("weight") else 0)
        else:
            value = 1.5 * torch.randn_like(p) / p[0].numel() ** 0.5
        p.data = (64 * value).round() / 64
    return module.eval().requires_grad_(False)


def halves(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {n: t.half().contiguous() if t.is_floating_point() else t for n, t in state.items()}


def pair(score) -> list[float]:
    """`score(images, prompts)` of each size's two pictures with the prompts in their order."""
    scores, prompts = [], list(PROMPTS)
    for pictures in draw_images().values():
        scores += score(to_float(pictures), [prompts.pop(0), prompts.pop(0)]).flatten().tolist()
    return [round(value, 8) for value in scores]


# --- CLIP's tokenizer -------------------------------------------------------------------------


def write_bpe(folder: Path, merges: int) -> SimpleTokenizer:
    """open_clip's tokenizer of the first merges; the same as vocab.json and merges.txt."""
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[: merges + 1]
    file = folder / "bpe.txt.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    theirs = SimpleTokenizer(str(file))
    file.unlink()
    words = [*list(theirs.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines[1:], ""]))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return theirs


def ids(tokenizer: SimpleTokenizer) -> list[list[int]]:
    """Each prompt's tokens up to the end."""
    rows = tokenizer(list(PROMPTS)).tolist()
    return [row[: row.index(tokenizer.eot_token_id) + 1] for row in rows]


def check_full_vocabulary(folder: Path) -> None:
    """The published file format with all of CLIP's merges gives open_clip's tokens."""
    folder.mkdir()
    theirs = write_bpe(folder, 49152 - 256 - 2)
    ours = CLIPTokenizer.from_pretrained(str(folder))
    cleaned = [basic_clean(prompt) for prompt in PROMPTS]
    assert ours(cleaned, truncation=True, max_length=77).input_ids == ids(theirs)
    assert ours.eos_token_id == theirs.eot_token_id == 49407
    shutil.rmtree(folder)


# --- CLIP: PickScore, CLIP score, aesthetic predictor -------------------------------------------


def write_clip(folder: Path) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIPModel's folder as on the hub."""
    tokens = write_bpe(folder, MERGES)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "hidden_act": "quick_gelu"}
    text = {"vocab_size": tokens.vocab_size, "max_position_embeddings": 77}
    text |= {"bos_token_id": tokens.sot_token_id, "eos_token_id": tokens.eot_token_id}
    vision = {"image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text | shape, vision_config=vision | shape, projection_dim=24)
    model = shake(CLIPModel(config), seed=3)
    model.visual_projection.weight.neg_()  # most cosines positive: CLIP score is cut at 0
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    images.save_pretrained(folder)  # as preprocessor_config.json
    model.config.save_pretrained(folder)
    save_file(halves(model), folder / "model.safetensors", {"format": "pt"})
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, CLIPProcessor.from_pretrained(folder)


def processor_pixels(processor: CLIPProcessor, images: torch.Tensor) -> torch.Tensor:
    """The processor's own steps, on floats, clamped after resizing."""
    steps = processor.image_processor
    resized = steps.resize(images, size=steps.size, resample=steps.resample).clamp(0, 1)
    cut = steps.center_crop(resized, size=steps.crop_size)
    return steps.normalize(cut, mean=steps.image_mean, std=steps.image_std)


@torch.no_grad()
def clip_logits(model, processor, images, prompts) -> torch.Tensor:
    tokens = processor.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
    pixels = processor_pixels(processor, images)
    return model(pixel_values=pixels, **tokens).logits_per_image.diagonal()


def shrink(head: nn.Module, width: int) -> nn.Module:
    """The package's head with its own layout, narrower."""
    for layer, out in zip((0, 2, 4, 6, 7), (32, 16, 8, 4, 1), strict=True):
        head.layers[layer], width = nn.Linear(width, out), out
    return head


@torch.no_grad()
def aesthetic_score(model, head, transform, images, prompts) -> torch.Tensor:
    pixels = floats(transform, images)
    features = model.get_image_features(pixels)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    return head(F.normalize(features)).float()


# --- ImageReward and HPSv2 --------------------------------------------------------------------


def write_bert_vocabulary(folder: Path) -> BertTokenizer:
    """A vocab.txt of words, letters and pieces of words, as bert-base-uncased's repository has."""
    words = "a an the fox cat at night red barn owl many animals and their houses prompt about very"
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["##" + letter for letter in letters] + ["##s", "##ly", "##ing"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*special, *letters, *pieces, *words.split()])
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    settings = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return BertTokenizer.from_pretrained(str(folder))


def write_image_reward(folder: Path, package):
    tokenizer = write_bert_vocabulary(folder)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "max_position_embeddings": 40}
    config = MED_CONFIG | small | {"vocab_size": len(tokenizer) + 2}  # [DEC] and [ENC]
    (folder / "med_config.json").write_text(json.dumps(config))
    vit = {"img_size": SIDE, "patch_size": 8, "embed_dim": 128, "depth": 1, "num_heads": 2}
    model = build_image_reward(package, folder / "med_config.json", vit, tokenizer)
    model.blip.vision_proj, model.blip.text_proj = nn.Linear(128, 2), nn.Linear(32, 2)
    shrink(model.mlp, 32)
    model.preprocess = package._transform(SIDE)
    shake(model, seed=1)
    torch.save(halves(model), folder / "ImageReward.pt")
    return model, tokenizer


@torch.no_grad()
def image_reward_score(model, tokenizer, images, prompts) -> torch.Tensor:
    tokens = tokenizer(
        prompts, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    pixels = floats(model.preprocess, images)
    return model.score_gard(tokens.input_ids, tokens.attention_mask, pixels)


def write_hpsv2(folder: Path):
    """open_clip's CLIP, as HPS_v2.1_compressed.pt holds it, with CLIP's tokenizer beside it."""
    tokens = write_bpe(folder, MERGES)
    shape = {"layers": 2, "width": 128, "head_width": 64, "mlp_ratio": 0.5}
    vision = open_clip.CLIPVisionCfg(**shape, patch_size=8, image_size=SIDE)
    text = open_clip.CLIPTextCfg(
        layers=2, width=64, heads=1, mlp_ratio=0.75, vocab_size=tokens.vocab_size
    )
    model = shake(open_clip.CLIP(24, vision, text), seed=2)
    torch.save({"state_dict": halves(model)}, folder / "HPS_v2.1_compressed.pt")
    return model, tokens


@torch.no_grad()
def hpsv2_score(model, tokenizer, images, prompts) -> torch.Tensor:
    from hpsv2.src.open_clip.transform import image_transform

    steps = image_transform(SIDE, is_train=False, resize_longest_max=True).transforms
    pixels = torch.stack([steps[3](steps[2](image)) for image in images])  # 0, 1: PIL to tensor
    image, text, _ = model(pixels, tokenizer(prompts))
    return (image @ text.T).diagonal()


def write(name: str, content) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (HERE / name).write_text(text + "\n")


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    for name in ("clip", "hpsv2", "imagereward", "aesthetic"):
        (HERE / name).mkdir(parents=True)
    package = import_image_reward()
    bare("hpsv2.src.open_clip")
    check_full_vocabulary(HERE / "full")
    np.savez_compressed(HERE / "images.npz", **draw_images())

    clip, processor = write_clip(HERE / "clip")
    logits = pair(functools.partial(clip_logits, clip, processor))
    cosine = np.array(logits) / np.exp(2.5)
    head = shake(shrink(package.MLP(24), 24), seed=4)
    torch.save(halves(head), HERE / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth")
    transform = package._transform(SIDE)  # OpenAI's, as the predictor's own script uses it
    hps, tokenizer = write_hpsv2(HERE / "hpsv2")
    image_reward = write_image_reward(HERE / "imagereward", package)
    scores = {
        "prompts": PROMPTS,
        "open_clip_tokens": ids(tokenizer),
        "pickscore": logits,
        "clip": (100 * cosine.clip(0)).round(8).tolist(),
        "aesthetic": pair(functools.partial(aesthetic_score, clip, head, transform)),
        "hpsv2.1": pair(functools.partial(hpsv2_score, hps, tokenizer)),
        "imagereward": pair(functools.partial(image_reward_score, *image_reward)),
    }
    write("scores.json", scores)
    write("layouts.json", full_size(package, HERE))
    for name, row in list(scores.items())[2:]:
        print(name, row)


if __name__ == "__main__":
    main()
