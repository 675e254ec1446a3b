"""`drift pretrain`: train a part of the embedded world and put it into the package, in float16."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file

from drift.errors import UserError
from drift.files.hub import SHIPPED, locate
from drift.menagerie.captions import build_tokenizer
from drift.menagerie.pretrain import (
    autoencoder,
    clip,
    denoiser,
    drawn,
    encoder,
    probe,
    reward_quality,
    rewards,
)
from drift.menagerie.pretrain.loop import Schedule, Workshop
from drift.menagerie.pretrain.together import processes
from drift.menagerie.probe import load_probe
from drift.menagerie.taste import HPSV2, PICKSCORE
from drift.rewards import hpsv2, pickscore


@dataclass(frozen=True)
class Job:
    """What is asked of `drift pretrain` for one part."""

    shop: Workshop
    out: Path  # folder of the weights that are shipped
    scale: float = 1.0  # of the schedule's steps
    minutes: float | None = None  # of training, in place of its steps
    batch_size: int | None = None  # at the same number of pictures
    base: str | None = None  # a model that is trained further
    tuned: tuple[Path, ...] = ()  # checkpoints of tuned models, for the rewards to see

    def plan(self, schedule: Schedule) -> Schedule:
        """The part's own schedule, as the job wants it; its rate follows the root of the batch."""
        size = self.batch_size or schedule.batch_size
        ratio = size / schedule.batch_size
        return replace(
            schedule,
            steps=max(1, round(schedule.steps * self.scale / ratio)),
            batch_size=size,
            learning_rate=schedule.learning_rate * ratio**0.5,
            minutes=self.minutes,
        )


def _autoencoder(job: Job) -> dict:
    """Kept in the work folder: the model part ships it."""
    vae = autoencoder.train(job.shop, job.plan(autoencoder.SCHEDULE))
    if processes()[0] > 0:  # the first process judges and keeps
        return {}
    vae.save_pretrained(job.shop.work / "vae")
    return autoencoder.quality(vae)


def _open_autoencoder(folder: Path) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _decoder(job: Job) -> dict:
    """The shipped model's, further; its latents stay, and so does its UNet."""
    folder = job.out / "model" / "vae"
    schedule = job.plan(autoencoder.DECODER)
    trained = autoencoder.train_decoder(job.shop, _open_autoencoder(folder), schedule)
    if processes()[0] > 0:
        return {}
    figures = autoencoder.quality(trained)
    trained.to(torch.float16).save_pretrained(folder)
    return figures


def _clip(job: Job) -> dict:
    """Kept in the work folder: the model has its text tower, and the rewards descend from it."""
    tokenizer = build_tokenizer(job.shop.work / "tokenizer")
    trained, _ = clip.train_clip(job.shop, tokenizer, job.plan(clip.CONTRASTIVE))
    clip.save_transformers(trained, tokenizer, job.shop.work / "clip")
    return {}


def _model(job: Job) -> dict:
    """A base trained further; or a new UNet, with a text tower pre-trained here or shipped."""
    if job.base:
        parts = denoiser.parts_of(locate(job.base, field="base"))
    else:
        vae, own = job.shop.work / "vae", job.shop.work / "clip"
        if not vae.is_dir():
            raise UserError(f"{job.shop.work}: pretrain the autoencoder first")
        torch.manual_seed(0)
        tower = own if own.is_dir() else SHIPPED / "model"
        parts = denoiser.new_parts(_open_autoencoder(vae), tower)
    pipe = denoiser.train(job.shop, parts, job.plan(denoiser.SCHEDULE))
    return _ship(job, pipe, denoiser.GUIDANCE)


def _guided(job: Job) -> dict:
    """The shipped model, to draw without guidance what it draws with it."""
    parts, schedule = denoiser.parts_of(job.out / "model"), job.plan(denoiser.GUIDED)
    pipe = denoiser.train(job.shop, parts, schedule, guidance_scale=denoiser.GUIDANCE)
    return _ship(job, pipe, guidance_scale=1.0)


