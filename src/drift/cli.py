"""The command line. A command ends by naming what it wrote; bad input is one line, exit code 2."""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from drift.errors import UserError

INTERRUPTED = 130  # exit code after Ctrl-C
OVERRIDE = re.compile(r"[\w.]+=")  # where it may also be a folder, whose name then has a slash

GO_ON = {"train": "; go on with --resume", "evaluate": "; the same command goes on"}

# Options of `drift evaluate` that are fields of `evaluation`: type, placeholder, meaning.
EVALUATION = {
    "prompts": (str, "FILE|LIST", "prompts, one a line, or the name of a shipped list"),
    "prompts_count": (int, "N", "only the first N of the prompts"),
    "images_per_prompt": (int, "N", "images of each prompt"),
    "rewards": (str, "A,B", "rewards that judge"),
    "encoders": (str, "A,B", "encoders that judge diversity, one at least that was not rewarded"),
}


def _train(args: argparse.Namespace) -> None:
    from drift.recipes import load_recipe
    from drift.train import train

    config = load_recipe(args.recipe, args.overrides)
    run = train(config, resume=args.resume, progress=not args.quiet)
    print(f"wrote {run}")


def _fetch(args: argparse.Namespace) -> None:
    from drift.fetch import fetch
    from drift.recipes import load_recipe

    failed = fetch(load_recipe(args.recipe, args.overrides), dry_run=args.list)
    if failed:
        raise UserError(f"{failed} of these could not be fetched; see above")


def _doctor(args: argparse.Namespace) -> None:
    from drift.doctor import examine
    from drift.recipes import load_recipe

    if not examine(load_recipe(args.recipe, args.overrides)):
        raise UserError("this run could not start; see above")


def _evaluate(args: argparse.Namespace) -> None:
    from drift.evaluate import evaluate, parse_share
    from drift.report.terminal import closing_table

    named = [*args.targets, *args.overrides]
    overrides = [text for text in named if OVERRIDE.match(text)]
    share = parse_share(args.share)
    folders = evaluate(
        [Path(text) for text in named if not OVERRIDE.match(text)],
        checkpoints=args.checkpoints,
        base=args.base,
        overrides=overrides,
        options={field: getattr(args, field) for field in EVALUATION if hasattr(args, field)},
        share=share,
    )
    if share.judges:
        width = shutil.get_terminal_size((100, 24)).columns
        print(*closing_table(folders, width), sep="\n")
        print("wrote", ", ".join(dict.fromkeys(str(folder.parent) for folder in folders)))


def _compare(args: argparse.Namespace) -> None:
    from drift.compare import compare

    page = compare(
        args.runs, args.out, args.baseline, figures=args.figures, page_size=args.page_size
    )
    print(f"wrote {page}")


def _generate(args: argparse.Namespace) -> None:
    from drift.generate import generate

    written = generate(
        args.target,
        args.prompt,
        seeds=list(range(args.seed, args.seed + args.count)),
        out=args.out,
        steps=args.steps,
        guidance_scale=args.guidance_scale,
        eta=args.eta,
        checkpoint=args.checkpoint,
    )
    print(f"wrote {len(written)} files to {args.out}")


def _export(args: argparse.Namespace) -> None:
    from drift.export import export

    written = export(args.run_folder, args.out, checkpoint=args.checkpoint, half=args.half)
    print(f"wrote {written}")


def _pretrain(args: argparse.Namespace) -> None:
    from drift.pretrain.run import pretrain

    for part in args.parts:
        pretrain(part, work=args.work, out=args.out, scale=args.scale, base=args.base)


def _demo(args: argparse.Namespace) -> None:
    from drift.demo import demo

    print(f"open {demo(args.out, args.overrides)}")


def _reproduce(args: argparse.Namespace) -> None:
    from drift.reproduce import reproduce

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


def _parser() -> argparse.ArgumentParser:
    from drift import __version__

    parser = argparse.ArgumentParser(
        prog="drift",
        description="RL fine-tuning of text-to-image diffusion models without diversity collapse.",
    )
    parser.add_argument("--version", action="version", version=f"drift {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, add_arguments, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def _overrides(p: argparse.ArgumentParser) -> None:
    summary = "override a field, e.g. method=grpo epochs=20 optimizer.learning_rate=1e-3"
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=summary)


def _demo_arguments(p: argparse.ArgumentParser) -> None:
    _overrides(p)
    p.add_argument("--out", type=Path, help="folder; default runs/demo-<date>-<time>")


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="a shipped recipe (smoke, menagerie-grpo), or a YAML file")
    _overrides(p)
    p.add_argument("--resume", action="store_true", help="go on where the run in `output` stopped")
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def _fetch_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="as for train")
    _overrides(p)
    p.add_argument("--list", action="store_true", help="only tell what is needed, and what is here")


def _doctor_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="as for train")
    _overrides(p)


