"""The command line: a command is a few lines over one function of a room.

In: what a person types. Out: that function's call; a command ends by naming what it wrote, and bad
input is one line and exit code 2. Ctrl-C is 130, SIGTERM 143 (`signals`). Start reading at
`COMMANDS`; `arguments` has the options.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn

from tqdm import tqdm

from drift.cli import arguments, commands
from drift.cli.signals import end_with_parent, handled
from drift.errors import UserError, one_line

GO_ON = {
    "train": "; go on with --resume",
    "evaluate": "; the same command goes on",
    "reproduce": "; the same command goes on",
}

COMMANDS = {
    "demo": (
        commands.demo,
        arguments.demo,
        "GRPO and DRIFT on the embedded world: one page, minutes, two cores",
    ),
    "train": (commands.train, arguments.train, "fine-tune a model with a recipe"),
    "fetch": (
        commands.fetch,
        arguments.fetch,
        "download all weights that a recipe's training and evaluation need",
    ),
    "doctor": (
        commands.doctor,
        arguments.doctor,
        "is everything there, is the replay exact, what will a run cost? trains nothing",
    ),
    "evaluate": (
        commands.evaluate,
        arguments.evaluate,
        "judge a run's checkpoints, or a model, on fixed seeds",
    ),
    "measure": (
        commands.measure,
        arguments.measure,
        "the diversity of pictures in folders, whatever drew them; needs no model",
    ),
    "compare": (
        commands.compare,
        arguments.compare,
        "one page and a table from the evaluations of several runs",
    ),
    "generate": (
        commands.generate,
        arguments.generate,
        "draw pictures with a run's weights, or with a model",
    ),
    "export": (
        commands.export,
        arguments.export,
        "a run's LoRA as one file for A1111, ComfyUI, kohya; its whole UNet as a pipeline",
    ),
    "reproduce": (
        commands.reproduce,
        arguments.reproduce,
        "a study of the paper: its runs, their evaluation, a page for each reward",
    ),
    "pretrain": (
        commands.pretrain,
        arguments.pretrain,
        "train the embedded world's own models from its artwork",
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as every error; argparse would print the usage as well."""
        self.exit(2, f"drift: error: {one_line(message)} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    from drift import __version__

    parser = _Parser(
        prog="drift",
        description="RL fine-tuning of text-to-image diffusion models without diversity collapse.",
    )
    parser.add_argument("--version", action="version", version=f"drift {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, add_arguments, summary) in COMMANDS.items():
        command = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add_arguments(command)
        summary = "with an error also tell where in the code it came from"
        command.add_argument("--debug", action="store_true", help=summary)
        command.set_defaults(run=run)
    return parser


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
    # tqdm's own lock starts a process that looks for its libraries in the current folder first.
    tqdm.set_lock(threading.RLock())
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it misses torchvision; we do not
    end_with_parent()
    try:
        with handled():
            args.run(args)
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(f"drift: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number, saved = getattr(stop, "number", signal.SIGINT), getattr(stop, "saved", "")
        hint = f"; {saved}" if saved else GO_ON.get(args.command, "")
        print(f"\ndrift: interrupted{hint}", file=sys.stderr)
        return 128 + number
    return 0
