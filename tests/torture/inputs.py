"""What a person types or writes into a file, damaged: every case is a value or one clear line.

`KINDS` maps a name to a function of (generator, empty folder) that tries one case. `try_case` runs
one and tells what was wrong with it; `try_many` counts. Nothing here needs pytest.
"""

import contextlib
import io
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from drift.cli import main
from drift.config import read_yaml, to_yaml, validate
from drift.encoders import ENCODERS, find_encoder
from drift.errors import UserError
from drift.files.hub import Weights, find
from drift.methods import METHODS
from drift.models import find_model
from drift.recipes import RECIPES, load_recipe, parse_override, recipe_names
from drift.recipes.prompt_lists import read_fields
from drift.reward_names import canonical, parse
from drift.rewards import REWARDS, check_rewards
from tests.torture.mutations import mutate

SLOWEST = 2.0  # seconds of CPU for one case
# What the cases write themselves, and the folder that `generate` makes before it looks further.
OWN = {"mine.yaml", "config.yaml", "a.txt", "a.jsonl", "pictures"}
OVERRIDES = [
    *("epochs=5", "seed=3", "threads=1", "prompts=animals", "output=runs/{recipe}-{method}"),
    *("reward=0.1*hpsv2-tiny+pickscore-tiny", "encoder=policy", "encoder=clip:./folder"),
    *("method=drift", "method.base=grpo-kl", "method.shaping.weight=0.25", "method={base: ddpo}"),
    *("method.selection.kind=contrasted", "method.timesteps={kind: window, size: 3}"),
    *(
        "parts={surrogate.clipped: {clip_range: 1e-3}}",
        "method.weighting={kind: given, weights: [1]}",
    ),
    *("model.name=menagerie/model", "model.lora_rank=4", "model.target_modules=to_q,to_v"),
    *("sampling.eta=0.5", "sampling.height=64", "sampling.negative_prompt='blurred, grey'"),
    *("optimizer.learning_rate=1e-3", "optimizer.epsilon=1.0e-8", "optimizer.max_grad_norm=1"),
    *("evaluation.rewards=[pickscore-tiny, hpsv2-tiny]", "evaluation.encoders=vae,clip-tiny"),
    *("live.every=5", "live.keep=pareto", "reward_worker.timeout=30", "trackers=wandb"),
]
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.yaml"))]
RUNS = [to_yaml(load_recipe(name, [])) for name in ("smoke", "menagerie", "sd35-pickscore")]
RECIPE_NAMES = [
    *recipe_names(),
    *(f"{name}-{method}" for name in recipe_names() for method in METHODS),
]
PROMPTS = [
    "a fox\na cat\na dog sitting on a wall\n",
    "\ufeffa fox\r\na cat\r\n",
    '{"prompt": "two foxes", "count": 2}\n{"prompt": "a cat", "at": [1, 2.5, null]}\n',
]
NAMED = [
    *REWARDS,
    *ENCODERS,
    *("0.5*pickscore + 0.1*aesthetic", "-2e-3*hpsv2:/a/v2.1.pt", "http://h:8000/a-b?c=d"),
    *("json:dumps", "clip:owner/repository", "pickscore+.5*jpeg-compressibility"),
]
HUB = [
    *("owner/repository", "stable-diffusion-v1-5/stable-diffusion-v1-5", "menagerie/model"),
    *("./folder", "/tmp/x.safetensors", "~/models/x", "https://h/a/b.zip?x=1", "models/v1-5.ckpt"),
]

Draw = random.Random
Try = Callable[[Draw, Path], object]


def _overrides(draw: Draw, folder: Path) -> object:
    given = [mutate(draw, OVERRIDES), *draw.sample(OVERRIDES, draw.randint(0, 2))]
    return load_recipe(draw.choice(RECIPE_NAMES), draw.sample(given, len(given)))


def _values(draw: Draw, folder: Path) -> object:
    return parse_override(mutate(draw, OVERRIDES))


def _recipes(draw: Draw, folder: Path) -> object:
    file = folder / "mine.yaml"
    file.write_bytes(mutate(draw, TEXTS).encode("utf-8", "surrogatepass"))
    return load_recipe(str(file), [])


def _run_configs(draw: Draw, folder: Path) -> object:
    """A run's config.yaml, read back without a recipe's help."""
    file = folder / "config.yaml"
    file.write_bytes(mutate(draw, RUNS).encode("utf-8", "surrogatepass"))
    return validate(read_yaml(file), source="config.yaml")


def _recipe_names(draw: Draw, folder: Path) -> object:
    return load_recipe(mutate(draw, RECIPE_NAMES), [])


def _prompt_files(draw: Draw, folder: Path) -> object:
    file = folder / draw.choice(["a.txt", "a.jsonl"])
    file.write_bytes(mutate(draw, PROMPTS).encode("utf-8", "surrogatepass"))
    return read_fields(str(file))


