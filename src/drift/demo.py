"""The demonstration: GRPO and DRIFT from the same start, side by side, and one page to look at."""

import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from drift.config import load_recipe
from drift.errors import UserError
from drift.tracking import read_metrics

METHODS = ("grpo", "drift")


def _drift(run_log: Path, *arguments: str) -> subprocess.Popen:
    """Start `drift ARGUMENTS` as a process of its own, its output in a file."""
    run_log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "drift", *arguments]
    with run_log.open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _wait(processes: dict[Path, subprocess.Popen], watch=lambda: None) -> None:
    """Wait for all; the first that fails ends the others and names its last line."""
    try:
        while any(process.poll() is None for process in processes.values()):
            watch()
            if any(process.poll() for process in processes.values()):
                break
            time.sleep(0.5)
        watch()
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for log, process in processes.items():
        if process.returncode:
            lines = log.read_text().strip().splitlines() or ["no output"]
            raise UserError(f"{' '.join(process.args[2:])} failed: {lines[-1]} (see {log})")


def _watcher(runs: dict[str, Path], epochs: int):
    """Progress bars, one a run, fed from its metrics.jsonl."""
    bars = {
        name: tqdm(total=epochs, desc=name, position=row, unit="epoch")
        for row, name in enumerate(runs)
    }

    def watch() -> None:
        for name, run in runs.items():
            lines = read_metrics(run)
            if lines and lines[-1]["epoch"] > bars[name].n:
                last = lines[-1]
                bars[name].set_postfix(
                    reward=f"{last['reward_mean']:.3f}", diversity=f"{last['diversity']:.3f}"
                )
                bars[name].update(last["epoch"] - bars[name].n)

    return watch, bars


def demo(out: Path | None, overrides: list[str]) -> Path:
    """Train both, evaluate base and both on held-out prompts and seeds; returns the page."""
    out = out or Path("runs") / datetime.now().strftime("demo-%Y%m%d-%H%M%S")
    if out.exists():
        raise UserError(f"out: {out} exists already; name another folder")
    runs = {method: out / method for method in METHODS}
    settings = ["threads=1", *overrides]
    epochs = {
        method: load_recipe("menagerie", [*settings, f"method={method}"]).epochs
        for method in METHODS
    }
    print("1/3  fine-tuning the same model by GRPO and by DRIFT, one core each")
    watch, bars = _watcher(runs, max(epochs.values()))
    _wait(
        {
            out / f"{method}-train.log": _drift(
                out / f"{method}-train.log",
                *("train", "menagerie", f"method={method}", f"output={run}", "--quiet"),
                *settings,
            )
            for method, run in runs.items()
        },
        watch,
    )
    for bar in bars.values():
        bar.close()

    print("2/3  judging base, GRPO and DRIFT on animals and seeds not trained on")
    base = runs["grpo"] / "evaluations" / "step-000000"
    log = out / "base-evaluate.log"
    _wait({log: _drift(log, "evaluate", str(runs["grpo"]), "--checkpoints", "base")})
    logs = {method: out / f"{method}-evaluate.log" for method in METHODS}
    _wait(
        {
            logs[method]: _drift(logs[method], "evaluate", str(run), "--base", str(base))
            for method, run in runs.items()
        }
    )

    print("3/3  writing the page")
    log = out / "compare.log"
    _wait({log: _drift(log, "compare", *map(str, runs.values()), "--out", str(out))})
    return out / "report.html"
