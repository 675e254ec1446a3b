"""Real worker processes: the same scores, and every way to lose one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import drift
from drift.errors import UserError
from drift.rewards import load_rewards
from drift.rewards.worker import load_in_worker

MODULE = """
import os, subprocess, sys, time
import torch
import torch.nn.functional as F

KERNELS = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))

def network(images, prompts):
    long = torch.tensor([float(len(prompt)) for prompt in prompts])
    return F.conv2d(images, KERNELS).relu().mean((1, 2, 3)) * long

def unlike(images, prompt):
    return (images - images.mean(0)).square().mean((1, 2, 3))

unlike.per_group = True

def fail(images, prompts):
    raise KeyError("no such fox")

def counted(images, prompts, metadata):
    return [each.get("count", 0) for each in metadata]

def hang(images, prompts):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("grandchild", "w").write(str(child.pid))
    time.sleep(600)
"""
PROMPTS = ["a fox", "a hedgehog", "a cat"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "worked.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process is gone, or a zombie, within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_scores_are_the_same_bit_for_bit_and_faults_are_told(here):
    names = ["0.1*worked:network + jpeg-compressibility", "worked:unlike", "worked:fail"]
    local = load_rewards(names)
    fields = {"a fox": {"count": 2}, "a cat": {"count": 3}}
    names.append("worked:counted")
    apart = load_in_worker(names, timeout=60.0, loading=200.0, fields=fields)
    pid = apart["worked:fail"].worker.process.pid
    assert pid != os.getpid()
    for name, prompts in [(names[0], PROMPTS), (names[1], ["a fox"] * 3)]:
        assert torch.equal(apart[name](images(), prompts), local[name](images(), prompts))
        assert getattr(apart[name], "per_group", False) == getattr(local[name], "per_group", False)

    told = "^reward: worked:fail raised KeyError: 'no such fox' for 'a fox', in worked.py line 18 "
    with pytest.raises(UserError, match=told) as failure:
        apart["worked:fail"](images(), PROMPTS)
    assert 'raise KeyError("no such fox")' in str(failure.value.__cause__)  # the whole traceback
    assert apart["worked:counted"](images(), PROMPTS).tolist() == [2, 0, 3]  # it lives

    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^reward: the worker of .* died \(SIGKILL, out of me"):
            apart[names[0]](images(), PROMPTS)


def test_one_that_hangs_is_ended_in_time_with_all_it_started(here):
    apart = load_in_worker(["worked:hang"], timeout=4.0, loading=200.0)
    start = time.monotonic()
    with pytest.raises(UserError, match="^reward: .*worked:hang gave no answer within 4 s and was"):
        apart["worked:hang"](images(), PROMPTS)
    assert time.monotonic() - start < 10
    assert ended(apart["worked:hang"].worker.process.pid)
    assert ended(int((here / "grandchild").read_text()))


def test_one_that_does_not_read_blocks_nobody(here):
    apart = load_in_worker(["worked:network"], timeout=1.0, loading=200.0)["worked:network"]
    pid = apart.worker.process.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="gave no answer within 1 s"):
        apart(images(side=512), PROMPTS)  # 9 MB do not fit into the pipe
    assert ended(pid)


def test_a_reward_that_does_not_load_is_told(here):
    with pytest.raises(UserError, match="^reward: there is no file or folder './nowhere'$"):
        load_in_worker(["pickscore:./nowhere"], timeout=5.0, loading=200.0)
    start = time.monotonic()
    with pytest.raises(UserError, match="gave no answer within 0.1 s"):
        load_in_worker(["worked:network"], timeout=5.0, loading=0.1)
    assert time.monotonic() - start < 8


SCRIPT = """
import os, signal, sys, threading
import torch
from drift.rewards.worker import load_in_worker
if __name__ == "__main__":
    reward = load_in_worker(["worked:hang"], timeout=300.0, loading=200.0)["worked:hang"]
    print(reward.worker.process.pid, flush=True)
    if sys.argv[1] == "killed":  # while the worker is busy
        threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
        reward(torch.rand(1, 3, 8, 8), ["a fox"])
"""


@pytest.mark.parametrize("end", ["killed", "returns"])
def test_none_is_left_behind(here, end):
    (here / "script.py").write_text(SCRIPT)
    with (here / "told").open("w") as told:  # the worker holds it, too: a pipe would not end
        done = subprocess.run(
            [sys.executable, "script.py", end],
            env=os.environ | {"PYTHONPATH": str(Path(drift.__file__).parents[1])},
            stdout=told,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0)
    assert ended(int((here / "told").read_text()))  # nothing but its number was told
    if end == "killed":
        assert ended(int((here / "grandchild").read_text()))
