"""Commands in processes of their own that are asked to end, or whose parent is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "method=ddpo",
    "epochs=1000",
    "checkpoint_every=1000",
    "threads=1",
    "sampling.steps=2",
    "sampling.prompts_per_epoch=1",
    "sampling.pool_size=2",
    "sampling.group_size=2",
    "optimizer.updates_per_epoch=1",
    "model.lora_rank=2",
    "encoder=dreamsim-tiny",
]
LONG = 120.0  # seconds; a slow machine's, not a promise


def training(model: Path, run: Path) -> list[str]:
    own = [f"model.name={model}", f"output={run}", "reward=jpeg-compressibility"]
    return ["train", "menagerie", *SMALL, *own, "--quiet"]


def wait_for(what, process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.05)


def drift(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "drift", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def begun(run: Path) -> bool:
    file = run / "metrics.jsonl"
    return file.exists() and file.read_text().count("\n") >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_saves_and_ends(tiny_model, tmp_path, number):
    process = drift(training(tiny_model, tmp_path / "run"))
    wait_for(lambda: begun(tmp_path / "run"), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 128 + number
    found = re.search(r"interrupted; epoch (\d+) is saved; go on with --resume\n$", err)
    assert found and "Traceback" not in err
    assert (tmp_path / f"run/checkpoints/step-{int(found[1]):06d}/manifest.json").is_file()


def test_a_signal_amid_imports_leaves_no_traceback(tiny_model, tmp_path):
    process = drift(training(tiny_model, tmp_path / "run"))
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert "Traceback" not in err


PARENT = """
import sys
from pathlib import Path
from drift.studies.processes import run_all
run_all(Path(sys.argv[1]), {"child": sys.argv[2:]}, at_once=1)
"""


def test_a_command_ends_with_the_one_that_started_it(tiny_model, tmp_path):
    run = tmp_path / "run"
    arguments = training(tiny_model, run)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path, *arguments])
    wait_for(lambda: begun(run), parent)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    wait_for(lambda: all(ended(int(child)) for child in children))
    log = (tmp_path / "child.log").read_text()
    assert re.search(r"the command that started this one is gone\n", log)
    assert re.search(r"interrupted; epoch \d+ is saved", log)


def test_ending_a_parent_ends_its_children(tiny_model, tmp_path):
    run = tmp_path / "run"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path, *training(tiny_model, run)],
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: begun(run), parent)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(parent.pid, signal.SIGINT)
    parent.wait(LONG)
    assert children and all(ended(int(child)) for child in children)
    assert "is saved; go on with --resume" in (tmp_path / "child.log").read_text()
