"""Nothing gets in: no code of a stranger's run, of the current folder, or of any pickle."""

import hashlib
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from drift.cli import main
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.evaluation.chunks import Chunks
from drift.evaluation.stored import read_pictures
from drift.files.hub import SHIPPED
from drift.files.manifest import seal
from drift.models import load_model
from drift.models.adapters import read_adapter
from drift.recipes import load_recipe
from drift.rewards import load_reward
from drift.rewards.custom import code_of
from drift.rewards.worker import load_in_worker
from drift.training.checkpoint import list_checkpoints
from drift.training.loop import train
from drift.training.tracking import environment

EVIL = """
from pathlib import Path
Path({ran!r}).touch()
def score(images, prompts):
    return images.mean((1, 2, 3))
"""
TINY = ["epochs=1", "checkpoint_every=1", "encoder=", "method=grpo", "evaluation.encoders=vae"]
TINY += ["evaluation.steps=2", "evaluation.images_per_prompt=2", "evaluation.prompts_count=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of one epoch by a shipped reward."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return train(load_recipe("smoke", [*TINY, f"output={run}"]), progress=False)


@pytest.fixture
def stranger(trained, tmp_path, monkeypatch):
    """The run as it came from elsewhere, now the current folder, and the file its code writes."""
    run, ran = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(trained, run)
    name = "evil_" + tmp_path.name.replace("-", "_")
    (run / f"{name}.py").write_text(EVIL.format(ran=str(ran)))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        config.replace("reward: pickscore-tiny", f"reward: {name}:score", 1)
    )
    assert f"reward: {name}:score" in (run / "config.yaml").read_text()
    monkeypatch.chdir(run)
    yield run, ran, name
    sys.modules.pop(name, None)


def refused(capsys, *arguments) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_strangers_run_runs_no_code_unless_it_is_allowed(stranger, capsys):
    run, ran, name = stranger
    for command in (
        ["evaluate", "."],
        ["train", "config.yaml", "--resume", "output=."],
        ["train", "./config.yaml", "output=new"],
        ["doctor", "config.yaml"],
    ):
        told = refused(capsys, *command)
        assert told.startswith("drift: error: reward: ") and "--allow-code" in told
        assert str(run / f"{name}.py") in told and not ran.exists()
    assert main(["generate", ".", "--prompt", "a fox", "--count", "1", "--steps", "1"]) == 0
    assert main(["export", ".", "--out", "lora.safetensors"]) in (0, 2)
    assert main(["fetch", "config.yaml", "--list"]) == 0
    assert not ran.exists()

    assert main(["evaluate", ".", "--allow-code"]) == 0
    assert ran.exists()
    assert main(["evaluate", ".", "--name", "again"]) == 0  # the same code is known now
    (run / f"{name}.py").write_text("print('other code')")
    assert "--allow-code" in refused(capsys, "evaluate", ".", "--name", "other")
    assert main(["evaluate", ".", "--rewards", "jpeg-compressibility", "--name", "mine"]) == 0


def test_to_look_for_code_runs_none_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    for folder in ("whole", "whole/inner", "bare", "bare/inner", "mixed", "mixed/bare"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rewards.py").write_text(EVIL.format(ran=str(ran)))
    for package in ("whole", "whole/inner", "mixed"):
        (tmp_path / package / "__init__.py").write_text(EVIL.format(ran=str(ran)))
    found = code_of("whole.inner.rewards:score")
    assert found == [
        tmp_path / file for file in ("whole/__init__.py", "whole/inner/__init__.py")
    ] + [tmp_path / "whole/inner/rewards.py"]
    assert code_of("bare.inner.rewards:score") == [tmp_path / "bare/inner/rewards.py"]
    assert code_of("mixed.bare.rewards:score")[1:] == [tmp_path / "mixed/bare/rewards.py"]
    assert code_of("whole.absent:score") is code_of("absent.rewards:score") is None
    assert code_of("whole.rewards.more:score") is None
    assert not ran.exists()
    assert load_reward("bare.inner.rewards:score") and ran.exists()


def test_children_take_no_library_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "mine_own.py").write_text("def score(x, p):\n    return x.mean((1, 2, 3))\n")
    for name in ("yaml", "torch", "signal", "pickle", "threading", "multiprocessing"):
        (tmp_path / f"{name}.py").write_text(EVIL.format(ran=str(ran)))
    held = load_in_worker(["mine_own:score"], timeout=60.0, loading=120.0)["mine_own:score"]
    assert held(torch.ones(2, 3, 8, 8), ["a", "b"]).tolist() == [1.0, 1.0]
    held.worker.end()
    command = [sys.executable, "-P", "-m", "drift", "train", "nope"]  # as studies.processes
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 2 and "there is no recipe 'nope'" in told.stderr
    assert not ran.exists()


