"""SIGTERM and Ctrl-C, really sent: what is saved; a resumed run is as if nothing had been."""

import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

from drift.errors import Interrupted
from drift.recipes import load_recipe
from drift.training import epoch as epochs
from drift.training import interrupt, update
from drift.training.interrupt import gently, held, poll
from drift.training.loop import train
from drift.training.memory import in_batches
from drift.training.tracking import read_metrics

SMALL = [
    "epochs=3",
    "checkpoint_every=3",
    "threads=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=4",
    "sampling.batch_size=4",
    "optimizer.updates_per_epoch=2",
    "optimizer.micro_batch_size=4",
    "model.lora_rank=2",
    "method=ddpo",
    "method.advantage.kind=buffered",  # whose state moves on with every epoch
]


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def config(tiny_model, tmp_path):
    own = [f"model.name={tiny_model}", f"output={tmp_path / 'run'}"]
    return lambda *overrides: load_recipe("menagerie", [*SMALL, *own, *overrides])


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """The run that nobody interrupts."""
    own = [f"model.name={tiny_model}", f"output={tmp_path_factory.mktemp('whole') / 'run'}"]
    return train(load_recipe("menagerie", [*SMALL, *own]), progress=False)


def on_call(monkeypatch, room, name: str, number: int) -> None:
    """Send SIGTERM when a function is called for the so manieth time, and go on."""
    real, calls = getattr(room, name), iter(range(1, 1000))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            send()
        return real(*args, **kwargs)

    monkeypatch.setattr(room, name, wrapped)


def saved(run) -> list[str]:
    return sorted(folder.name for folder in run.glob("checkpoints/*"))


def tensors(run) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints/step-000003"
    files = ("pytorch_lora_weights.safetensors", "optimizer.safetensors")
    return {f"{file}/{k}": v for file in files for k, v in load_file(folder / file).items()}


def course(run) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run)]


# Of an epoch, the rewards are asked once, and the loss three times in each of two updates.
@pytest.mark.parametrize(
    "room, name, number, kept",
    [
        (epochs, "score", 1, 0),  # in the first epoch's scoring
        (epochs, "score", 3, 2),
        (update, "loss_terms", 8, 1),  # amid the second epoch's first update: it is left
        (update, "loss_terms", 11, 2),  # amid its second update: it is finished
    ],
)
def test_what_is_finished_is_saved_and_the_rest_is_done_again(
    config, whole, tmp_path, monkeypatch, room, name, number, kept
):
    with monkeypatch.context() as patch:
        on_call(patch, room, name, number)
        with pytest.raises(Interrupted) as stop:
            train(config(), progress=False)
    run = tmp_path / "run"
    assert stop.value.number == signal.SIGTERM
    told = f"epoch {kept} is saved" if kept else "no epoch was finished"
    assert stop.value.saved == f"{told}; go on with --resume"
    assert saved(run) == [f"step-{kept:06d}"] * bool(kept)
    train(config(), resume=True, progress=False)
    assert saved(run) == ["step-000003"]  # that of the interruption goes
    assert course(run) == course(whole)
    one, two = tensors(run), tensors(whole)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_look_is_finished_first(config, tmp_path, monkeypatch):
    on_call(monkeypatch, __import__("drift.training.live", fromlist=["live"]), "draw_by", 1)
    looks = ["live.every=1", "live.prompts_count=1", "live.images_per_prompt=2"]
    with pytest.raises(Interrupted):
        train(config(*looks, "evaluation.steps=2"), progress=False)
    assert len((tmp_path / "run/live.jsonl").read_text().splitlines()) == 1
    assert saved(tmp_path / "run") == []


def test_the_first_signal_asks_and_only_polls_answer():
    before = signal.getsignal(signal.SIGINT)
    with gently():
        poll()
        send(signal.SIGINT)
        with held():
            poll()
        with pytest.raises(Interrupted) as stop:
            in_batches(lambda _: pytest.fail("began"), torch.arange(2), 1, field="x")
        assert stop.value.number == signal.SIGINT
        send(signal.SIGINT)  # at the same moment: the same request, sent to process and group
    poll()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_ends_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(interrupt.os, "_exit", codes.append)
    with gently():
        send()
        assert not codes
        monkeypatch.setattr(interrupt, "APART", 0.0)
        send()
        assert codes == [143]


def test_outside_the_main_thread_signals_are_left_alone():
    found = []

    def work():
        with gently():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
