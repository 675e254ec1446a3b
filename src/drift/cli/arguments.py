"""The arguments of each command, with units and defaults."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from drift.ranges import Amount, Count, Name, Positive, Repeats, Seed


def _of(kind: Any) -> Callable[[str], Any]:
    """A type of options with the range of a configuration's fields."""
    adapter = TypeAdapter(kind)

    def parse(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise argparse.ArgumentTypeError(f"{text!r:.60} is refused: {told}") from error

    return parse


count, amount, seed, repeats = map(_of, (Count, Amount, Seed, Repeats))
positive, name = map(_of, (Positive, Name))


def path(text: str) -> Path:
    return Path(name(text))


# Options of `drift evaluate` that are fields of `evaluation`: type, placeholder, meaning.
EVALUATION = {
    "prompts": (str, "FILE|LIST", "prompts, one a line, or the name of a shipped list"),
    "prompts_count": (int, "N", "only the first N of the prompts"),
    "images_per_prompt": (int, "N", "images of each prompt"),
    "negative_prompt": (str, "TEXT", "what guidance leads away from"),
    "rewards": (str, "A,B", "rewards that judge"),
    "encoders": (str, "A,B", "encoders that judge diversity, one at least that was not rewarded"),
}


# The same of `drift generate`.
SAMPLER = {
    "steps": (int, "N", "denoising steps"),
    "guidance_scale": (float, "W", "1 switches guidance off"),
    "eta": (float, "ETA", "0 is deterministic DDIM, 1 its SDE"),
    "negative_prompt": (str, "TEXT", "what guidance leads away from"),
    "height": (int, "PIXELS", "with --width, another size than the model's own"),
    "width": (int, "PIXELS", "with --height"),
}


def _fields(
    p: argparse.ArgumentParser, fields: dict[str, tuple[type, str, str]], default: str
) -> None:
    """An option for each field of `evaluation`; what is not given is not among the arguments."""
    for field, (kind, metavar, meaning) in fields.items():
        p.add_argument(
            f"--{field.replace('_', '-')}",
            type=kind,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=f"{meaning}; else {default}",
        )


def _overrides(p: argparse.ArgumentParser) -> None:
    summary = "override a field, e.g. method=grpo epochs=20 optimizer.learning_rate=1e-3"
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=summary)


def _allow_code(p: argparse.ArgumentParser) -> None:
    summary = "run code (a reward module:function) that only a run's config.yaml names; read it "
    summary += "first. Code that ran here before needs no leave"
    p.add_argument("--allow-code", action="store_true", help=summary)


def demo(p: argparse.ArgumentParser) -> None:
    _overrides(p)
    p.add_argument("--out", type=path, help="folder; default runs/demo-<date>-<time>")


def train(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="a shipped recipe (smoke, menagerie-grpo), or a YAML file")
    _overrides(p)
    p.add_argument("--resume", action="store_true", help="go on where the run in `output` stopped")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    _allow_code(p)


def fetch(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="as for train")
    _overrides(p)
    p.add_argument("--list", action="store_true", help="only tell what is needed, and what is here")


def doctor(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="as for train")
    _overrides(p)
    _allow_code(p)


def evaluate(p: argparse.ArgumentParser) -> None:
    p.add_argument("targets", nargs="+", metavar="RUN|MODEL", help="folders of runs or models")
    summary = "override a field of `evaluation`, e.g. steps=20 (a folder of that form: ./steps=20)"
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=summary)
    p.add_argument("--checkpoints", default="last", help="all, last, base, or epochs: 0,20,40")
    _fields(p, EVALUATION, "as the run says")
    summary = "of this evaluation: a run keeps as many side by side as there are names"
    p.add_argument("--name", default="default", help=summary)
    summary = "draw anew what lies under that name with other settings, in its place"
    p.add_argument("--replace", action="store_true", help=summary)
    p.add_argument("--base", type=path, help="a run or evaluation whose base model's is shared")
    _allow_code(p)
    p.add_argument(
        "--share",
        default="1/1",
        metavar="R/N",
        help="draw only every N-th chunk of pictures, beside N-1 processes like this one that see "
        "the same folders, here or elsewhere; 1/N also judges what all of them draw. One that died "
        "is started again, or 1/1 draws what is missing",
    )