def test_a_study_starts_its_commands_so(tmp_path, monkeypatch):
    from drift.studies.processes import run_all

    monkeypatch.chdir(tmp_path)
    (tmp_path / "yaml.py").write_text(EVIL.format(ran=str(tmp_path / "ran")))
    with pytest.raises(UserError, match="there is no recipe 'nope'"):
        run_all(tmp_path, {"one": ["train", "nope"]}, at_once=1)
    assert not (tmp_path / "ran").exists()


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def plant(file: Path, ran: Path) -> Path:
    """A pickle in place of what `file` was, as torch.save writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".npy", ".npz"):
        array = np.array([Planted(ran)], dtype=object)
        save = np.savez if file.suffix == ".npz" else np.save
        save(file, images=array) if file.suffix == ".npz" else save(file, array)
    elif file.suffix == ".safetensors":
        file.write_bytes(pickle.dumps(Planted(ran)))
    else:
        torch.save({"state_dict": Planted(ran)}, file)
    return file


def only_a_bin(part: str):
    def read(folder: Path, ran: Path):
        model = shutil.copytree(SHIPPED / "model", folder / "model")
        for file in (model / part).glob("*.safetensors"):
            file.unlink()
            plant(file.with_suffix(".bin"), ran)
        load_model(str(model))

    return read


MODEL = str(SHIPPED / "model")


def lora(name: str):
    """What would be read as a LoRA for the shipped model."""
    return lambda folder, ran: read_adapter(plant(folder / name, ran), load_model(MODEL).pipe)


def weights(load, kind: str, name: str):
    def read(folder: Path, ran: Path):
        load(f"{kind}:{plant(folder / name, ran)}")

    return read


def pictures(folder: Path, ran: Path):
    plant(folder / "images.npz", ran)
    read_pictures(folder)


def chunk(folder: Path, ran: Path):
    """With the digest of a whole one behind it."""
    file = plant(folder / "prompts-00000.npy", ran)
    file.write_bytes(file.read_bytes() + hashlib.sha256(file.read_bytes()).digest())
    Chunks(folder, 1, 2).read(range(1))


KINDS = {
    "lora .bin": lora("pytorch_lora_weights.bin"),
    "lora .pt": lora("lora.pt"),
    "lora .safetensors": lora("pytorch_lora_weights.safetensors"),
    "unet .bin": only_a_bin("unet"),
    "vae .bin": only_a_bin("vae"),
    "text encoder .bin": only_a_bin("text_encoder"),
    "single file .ckpt": lambda folder, ran: load_model(str(plant(folder / "sd.ckpt", ran))),
    "single file .safetensors": lambda f, ran: load_model(str(plant(f / "a.safetensors", ran))),
    "pictures .npz": pictures,
    "chunk .npy": chunk,
    "head .pth": weights(load_reward, "aesthetic", "head.pth"),
    "hpsv2 .pt": weights(load_reward, "hpsv2", "hps.pt"),
    "imagereward .pt": weights(load_reward, "imagereward", "ImageReward.pt"),
    "open_clip .bin": weights(load_encoder, "openclip", "open_clip_pytorch_model.bin"),
    "open_clip .pt": weights(load_encoder, "openclip", "open_clip.pt"),
    "dino .pth": weights(load_encoder, "dino", "dino.pth"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_is_run(kind, tmp_path):
    ran = tmp_path / "ran"
    with pytest.raises((UserError, ValueError)):
        KINDS[kind](tmp_path / "folder", ran)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["optimizer.safetensors", "pytorch_lora_weights.safetensors"])
def test_no_pickle_is_run_of_a_checkpoint(name, trained, tmp_path):
    """Not even of one whose checksums fit."""
    run = shutil.copytree(trained, tmp_path / "run")
    (found,), _ = list_checkpoints(run)
    plant(found.folder / name, tmp_path / "ran")
    seal(found.folder, epoch=found.epoch, moments=found.moments)
    assert len(list_checkpoints(run)[0]) == 1
    recipe = load_recipe("smoke", [*TINY, f"output={run}"])
    with suppress(Exception):  # refused, or begun anew: what counts is what was not run
        train(recipe, resume=True, progress=False)
    assert not (tmp_path / "ran").exists()


def test_the_trap_works(tmp_path):
    torch.load(plant(tmp_path / "w.pt", tmp_path / "ran"), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_what_is_recorded_has_no_credentials(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["drift", "a=http://me:pw1@h/x", "b=https://h/?q=1&token=pw2&r=2", "c@d"]
    )
    command = environment()["command"]
    assert command == "drift a=http://h/x b=https://h/?q=1&token=***&r=2 c@d"
