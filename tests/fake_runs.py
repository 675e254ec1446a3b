"""Run folders as training and evaluation leave them, with made-up figures and pictures."""

import json

import numpy as np
import torch

from drift.config import to_yaml
from drift.evaluation.measures import summarise, whole
from drift.evaluation.stored import FORMAT, evaluation_folder
from drift.recipes import load_recipe

PROMPTS = ["a fox", "a cat", "a bee", '<script>alert("x")</script>', "<img src=http://e.vil/>"]
SETTINGS = {
    "prompts": PROMPTS,
    "images_per_prompt": 4,
    "seed": 1_000_000,
    "steps": 10,
    "guidance_scale": 2.0,
    "eta": 1.0,
    "rewards": ["pickscore-tiny"],
    "encoders": ["dreamsim-tiny", "clip-tiny"],
    "judge": True,
}


def figures(reward, clip, dreamsim=1.0, coverage=5.0):
    """Every prompt has nearly the same value: differences of 0.1 are clear, of 0 are not."""
    wobble = torch.linspace(-0.02, 0.02, len(PROMPTS))
    other = wobble[[3, 1, 4, 0, 2]]
    return {
        "reward/pickscore-tiny": summarise(reward + wobble),
        "diversity/clip-tiny": summarise(clip + other),
        "diversity/dreamsim-tiny": summarise(dreamsim + wobble),
        "vendi_all/clip-tiny": whole(7.0),
        "coverage": summarise(coverage + wobble),
    }


def write_evaluation(run, step, judged, settings=SETTINGS, sha256="ab" * 32, drawn=None):
    folder = evaluation_folder(run, step)
    folder.mkdir(parents=True)
    metrics = {
        "format": FORMAT,
        "step": step,
        "settings": settings,
        "model": {"name": "menagerie/model", "sha256": sha256},
        "adapter": {"epoch": step, "sha256": "cd" * 32} if step else None,
        "figures": judged,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    np.savez(folder / "images.npz", images=pictures(step) if drawn is None else drawn)


def pictures(step):
    """Flat colours: red tells the step, green the prompt, blue the seed."""
    pixels = np.zeros((len(PROMPTS), 4, 16, 16, 3), np.uint8)
    pixels[..., 0] = 60 * step
    pixels[..., 1] = 50 * np.arange(len(PROMPTS))[:, None, None, None]
    pixels[..., 2] = 40 * np.arange(4)[:, None, None]
    return pixels


def make_run(
    folder, method="grpo", reward=1.0, clip=0.5, images=80, changes=(), between=(), **judged
):
    """A run of 2 epochs, evaluated at its base (reward 0, diversity 1, coverage 9) and its end.

    And at the steps `between`, which have half of the reward.
    """
    config = load_recipe("menagerie", [f"method={method}", f"output={folder}", *changes])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "environment.json").write_text(json.dumps({"command": f"drift train {folder}"}))
    line = {"reward_mean": 0.1, "diversity": 1.0, "seconds": {"rollout": 3.0, "update": 4.0}}
    rows = [
        line | {"epoch": epoch, "update": k, "images_sampled": images * epoch}
        for epoch in (1, 2)
        for k in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_evaluation(folder, 0, figures(0.0, 1.0, coverage=9.0))
    for step in between:
        write_evaluation(folder, step, figures(reward / 2, clip, **judged))
    write_evaluation(folder, 2, figures(reward, clip, **judged))
    return folder
