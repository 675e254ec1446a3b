"""`drift` commands in processes of their own: some at a time, and the first that fails ends all."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drift.errors import UserError

PARENT = "DRIFT_PARENT"  # in the environment: the process with whose end a command ends as well


def run_all(
    logs: Path,
    commands: dict[str, list[str]],
    *,
    at_once: int,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run `drift ARGUMENTS` for each name, its output in `logs`/NAME.log, `at_once` at a time.

    `watch` is called about twice a second. The last line of one that fails is the error.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(commands), dict[str, subprocess.Popen]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[name] = _start(logs / f"{name}.log", commands[name])
            time.sleep(0.5)
            watch()
            for name in [name for name, process in running.items() if process.poll() is not None]:
                _check(running.pop(name), name, logs / f"{name}.log")
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def judge_all(
    logs: Path,
    runs: dict[str, Path],
    *,
    at_once: int,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Evaluate the base model once, then every checkpoint of each of `runs` beside it."""
    first = str(next(iter(runs.values())))
    base = {"base-evaluate": ["evaluate", first, "--checkpoints", "base"]}
    run_all(logs, base, at_once=1)
    each = {
        f"{name}-evaluate": ["evaluate", str(run), "--checkpoints", "all", "--base", first]
        for name, run in runs.items()
    }
    run_all(logs, each, at_once=at_once, watch=watch)


def _start(log: Path, arguments: list[str]) -> subprocess.Popen:
    with log.open("w") as out:
        # -P: a yaml.py in the current folder is no library.
        command = [sys.executable, "-P", "-m", "drift", *arguments]
        watched = os.environ | {PARENT: str(os.getpid())}
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=watched)


def _check(process: subprocess.Popen, name: str, log: Path) -> None:
    if process.returncode != 0:
        lines = log.read_text().strip().splitlines() or ["no output"]
        raise UserError(f"{name} failed: {lines[-1]} (see {log})")