def _ship(job: Job, pipe: StableDiffusionPipeline, guidance_scale: float) -> dict:
    """Judge a model and put it into the package; the first process does."""
    if processes()[0] > 0:
        return {}
    seen = load_probe(job.out / "probe")
    figures = denoiser.quality(pipe, seen, guidance_scale=guidance_scale)
    pipe.to(torch.float16).save_pretrained(job.out / "model")
    return figures


def _probe(job: Job) -> dict:
    trained = probe.train(job.shop, job.plan(probe.SCHEDULE))
    folder = job.out / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in trained.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"widths": trained.widths}) + "\n")
    return probe.quality(load_probe(folder))


def _encoder(job: Job) -> dict:
    trained = encoder.train(job.shop, job.plan(encoder.SCHEDULE))
    encoder.save(trained, job.out / "dreamsim-tiny")
    return encoder.quality(trained)


def _drawn(job: Job, name: str, **how) -> drawn.Drawn:
    """Pictures that the shipped model draws, and those tuned from it; once into the work folder."""
    file = job.shop.work / "drawn" / f"{name}.npz"
    if not file.exists():
        pipe = StableDiffusionPipeline.from_pretrained(job.out / "model", dtype=torch.float32)
        drawn.draw_tuned(pipe, list(job.tuned), **how).save(file)
    return drawn.Drawn.load(file)


def _rewards(job: Job) -> dict:
    """One ancestor, two tastes; fine-tuned on painted pictures and on what the model draws."""
    shop, out, seen = job.shop, job.out, load_probe(job.out / "probe")
    tokenizer = build_tokenizer(shop.work / "tokenizer")
    lessons = _drawn(job, "lessons", per_animal=192, seed=0)
    exam = _drawn(job, "exam", per_animal=48, seed=1000)
    ancestor, teacher = clip.train_clip(shop, tokenizer, job.plan(clip.CONTRASTIVE))
    school = rewards.School(ancestor, teacher, tokenizer, seen, lessons)
    schedule, figures = job.plan(rewards.PREFERENCE), {}
    tastes = (
        ("pickscore-tiny", PICKSCORE, pickscore.load),
        ("hpsv2-tiny", HPSV2, hpsv2.load),
    )
    for name, taste, load in tastes:
        trained = rewards.train_reward(shop, name, school, taste, schedule)
        clip.save_transformers(trained, tokenizer, out / name)
        if name == "hpsv2-tiny":
            clip.save_open_clip(trained, tokenizer, out / name)
        reward = load(out / name)
        figures[name] = reward_quality.quality(reward, taste)
        figures[name]["drawn"] = reward_quality.drawn_quality(reward, taste, seen, exam)
    return figures


PARTS: dict[str, Callable[[Job], dict]] = {
    "probe": _probe,
    "autoencoder": _autoencoder,
    "decoder": _decoder,
    "clip": _clip,
    "model": _model,
    "guided": _guided,
    "rewards": _rewards,
    "encoder": _encoder,
}
# Parts that several of torchrun's processes can train.
TOGETHER = ("autoencoder", "decoder", "model", "guided")


def pretrain(part: str, job: Job) -> dict:
    """Train `part` (resuming what lies in the work folder), ship it, and report its quality."""
    for name in ("scale", "minutes", "batch_size"):
        value = getattr(job, name)
        if value is not None and value <= 0:
            raise UserError(f"{name} must be positive, got {value}")
    rank, count = processes()
    if count > 1 and part not in TOGETHER:
        raise UserError(f"{part} trains in one process: torchrun is for {', '.join(TOGETHER)}")
    if count > 1 and job.shop.device.type != "cpu":
        raise UserError("device: several processes train on the CPU only, one on a GPU")
    if job.base and part != "model":
        raise UserError(f"base: {part} always begins anew; only the model can train further")
    figures = PARTS[part](job)
    if rank == 0:
        (job.shop.work / f"{part}-quality.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(f"{part}: " + json.dumps(figures))
    return figures
