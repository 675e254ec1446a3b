"""The command line of the benchmarks."""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser("memory", help="what each stage takes, counted; any machine")
    epochs = commands.add_parser("epochs", help="epochs of the paper's recipe, random weights")
    for command in (memory, epochs):
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    epochs.add_argument("--device", default="auto")
    epochs.add_argument("--size", default="full", choices=["full", "tiny"])
    epochs.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    gpu = commands.add_parser("gpu", help="a card's measurements in minutes, most telling first")
    gpu.add_argument("--device", default="auto")
    gpu.add_argument("--size", default="auto", choices=["auto", "full", "tiny"])
    gpu.add_argument("--minutes", type=float, default=8.0)
    gpu.add_argument("--out", type=Path)
    signal = commands.add_parser("signal", help="how much of a recipe's gradient is signal")
    signal.add_argument("overrides", nargs="+", metavar="RECIPE KEY=VALUE")
    signal.add_argument("--batches", type=int, default=12, help="epochs' worth of pictures")
    signal.add_argument("--run", type=Path, help="measured at its last checkpoint, not the start")
    signal.add_argument("--out", type=Path, help="the figures as JSON")
    args = parser.parse_args()
    if args.command == "signal":
        from benchmarks.signal import report as tell

        tell(args.overrides, args.batches, args.run, args.out)
    elif args.command == "gpu":
        from benchmarks import gpu as card

        card.run(args.out, args.size, args.minutes, args.device)
    elif args.command == "memory":
        from benchmarks.memory import report

        report(args.overrides)
    else:
        from benchmarks.epochs import run

        run(args.out, args.size, args.device, args.overrides)


if __name__ == "__main__":
    main()