def measure(p: argparse.ArgumentParser) -> None:
    summary = "with PNG, JPEG or WebP pictures, in a subfolder for each prompt or as one set"
    p.add_argument("folders", type=path, nargs="+", metavar="FOLDER", help=summary)
    summary = "NAME or NAME:WEIGHTS of docs/encoders.md. The default is shipped, and was trained "
    summary += "on the Menagerie's drawings: for others take dreamsim, clip or dinov2"
    p.add_argument("--encoder", default="dreamsim-tiny", metavar="NAME[,NAME]", help=summary)
    summary = "of recall and precision (10 neighbours), which are not told without it"
    p.add_argument("--reference", type=path, metavar="FOLDER", help=summary)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    summary = "also write all figures here, with those of every prompt; a file that is not there"
    p.add_argument("--out", type=path, metavar="FILE.json", help=summary)


def compare(p: argparse.ArgumentParser) -> None:
    summary = "run folders; those that differ in their training seed alone count as one method"
    p.add_argument("runs", type=path, nargs="+", metavar="RUN", help=summary)
    summary = "runs over which the others' gains and differences are told"
    p.add_argument("--baseline", type=path, nargs="+", default=[], metavar="RUN", help=summary)
    p.add_argument("--name", default="default", help="of the evaluations to compare")
    summary = "also draw figures as SVG and PDF; needs matplotlib: the extra 'figures'"
    p.add_argument("--figures", action="store_true", help=summary)
    p.add_argument(
        "--page-size", type=positive, default=4.9, metavar="MB", help="of the page at most"
    )
    p.add_argument("--out", type=path, default=Path("comparison"), help="folder to write")


def generate(p: argparse.ArgumentParser) -> None:
    p.add_argument("target", type=path, metavar="RUN|MODEL", help="a run folder or a model folder")
    p.add_argument("--prompt", action="append", required=True, help="may be given several times")
    p.add_argument("--count", type=count, default=8, help="images per prompt")
    p.add_argument("--seed", type=seed, default=0, help="of the first image; then counting up")
    _fields(p, SAMPLER, "as the run is evaluated")
    p.add_argument("--checkpoint", default="last", help="last, or the epoch's number")
    p.add_argument("--out", type=path, default=Path("pictures"), help="folder to write")


def export(p: argparse.ArgumentParser) -> None:
    p.add_argument("run_folder", type=path, metavar="RUN")
    p.add_argument("--out", type=path, required=True, help="NAME.safetensors, or a new folder")
    p.add_argument("--checkpoint", default="last", help="last, or the epoch's number")
    p.add_argument("--half", action="store_true", help="store float16")


def pretrain(p: argparse.ArgumentParser) -> None:
    parts = ["autoencoder", "decoder", "clip", "model", "guided", "rewards", "encoder", "probe"]
    p.add_argument("parts", nargs="+", choices=parts, metavar="PART", help=", ".join(parts))
    p.add_argument("--work", type=path, default=Path("runs/pretrain"), help="resumable state")
    p.add_argument("--out", type=path, help="weights folder; default the package's own")
    p.add_argument(
        "--scale", type=positive, default=1.0, help="training steps, relative to shipped"
    )
    p.add_argument("--minutes", type=positive, help="of training for each part, in place of steps")
    p.add_argument("--batch-size", type=count, help="at the same number of pictures")
    p.add_argument(
        "--device", default="auto", help="cpu or cuda; auto takes a GPU, if there is one"
    )
    p.add_argument("--workers", type=amount, default=os.cpu_count(), help="processes that paint")
    p.add_argument("--base", help="a model that `model` trains further, in place of a new one")
    p.add_argument(
        "--tuned",
        type=path,
        nargs="*",
        default=(),
        metavar="RUN",
        help="runs whose pictures `rewards` learns to judge as well",
    )


def reproduce(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", help="table1, sampling, noise, frontier or collapse")
    _overrides(p)
    worlds = "menagerie; or, wanting a GPU, sd15, sdxl, sd35, flux"
    p.add_argument("--world", default="menagerie", help=worlds)
    p.add_argument("--budget", default="small", help="small, medium (menagerie) or paper")
    p.add_argument("--seeds", type=repeats, default=2, help="training seeds, from the recipe's on")
    p.add_argument("--out", type=path, default=Path("runs/studies"), help="folder of all studies")
    p.add_argument("--jobs", type=count, help="runs at a time; default 2, or 1 on a GPU")
    p.add_argument("--dry-run", action="store_true", help="print the plan and its cost, and stop")
