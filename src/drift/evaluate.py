"""Judge the base model and checkpoints of a run on the same prompts, seeds and sampler.

Pictures are rounded to 8 bits before anything is measured, so that every figure can be computed
again from the stored `images.npz`.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from drift.checkpoint import Checkpoint
from drift.checksums import joint_checksum
from drift.config import EvaluateConfig, TrainConfig
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.hub import SHIPPED
from drift.menagerie.judge import animal_of
from drift.menagerie.probe import load_probe
from drift.methods.parts.conditioning import CleanPrompt, Conditioning
from drift.models import locate_model, model_files
from drift.pixels import to_pixels
from drift.policy import load_policy, pick_device, put_weights
from drift.recipes import parse_override, read_prompts
from drift.report import runs
from drift.report.figures import Judges, Pixels, measure, measure_against
from drift.report.sheets import contact_sheet, webp
from drift.rewards import check_rewards
from drift.rollout import rollout
from drift.scoring import open_rewards
from drift.types import PolicyModel

PACKAGES = ("drift-rft", "torch", "diffusers", "transformers")


def sample(
    model: PolicyModel,
    prompts: list[str],
    config: EvaluateConfig,
    conditioning: Conditioning,
    title: str,
) -> Pixels:
    """Image k of every prompt from seed `config.seed + k`."""
    N = config.images_per_prompt
    at_once, parts = max(1, config.batch_size // N), []
    with tqdm(total=len(prompts) * N, desc=f"{title}: sampling", unit="image") as bar:
        for p in range(0, len(prompts), at_once):
            chunk = prompts[p : p + at_once]
            drawn = rollout(
                model,
                chunk,
                [[config.seed + k for k in range(N)]] * len(chunk),
                steps=config.steps,
                guidance_scale=config.guidance_scale,
                eta=config.eta,
                batch_size=config.batch_size,
                conditioning=conditioning,
            )
            parts.append(to_pixels(drawn.images))
            bar.update(len(chunk) * N)
    return np.concatenate(parts)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`key=value` (or `evaluation.key=value`) texts as values."""
    parsed = [parse_override(text.removeprefix("evaluation.")) for text in overrides]
    return {".".join(path): value for path, value in parsed}


def settings_of(config: TrainConfig, probed: bool) -> dict[str, Any]:
    """All that decides the figures besides the weights; equal settings are not evaluated twice."""
    asked = config.evaluation
    name = asked.prompts or config.prompts
    if not name:
        raise UserError("evaluation.prompts: a plain model needs prompts=FILE or a list's name")
    prompts = read_prompts(name, field="evaluation.prompts")
    if not config.judging_encoders:
        raise UserError("evaluation.encoders: diversity needs at least one encoder")
    check_rewards(config.judging_rewards)
    return {
        "prompts": prompts,
        "images_per_prompt": asked.images_per_prompt,
        "seed": asked.seed,
        "steps": asked.steps,
        "guidance_scale": asked.guidance_scale,
        "eta": asked.eta,
        "rewards": config.judging_rewards,
        "encoders": config.judging_encoders,
        "judge": probed and any(map(animal_of, prompts)),
    }


def _write(folder: Path, metrics: dict, pixels: Pixels, features: dict[str, Tensor]) -> None:
    """All files of an evaluation under a temporary name, then under their own."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.savez_compressed(partial / "images.npz", images=pixels)
    save_file({n: E.contiguous() for n, E in features.items()}, partial / "features.safetensors")
    sheet = contact_sheet(pixels, metrics["settings"]["prompts"])
    (partial / "sheet.webp").write_bytes(webp(sheet))
    text = json.dumps(metrics, indent=1, allow_nan=False, ensure_ascii=False)
    (partial / "metrics.json").write_text(text, encoding="utf-8")
    _put(partial, folder)


def _put(partial: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _is_same(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds a complete evaluation of these settings and these very weights."""
    found = runs.read_evaluation(folder)
    if found is None or found["adapter"] != wanted["adapter"]:
        return False
    return runs.first_difference(found, wanted) is None


