import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from drift.errors import UserError
from drift.files import locks
from drift.files.locks import alone, together

# A second process, which holds the folder until it is ended.
HOLDER = """
import sys, time
from pathlib import Path
from drift.files.locks import alone, together
how = {"field": "output", "advice": "wait"}
folder, member, purpose = Path(sys.argv[1]), *sys.argv[2:]
with together(folder, member=member, purpose=purpose, **how) if member else alone(folder, **how):
    print("held", flush=True)
    time.sleep(600)
"""
HOW = {"field": "output", "advice": "wait for it"}


@pytest.fixture
def holder():
    """Start a process that holds a folder."""
    started = []

    def start(folder, member="", purpose=""):
        command = [sys.executable, "-c", HOLDER, str(folder), member, purpose]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_told_at_once_and_a_killed_one_holds_nothing(holder, tmp_path):
    process = holder(tmp_path / "run")
    start = time.monotonic()
    with pytest.raises(UserError) as error, alone(tmp_path / "run", **HOW):
        raise AssertionError("two at once")
    assert time.monotonic() - start < 5
    told = f"output: {tmp_path / 'run'} is in use by process {process.pid} on "
    assert str(error.value).startswith(told) and str(error.value).endswith("; wait for it")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with alone(tmp_path / "run", **HOW):
        pass


def test_shares_of_one_purpose_work_together_and_another_is_refused(holder, tmp_path):
    process = holder(tmp_path, "share-2", "abc")
    with together(tmp_path, member="share-1", purpose="abc", **HOW):
        pass
    for member, purpose in (("share-2", "abc"), ("share-1", "def")):
        told = f"is in use by process {process.pid} on .*wait for it"
        both = together(tmp_path, member=member, purpose=purpose, **HOW)
        with pytest.raises(UserError, match=told), both:
            raise AssertionError("two at once")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with together(tmp_path, member="share-1", purpose="def", **HOW):
        pass
    assert not list(tmp_path.iterdir())


def test_the_folder_is_as_before_unless_something_was_put_there(tmp_path):
    with alone(tmp_path / "deep" / "run", **HOW):
        assert (tmp_path / "deep" / "run").is_dir()
    assert not (tmp_path / "deep" / "run").exists()
    with alone(tmp_path / "run", **HOW):
        (tmp_path / "run" / "config.yaml").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    def unsupported(self):
        raise OSError(locks.errno.ENOSYS, "no flock here")

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    with alone(tmp_path, **HOW), together(tmp_path, member="a", purpose="b", **HOW):
        pass
    assert "the file system has no locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    held = alone(tmp_path / "file" / "run", **HOW)
    with pytest.raises(UserError, match="^output: cannot write .*file/run: "), held:
        pass


def test_folders_that_were_made_to_be_held_go_again_if_they_stay_empty(tmp_path):
    (tmp_path / "there").mkdir()
    with alone(tmp_path / "there/runs/run", field="output", advice="wait"):
        assert (tmp_path / "there/runs/run").is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with alone(tmp_path / "there/runs/run", field="output", advice="wait"):
        (tmp_path / "there/runs/kept").write_text("")
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["kept", "runs", "there"]