def _prompt_names(draw: Draw, folder: Path) -> object:
    return read_fields(mutate(draw, ["animals", "menagerie-train", "./a.jsonl", "~/x.txt"]))


def _reward_names(draw: Draw, folder: Path) -> object:
    """As a configuration takes them, and then as the rewards are asked for them."""
    name = mutate(draw, NAMED)
    config = load_recipe("smoke", [f"evaluation.rewards=[{name!r}]", f"reward={name!r}"])
    for one in config.judging_rewards:
        assert canonical(one) == one and (parse(one) if one else True)
    return check_rewards(config.judging_rewards)


def _encoder_names(draw: Draw, folder: Path) -> object:
    config = load_recipe("smoke", [f"encoder={mutate(draw, NAMED)!r}"])
    return find_encoder(config.encoder, config.model.name) if config.encoder else None


def _hub_names(draw: Draw, folder: Path) -> object:
    """What a configuration lets through is looked for on this machine, and asks no network."""
    name = mutate(draw, HUB)
    config = load_recipe("smoke", [f"model.name={name!r}", f"model.adapter={name!r}"])
    return find_model(config.model.name), find(Weights(config.model.adapter))


def _commands(draw: Draw, folder: Path) -> object:
    """A command line that can only fail: no such recipe, run or study is there."""
    line = draw.choice(
        [
            ["train", "nope", "epochs=1", "--quiet"],
            ["evaluate", "nope", "steps=2", "--checkpoints", "0,20", "--share", "1/2"],
            ["compare", "nope", "--page-size", "3", "--out", "x"],
            ["generate", "nope", "--prompt", "a fox", "--count", "2", "--seed", "1"],
            ["export", "nope", "--out", "x.safetensors", "--checkpoint", "2"],
            ["reproduce", "nope", "--seeds", "2", "--world", "sd15", "--dry-run"],
        ]
    )
    place = draw.randrange(1, len(line))
    line[place] = "nope" + mutate(draw, [line[place], *OVERRIDES])
    try:
        code = main(line)
    except SystemExit as done:
        code = done.code
    assert code == 2, f"exit code {code}"
    return None


KINDS: dict[str, Try] = {
    "overrides": _overrides,
    "values": _values,
    "recipes": _recipes,
    "run configs": _run_configs,
    "recipe names": _recipe_names,
    "prompt files": _prompt_files,
    "prompt names": _prompt_names,
    "reward names": _reward_names,
    "encoder names": _encoder_names,
    "hub names": _hub_names,
    "command lines": _commands,
}


def try_case(kind: str, seed: int, folder: Path) -> tuple[bool, str]:
    """Whether the case was accepted, and what is wrong with how it was met: "" if nothing.

    Runs in `folder`, which it leaves empty. The case of a kind and a seed is always the same.
    """
    draw, before = random.Random(f"{kind} {seed}"), os.getcwd()
    path, accepted, wrong, told = list(sys.path), False, "", io.StringIO()
    os.chdir(folder)
    start = time.process_time()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            KINDS[kind](draw, folder)
        accepted = True
    except UserError as error:
        wrong = "" if str(error).isprintable() else f"not one line: {error!r:.200}"
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        wrong = traceback.format_exc(limit=-4)
    finally:
        spent = time.process_time() - start
        os.chdir(before)
        sys.path[:] = path
    lines = told.getvalue().splitlines()
    if len(lines) > 1:
        wrong = wrong or f"{len(lines)} lines: {lines[0]:.200}"
    if spent > SLOWEST:
        wrong = wrong or f"{spent:.1f} s"
    left = {file.name for file in folder.iterdir()}
    if left - OWN:
        wrong = wrong or f"wrote {sorted(left)}"
    for file in folder.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return accepted, wrong


@dataclass
class Tally:
    """Of one kind: how many cases were tried, accepted and met wrongly, and the slowest one."""

    tried: int = 0
    accepted: int = 0
    slowest: float = 0.0  # seconds of CPU
    wrong: dict[int, str] = field(default_factory=dict)  # seed -> what


def try_many(kind: str, seeds: range, folder: Path) -> Tally:
    """All cases of these seeds, one after another."""
    tally = Tally()
    for seed in seeds:
        start = time.process_time()
        accepted, wrong = try_case(kind, seed, folder)
        tally.slowest = max(tally.slowest, time.process_time() - start)
        tally.tried += 1
        tally.accepted += accepted
        if wrong:
            tally.wrong[seed] = wrong
    return tally


def places(tally: Tally) -> Counter[str]:
    """The last line of each wrong case, by how often: where to begin mending."""
    return Counter(text.strip().splitlines()[-1][:160] for text in tally.wrong.values())
