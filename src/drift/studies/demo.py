"""The demonstration: GRPO and DRIFT from the same start, side by side, and one page to look at."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.studies.processes import judge_all, run_all
from drift.training.tracking import read_metrics

METHODS = ("grpo", "drift")


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
    run_all(out, train, at_once=2, watch=_watcher(runs, epochs))

    print("2/3  judging base, GRPO and DRIFT on animals and seeds not trained on", flush=True)
    judge_all(out, runs, at_once=2)

    print("3/3  writing the page", flush=True)
    compare = ["compare", str(runs["drift"]), "--baseline", str(runs["grpo"]), "--out", str(out)]
    run_all(out, {"compare": compare}, at_once=1)
    print(f"done in {(time.perf_counter() - start) / 60:.1f} minutes")
    return out / "report.html"
