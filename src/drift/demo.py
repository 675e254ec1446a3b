"""The demonstration: GRPO and DRIFT from the same start, side by side, and one page to look at."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.tracking import read_metrics

METHODS = ("grpo", "drift")


def _run(
    out: Path, commands: dict[str, list[str]], watch: Callable[[], None] | None = None
) -> None:
    """Run `drift ARGUMENTS` in a process each, its output in `out/NAME.log`, all at the same time.

    The first that fails ends the others, and its last line is the error.
    """
    out.mkdir(parents=True, exist_ok=True)
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name, arguments in commands.items():
            with (out / f"{name}.log").open("w") as log:
                command = [sys.executable, "-m", "drift", *arguments]
                processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while any(p.poll() is None for p in processes.values()):
            if any(p.poll() for p in processes.values()):
                break
            time.sleep(0.5)
            if watch:
                watch()
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for name, process in processes.items():
        if process.returncode > 0:
            log = out / f"{name}.log"
            lines = log.read_text().strip().splitlines() or ["no output"]
            raise UserError(f"{name} failed: {lines[-1]} (see {log})")


def _watcher(runs: dict[str, Path], epochs: int) -> Callable[[], None]:
    """Progress bars, one a run, fed from its metrics.jsonl."""
    bars = {
        name: tqdm(total=epochs, desc=name, position=row, unit="epoch")
        for row, name in enumerate(runs)
    }

    def watch() -> None:
        for name, run in runs.items():
            lines, bar = read_metrics(run), bars[name]
            if lines and lines[-1]["epoch"] > bar.n:
                last = lines[-1]
                bar.set_postfix(
                    reward=f"{last['reward_mean']:.3f}", diversity=f"{last['diversity']:.3f}"
                )
                bar.update(last["epoch"] - bar.n)
                if bar.n == epochs:
                    bar.close()

    return watch


def demo(out: Path | None, overrides: list[str]) -> Path:
    """Train both, judge base and both on held-out prompts and seeds; returns the page."""
    out = out or Path("runs") / datetime.now().strftime("demo-%Y%m%d-%H%M%S")
    if out.exists():
        raise UserError(f"out: {out} exists already; name another folder")
    settings = ["threads=1", *overrides]
    epochs = load_recipe("menagerie", settings).epochs
    runs = {method: out / method for method in METHODS}
    start = time.perf_counter()

    print("1/3  fine-tuning the same model by GRPO and by DRIFT, one core each", flush=True)
    train = {
        f"{method}-train": [
            *("train", "menagerie", "--quiet"),
            *(f"method={method}", f"output={run}"),
            *settings,
        ]
        for method, run in runs.items()
    }
    _run(out, train, _watcher(runs, epochs))

    print("2/3  judging base, GRPO and DRIFT on animals and seeds not trained on", flush=True)
    first = str(runs["grpo"])
    _run(out, {"base-evaluate": ["evaluate", first, "--checkpoints", "base"]})
    judge = {
        f"{method}-evaluate": ["evaluate", str(run), "--checkpoints", "all", "--base", first]
        for method, run in runs.items()
    }
    _run(out, judge)

    print("3/3  writing the page", flush=True)
    _run(out, {"compare": ["compare", *map(str, runs.values()), "--out", str(out)]})
    print(f"done in {(time.perf_counter() - start) / 60:.1f} minutes")
    return out / "report.html"
