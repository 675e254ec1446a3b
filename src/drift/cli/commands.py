"""What each command does with its arguments. Rooms are imported where a command enters them."""

import argparse
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.cli.arguments import EVALUATION, SAMPLER
from drift.errors import UserError
from drift.ranges import check_name

if TYPE_CHECKING:
    from drift.config import TrainConfig

OVERRIDE = re.compile(r"[\w.]+=")  # where it may also be a folder, whose name then has a slash


def _given(args: argparse.Namespace, fields: Iterable[str]) -> dict[str, Any]:
    """Those of the fields that stand on the command line."""
    return {field: getattr(args, field) for field in fields if hasattr(args, field)}


def _folder(text: str) -> Path:
    """Of a run or model, where it may also have been an override."""
    try:
        return Path(check_name(text))
    except ValueError as error:
        raise UserError(f"RUN|MODEL: '{text:.60}' is refused: {error}") from error


def _load_recipe(args: argparse.Namespace) -> "TrainConfig":
    """The configuration; a recipe that is a run's own config.yaml runs no code unasked."""
    from drift.recipes import load_recipe

    config, recipe = load_recipe(args.recipe, args.overrides), Path(args.recipe)
    named = any(text.startswith("reward=") for text in args.overrides)
    if recipe.name == "config.yaml" and not args.allow_code and not named:
        from drift.rewards import refuse_strange_code

        refuse_strange_code([config.reward], recipe)
    return config


def train(args: argparse.Namespace) -> None:
    from drift.training.loop import train

    config = _load_recipe(args)
    run = train(config, resume=args.resume, progress=not args.quiet)
    print(f"wrote {run}")


def fetch(args: argparse.Namespace) -> None:
    from drift.recipes import load_recipe
    from drift.training.fetch import fetch

    failed = fetch(load_recipe(args.recipe, args.overrides), dry_run=args.list)
    if failed:
        raise UserError(f"{failed} of these could not be fetched; see above")


def doctor(args: argparse.Namespace) -> None:
    from drift.training.doctor import examine

    if not examine(_load_recipe(args)):
        raise UserError("this run could not start; see above")


def evaluate(args: argparse.Namespace) -> None:
    from drift.evaluation.chunks import parse_share
    from drift.evaluation.evaluate import evaluate
    from drift.report.terminal import closing_table

    named = [*args.targets, *args.overrides]
    overrides = [text for text in named if OVERRIDE.match(text)]
    share = parse_share(args.share)
    folders = evaluate(
        [_folder(text) for text in named if not OVERRIDE.match(text)],
        checkpoints=args.checkpoints,
        base=args.base,
        overrides=overrides,
        options=_given(args, EVALUATION),
        share=share,
        name=args.name,
        overwrite=args.replace,
        allow_code=args.allow_code,
    )
    if share.judges:
        width = shutil.get_terminal_size((100, 24)).columns
        print(*closing_table(folders, width), sep="\n")
        print("wrote", ", ".join(dict.fromkeys(str(folder.parent) for folder in folders)))


def measure(args: argparse.Namespace) -> None:
    from drift.evaluation.measure import check_out, measure_folders, write_measured
    from drift.report.terminal import measured_table

    if args.out:
        check_out(args.out)
    encoders = args.encoder.split(",")
    measured = measure_folders(args.folders, encoders, args.reference, args.device)
    print(*measured_table([(one.folder, one.figures, one.notes) for one in measured]), sep="\n")
    if args.out:
        write_measured(measured, args.reference, args.out)
        print(f"wrote {args.out}")


def compare(args: argparse.Namespace) -> None:
    from drift.report.compare import compare

    page = compare(
        args.runs,
        args.out,
        args.baseline,
        figures=args.figures,
        page_size=args.page_size,
        name=args.name,
    )
    print(f"wrote {page}")


def generate(args: argparse.Namespace) -> None:
    from drift.evaluation.generate import generate

    written = generate(
        args.target,
        args.prompt,
        seeds=list(range(args.seed, args.seed + args.count)),
        out=args.out,
        checkpoint=args.checkpoint,
        **_given(args, SAMPLER),
    )
    print(f"wrote {len(written)} files to {args.out}")


def export(args: argparse.Namespace) -> None:
    from drift.evaluation.export import export

    written = export(args.run_folder, args.out, checkpoint=args.checkpoint, half=args.half)
    print(f"wrote {written}")


def pretrain(args: argparse.Namespace) -> None:
    from drift.files.hub import SHIPPED
    from drift.menagerie.pretrain.loop import Workshop
    from drift.menagerie.pretrain.run import Job, pretrain
    from drift.training.policy import pick_device
    from drift.training.runs import choose_checkpoints

    job = Job(
        Workshop(args.work, pick_device(args.device), args.workers),
        args.out or SHIPPED,
        scale=args.scale,
        minutes=args.minutes,
        batch_size=args.batch_size,
        base=args.base,
        tuned=tuple(choose_checkpoints(run, "last")[0].folder for run in args.tuned),
    )
    for part in args.parts:
        pretrain(part, job)


def demo(args: argparse.Namespace) -> None:
    from drift.studies.demo import demo

    print(f"open {demo(args.out, args.overrides)}")


def reproduce(args: argparse.Namespace) -> None:
    from drift.studies.reproduce import reproduce

    for page in reproduce(
        args.study,
        world=args.world,
        budget=args.budget,
        seeds=args.seeds,
        out=args.out,
        at_once=args.jobs,
        dry_run=args.dry_run,
        overrides=args.overrides,
    ):
        print(f"open {page}")
