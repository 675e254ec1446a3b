"""Draw pictures with a run's weights or a plain model, exactly as plain diffusers would.

The picture of a seed is the one that a StableDiffusionPipeline draws with DDIM, the same steps,
guidance and eta, `generator=Generator().manual_seed(seed)`, and the checkpoint loaded by
`load_lora_weights`, or as its UNet if the whole of it was trained.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from drift.errors import UserError
from drift.evaluation.pictures import SHEET
from drift.evaluation.sheets import contact_sheet
from drift.files.writing import replacing, told
from drift.methods.parts import CleanPrompt
from drift.pixels import to_pixels
from drift.training import runs
from drift.training.cuts import cut_prompts
from drift.training.policy import load_policy
from drift.training.rollout import draw_by


def slugs(prompts: Sequence[str]) -> list[str]:
    """A short file name for each prompt, all different: letters, digits and dashes."""
    names: list[str] = []
    for prompt in prompts:
        plain = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "prompt"
        taken = sum(plain == re.sub(r"--\d+$", "", name) for name in names)
        names.append(f"{plain}--{taken + 1}" if taken else plain)
    return names


def _check(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    if not prompts or not seeds:
        raise UserError("generate: name at least one prompt and one seed")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError("generate: seeds must be different and not negative")


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path, field="out") as partial:
        image.save(partial, format="PNG")


def generate(
    target: Path,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    out: Path,
    checkpoint: str = "last",
    batch_size: int = 16,
    **sampler: Any,
) -> list[Path]:
    """Write `<prompt>-<seed>.png` for each, and a sheet of all; returns the paths, sheet last.

    `checkpoint`: last, base, or the number of an epoch; a plain model has none. `sampler` are
    fields of the run's `evaluation` (its defaults for a plain model) to be otherwise: steps,
    guidance_scale, eta, negative_prompt, height, width.
    """
    _check(prompts, seeds)
    config = runs.open_target(target, sampler)
    settings = config.judging_sampler
    chosen = runs.choose_checkpoints(target, checkpoint) if runs.is_run(target) else []
    if len(chosen) > 1:
        raise UserError(f"checkpoint: name one, not '{checkpoint}'")
    with told(out, field="out"):
        out.mkdir(parents=True, exist_ok=True)
    model = load_policy(config, chosen[0].folder if chosen else None)
    for line in cut_prompts(model, prompts):
        tqdm.write(line)
    conditioning = config.method.conditioning.at_test() if chosen else CleanPrompt()
    paths, rows = [], []
    names = zip(prompts, slugs(prompts), strict=True)
    for prompt, slug in tqdm(names, total=len(prompts), desc="drawing", unit="prompt"):
        drawn = draw_by(
            model,
            [prompt],
            [list(seeds)],
            settings,
            batch_size=batch_size,
            conditioning=conditioning,
        )
        rows.append(to_pixels(drawn.images)[0])
        for seed, pixels in zip(seeds, rows[-1], strict=True):
            paths.append(out / f"{slug}-{seed}.png")
            _save(Image.fromarray(pixels), paths[-1])
    _save(contact_sheet(np.stack(rows), list(prompts)), out / SHEET)
    return [*paths, out / SHEET]