def _evaluate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("targets", nargs="+", metavar="RUN|MODEL", help="folders of runs or models")
    summary = "override a field of `evaluation`, e.g. steps=20 (a folder of that form: ./steps=20)"
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=summary)
    p.add_argument("--checkpoints", default="last", help="all, last, base, or epochs: 0,20,40")
    for field, (kind, metavar, meaning) in EVALUATION.items():
        p.add_argument(
            f"--{field.replace('_', '-')}",
            type=kind,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=f"{meaning}; else as the run says",
        )
    p.add_argument("--base", type=Path, help="a run or evaluation whose base model's is shared")
    p.add_argument(
        "--share",
        default="1/1",
        metavar="R/N",
        help="draw only every N-th chunk of pictures, beside N-1 processes like this one that see "
        "the same folders, here or elsewhere; 1/N also judges what all of them draw. One that died "
        "is started again, or 1/1 draws what is missing",
    )


def _compare_arguments(p: argparse.ArgumentParser) -> None:
    summary = "run folders; those that differ in their training seed alone count as one method"
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=summary)
    summary = "runs over which the others' gains and differences are told"
    p.add_argument("--baseline", type=Path, nargs="+", default=[], metavar="RUN", help=summary)
    summary = "also draw figures as SVG and PDF; needs matplotlib: the extra 'figures'"
    p.add_argument("--figures", action="store_true", help=summary)
    p.add_argument("--page-size", type=float, default=4.9, metavar="MB", help="of the page at most")
    p.add_argument("--out", type=Path, default=Path("comparison"), help="folder to write")


def _generate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("target", type=Path, metavar="RUN|MODEL", help="a run folder or a model folder")
    p.add_argument("--prompt", action="append", required=True, help="may be given several times")
    p.add_argument("--count", type=int, default=8, help="images per prompt")
    p.add_argument("--seed", type=int, default=0, help="of the first image; then counting up")
    p.add_argument("--steps", type=int, default=20, help="denoising steps")
    p.add_argument("--guidance-scale", type=float, default=3.0, help="1 switches guidance off")
    p.add_argument("--eta", type=float, default=1.0, help="0 = deterministic DDIM, 1 = its SDE")
    p.add_argument("--checkpoint", default="last", help="last, or the epoch's number")
    p.add_argument("--out", type=Path, default=Path("pictures"), help="folder to write")


def _export_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--out", type=Path, required=True, help="NAME.safetensors, or a new folder")
    p.add_argument("--checkpoint", default="last", help="last, or the epoch's number")
    p.add_argument("--half", action="store_true", help="store float16")


def _pretrain_arguments(p: argparse.ArgumentParser) -> None:
    parts = ["autoencoder", "clip", "model", "rewards", "encoder", "probe"]
    p.add_argument("parts", nargs="+", choices=parts, metavar="PART", help=", ".join(parts))
    p.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="resumable state")
    p.add_argument("--out", type=Path, help="weights folder; default the package's own")
    p.add_argument("--scale", type=float, default=1.0, help="training steps, relative to shipped")
    p.add_argument("--base", help="a model that `model` trains further, in place of a new one")


def _reproduce_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", help="table1, sampling, noise, frontier or collapse")
    _overrides(p)
    p.add_argument("--world", default="menagerie", help="menagerie, or sd15 (wants a GPU)")
    p.add_argument("--budget", default="small", help="small or paper")
    p.add_argument("--seeds", type=int, default=2, help="training seeds, from the recipe's on")
    p.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of all studies")
    p.add_argument("--jobs", type=int, help="runs at a time; default 2, or 1 on a GPU")
    p.add_argument("--dry-run", action="store_true", help="print the plan and its cost, and stop")


COMMANDS = {
    "demo": (
        _demo,
        _demo_arguments,
        "GRPO and DRIFT on the embedded world: one page, minutes, two cores",
    ),
    "train": (_train, _train_arguments, "fine-tune a model with a recipe"),
    "fetch": (
        _fetch,
        _fetch_arguments,
        "download all weights that a recipe's training and evaluation need",
    ),
    "doctor": (
        _doctor,
        _doctor_arguments,
        "is everything there, is the replay exact, what will a run cost? trains nothing",
    ),
    "evaluate": (
        _evaluate,
        _evaluate_arguments,
        "judge a run's checkpoints, or a model, on fixed seeds",
    ),
    "compare": (
        _compare,
        _compare_arguments,
        "one page and a table from the evaluations of several runs",
    ),
    "generate": (
        _generate,
        _generate_arguments,
        "draw pictures with a run's weights, or with a model",
    ),
    "export": (
        _export,
        _export_arguments,
        "a run's LoRA as one file for A1111, ComfyUI, kohya; its whole UNet as a pipeline",
    ),
    "reproduce": (
        _reproduce,
        _reproduce_arguments,
        "a study of the paper: its runs, their evaluation, a page for each reward",
    ),
    "pretrain": (
        _pretrain,
        _pretrain_arguments,
        "train the embedded world's own models from its artwork",
    ),
}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand before or after options, which argparse alone refuses."""
    parser = _parser()
    args, later = parser.parse_known_args(argv)
    if any(text.startswith("-") or not hasattr(args, "overrides") for text in later):
        parser.error(f"unrecognized arguments: {' '.join(later)}")
    if later:
        args.overrides += later
    return args


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it misses torchvision; we do not
    try:
        args.run(args)
    except UserError as error:
        print(f"drift: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = GO_ON.get(args.command, "")
        print(f"\ndrift: interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    return 0