def _share_base(base: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Copy the base model's evaluation from another run, if of the same model and settings."""
    source = runs.evaluation_folder(base, 0) if (base / "evaluations").is_dir() else base
    found = runs.read_evaluation(source)
    if found is None:
        raise UserError(f"base: {base} holds no evaluation of a base model")
    difference = runs.first_difference(found, wanted)
    if difference or found["adapter"]:
        told = difference or "with trained weights"
        raise UserError(f"base: {source} was evaluated differently: {told}")
    if source.resolve() == folder.resolve():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _put(partial, folder)


def evaluate(
    target: Path,
    *,
    checkpoints: str = "last",
    base: Path | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> list[Path]:
    """Evaluate a run's base model and chosen checkpoints, or a plain model; returns the folders.

    `checkpoints`: all, last, base, or epochs ("20,40"). `base`: a run or evaluation folder whose
    base evaluation is shared. A plain model's evaluation goes to `out`, default runs/<its name>.
    """
    config = runs.open_target(target, parse_overrides(overrides))
    run = target if runs.is_run(target) else out or Path("runs") / target.name
    chosen = runs.choose_checkpoints(run, checkpoints) if runs.is_run(target) else []
    if config.threads:
        torch.set_num_threads(config.threads)
    model_folder, probe_folder = locate_model(config.model.name), SHIPPED / "probe"
    wanted = {
        "settings": settings_of(config, probed=probe_folder.is_dir()),
        "model": {"name": config.model.name, "sha256": joint_checksum(model_files(model_folder))},
        "adapter": None,
    }
    conditioning = config.method.conditioning.at_test()
    base_folder = runs.evaluation_folder(run, 0)
    if base is not None and not _is_same(base_folder, wanted):
        _share_base(base, base_folder, wanted)

    jobs: list[tuple[Path, Checkpoint | None, dict[str, Any]]] = [(base_folder, None, wanted)]
    for checkpoint in chosen:
        checksum = joint_checksum([checkpoint.weights])
        adapter = {"epoch": checkpoint.epoch, "sha256": checksum}
        if conditioning != CleanPrompt():
            adapter["conditioning"] = asdict(conditioning)
        folder = runs.evaluation_folder(run, checkpoint.epoch)
        jobs.append((folder, checkpoint, wanted | {"adapter": adapter}))
    todo = [job for job in jobs if not _is_same(job[0], job[2])]
    for folder in [job[0] for job in jobs if job not in todo]:
        tqdm.write(f"{folder} is complete already, with these settings")
    if todo:
        _work_through(todo, config, base_folder, probe_folder)
    return [job[0] for job in jobs]


def _work_through(todo: list, config: TrainConfig, base_folder: Path, probe_folder: Path) -> None:
    """Sample, measure and write each job in turn; the base model's comes first, if at all."""
    settings, device = todo[0][2]["settings"], str(pick_device(config.device))
    judges = Judges(
        open_rewards(settings["rewards"], config.reward_worker, device),
        {n: load_encoder(n, device, policy=config.model.name) for n in settings["encoders"]},
        load_probe(probe_folder) if settings["judge"] else None,
    )
    model = load_policy(config)
    for folder, checkpoint, wanted in todo:
        start, title = time.perf_counter(), folder.name
        if checkpoint is not None:
            put_weights(model, config, checkpoint.folder)
        at_test = config.method.conditioning.at_test() if checkpoint else CleanPrompt()
        pixels = sample(model, settings["prompts"], config.evaluation, at_test, title)
        probed = pixels.shape[2:4] == (64, 64)
        seen = judges if probed else Judges(judges.rewards, judges.encoders, None)
        figures, features = measure(pixels, settings["prompts"], seen, title)
        reference = load_file(base_folder / "features.safetensors") if checkpoint else features
        figures |= measure_against(features, reference)
        metrics = {
            "format": runs.FORMAT,
            "step": checkpoint.epoch if checkpoint else 0,
            **wanted,
            "images": pixels.shape[0] * pixels.shape[1],
            "seconds": round(time.perf_counter() - start, 1),
            "packages": {name: version(name) for name in PACKAGES},
            "figures": figures,
        }
        _write(folder, metrics, pixels, features)
