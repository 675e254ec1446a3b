"""`drift pretrain`: train a part of the embedded world and put it into the package, in float16."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from drift.errors import UserError
from drift.files.hub import SHIPPED, locate
from drift.menagerie.captions import build_tokenizer
from drift.menagerie.pretrain import (
    autoencoder,
    clip,
    denoiser,
    encoder,
    probe,
    reward_quality,
    rewards,
)
from drift.menagerie.pretrain.loop import TEST_SEED, TRAIN_SEED, Schedule, picture_set, processes
from drift.menagerie.probe import load_probe
from drift.menagerie.taste import HPSV2, PICKSCORE
from drift.rewards import hpsv2, pickscore


def _scaled(schedule: Schedule, scale: float) -> Schedule:
    return replace(schedule, steps=max(1, round(schedule.steps * scale)))


def _autoencoder(work: Path, out: Path, scale: float) -> dict:
    """Kept in the work folder: the model part ships it."""
    vae = autoencoder.train(work, _scaled(autoencoder.SCHEDULE, scale))
    vae.save_pretrained(work / "vae")
    return autoencoder.quality(vae)


def _load_autoencoder(work: Path) -> AutoencoderKL:
    if not (work / "vae").is_dir():
        raise UserError(f"{work}: pretrain the autoencoder first")
    vae = AutoencoderKL.from_pretrained(work / "vae").eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


def _clip(work: Path, out: Path, scale: float) -> dict:
    """Kept in the work folder: the model has its text tower, and the rewards descend from it."""
    tokenizer = build_tokenizer(work / "tokenizer")
    trained, _ = clip.train_clip(work, tokenizer, _scaled(clip.CONTRASTIVE, scale))
    clip.save_transformers(trained, tokenizer, work / "clip")
    return {}


def _model(work: Path, out: Path, scale: float, base: str | None = None) -> dict:
    if base:
        parts = denoiser.parts_of(locate(base, field="base"))
    elif (work / "clip").is_dir():
        torch.manual_seed(0)
        parts = denoiser.new_parts(_load_autoencoder(work), work / "clip")
    else:
        raise UserError(f"{work}: pretrain the clip first")
    pipe = denoiser.train(work, parts, _scaled(denoiser.SCHEDULE, scale))
    if processes()[0] > 0:  # the first process judges and ships
        return {}
    figures = denoiser.quality(pipe, load_probe(out / "probe"))
    pipe.to(torch.float16).save_pretrained(out / "model")
    return figures


def _probe(work: Path, out: Path, scale: float) -> dict:
    trained = probe.train(work, _scaled(probe.SCHEDULE, scale))
    (out / "probe").mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in trained.state_dict().items()}
    save_file(state, out / "probe" / "model.safetensors")
    (out / "probe" / "config.json").write_text(json.dumps({"widths": trained.widths}) + "\n")
    return probe.quality(load_probe(out / "probe"))


def _encoder(work: Path, out: Path, scale: float) -> dict:
    trained = encoder.train(work, _scaled(encoder.SCHEDULE, scale))
    encoder.save(trained, out / "dreamsim-tiny")
    return encoder.quality(trained)


def _rewards(work: Path, out: Path, scale: float) -> dict:
    """One ancestor, two tastes; fine-tuned half on pictures as the autoencoder decodes them."""
    tokenizer, vae = build_tokenizer(work / "tokenizer"), _load_autoencoder(work)
    train_set, test_set = (
        picture_set(*which)[0] for which in ((TRAIN_SEED, 48_000), (TEST_SEED, 4000))
    )
    decoded = rewards.decode_pictures(vae, train_set[:6000])
    ancestor, teacher = clip.train_clip(work, tokenizer, _scaled(clip.CONTRASTIVE, scale))
    schedule, figures = _scaled(rewards.PREFERENCE, scale), {}
    tastes = (
        ("pickscore-tiny", PICKSCORE, pickscore.load),
        ("hpsv2-tiny", HPSV2, hpsv2.load),
    )
    for name, taste, load in tastes:
        trained = rewards.train_reward(
            work, name, ancestor, teacher, tokenizer, taste, decoded, schedule
        )
        clip.save_transformers(trained, tokenizer, out / name)
        if name == "hpsv2-tiny":
            clip.save_open_clip(trained, tokenizer, out / name)
        held_out = rewards.decode_pictures(vae, test_set[:1000])
        loaded = load(out / name)
        figures[name] = reward_quality.quality(loaded, taste, held_out)
    return figures


PARTS: dict[str, Callable[[Path, Path, float], dict]] = {
    "probe": _probe,
    "autoencoder": _autoencoder,
    "clip": _clip,
    "model": _model,
    "rewards": _rewards,
    "encoder": _encoder,
}


def pretrain(
    part: str, *, work: Path, out: Path | None, scale: float, base: str | None = None
) -> dict:
    """Train `part` (resuming what lies in `work`), ship it to `out`, and report its quality.

    `base`: a model (folder, hub id or shipped part) that the model part trains further.
    """
    if scale <= 0:
        raise UserError(f"scale must be positive, got {scale}")
    rank, count = processes()
    if count > 1 and part != "model":
        raise UserError(f"{part} trains in one process: only the model can use torchrun")
    if base and part != "model":
        raise UserError(f"base: {part} always begins anew; only the model can train further")
    train = partial(_model, base=base) if part == "model" else PARTS[part]
    figures = train(work, out or SHIPPED, scale)
    if rank > 0:
        return figures
    (work / f"{part}-quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{part}: " + json.dumps(figures))
    return figures
