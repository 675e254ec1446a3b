"""`drift fetch`: what it tells, what it brings, and where that lies; with a hub of our own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.cli import main
from drift.files.checksums import checksum
from drift.files.hub import SHIPPED
from drift.recipes import load_recipe
from drift.rewards import load_reward
from drift.training import needs
from drift.training.fetch import fetch
from drift.training.loop import train
from tests.hub_server import COMMIT, HubServer
from tests.models.loras import write_diffusers
from tests.serving import serving

GOLDEN = Path(__file__).parents[1] / "golden" / "rewards"


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "drift"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def offline(monkeypatch):
    def switch_off() -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    return switch_off


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The handler's class and its folder, OWNER/NAME for each repository; the hub is there."""
    handler = type("Handler", (HubServer,), {"root": tmp_path / "repositories", "asked": []})
    constants = "huggingface_hub.constants"
    with serving(handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.ENDPOINT", address)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)  # read at its import
        yield handler, handler.root


@pytest.mark.parametrize("recipe", ["smoke", "menagerie", "menagerie-grpo"])
def test_what_is_shipped_is_here(recipe, offline, capsys, tmp_path):
    offline()
    assert main(["fetch", recipe]) == 0
    told, placed = capsys.readouterr().out.split("\n\n")
    assert "missing" not in told and "model  " in told and "(11.1 MB)" in told
    assert str(SHIPPED / "pickscore-tiny") in placed
    assert not list(tmp_path.iterdir())


ORIGINS = [  # of the paper's run: where from, how large
    ("model", "stable-diffusion-v1-5/stable-diffusion-v1-5", "4.3 GB", "OpenRAIL-M"),
    ("reward pickscore", "yuvalkirstain/PickScore_v1", "3.9 GB", "MIT"),
    ("reward hpsv2", "xswu/HPSv2", "2.0 GB", "Apache-2.0"),
    ("reward hpsv2", "openai/clip-vit-large-patch14", "4 MB", "MIT"),
    ("encoder dreamsim", "dreamsim_ensemble_checkpoint.zip", "0.8 GB", "MIT"),
    ("encoder dreamsim", "https://dl.fbaipublicfiles.com/dino/", "343 MB", "Apache-2.0"),
    ("encoder clip", "openai/clip-vit-base-patch32", "605 MB", "MIT"),
]


def test_offline_all_that_is_missing_is_told_with_its_size_and_origin(offline, capsys, tmp_path):
    offline()
    assert main(["fetch", "sd15-pickscore"]) == 2
    out, err = capsys.readouterr()
    assert err == "drift: error: 7 of these could not be fetched; see above\n"
    told, failed = (part.strip().splitlines() for part in out.split("\n\n"))
    for origin, before, after in zip(ORIGINS, told, failed, strict=True):
        assert before.startswith(origin[0]) and " missing  " in before
        assert after.startswith(origin[0]) and " FAILED  " in after
        assert all(word in before and word in after for word in origin)
        assert "could not be fetched: " in after
    assert not list(tmp_path.iterdir())


def test_a_list_fetches_nothing(hub, capsys):
    handler, _ = hub
    assert main(["fetch", "sd15-hpsv2", "method=grpo", "--list", "encoder=vae"]) == 0
    told = capsys.readouterr().out
    assert told.count(" missing  ") == len(told.splitlines()) == 8
    assert "part of the model" in told
    assert not handler.asked


def test_bad_input_is_one_line(capsys):
    assert main(["fetch", "nope"]) == 2
    assert main(["fetch", "smoke", "evaluation.rewards=[nonsense]"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 2 and "there is no 'nonsense'" in err


MINE = ["model.name=me/model", "reward=pickscore:me/reward", "threads=1", "epochs=1"]


@pytest.fixture
def mine(hub):
    """The Menagerie's model and reward in repositories that hold other things as well."""
    _, root = hub
    for part, repo in (("model", "me/model"), ("pickscore-tiny", "me/reward")):
        shutil.copytree(SHIPPED / part, root / repo)
    (root / "me/model/safety_checker").mkdir()
    (root / "me/model/safety_checker/model.safetensors").touch()
    (root / "me/model/v1-5-pruned.ckpt").touch()
    return root / "me"


def test_what_is_fetched_from_a_hub_trains_without_it(mine, offline, tmp_path, monkeypatch):
    told: list[str] = []
    config = load_recipe("smoke", [*MINE, f"output={tmp_path / 'run'}"])
    assert fetch(config, say=told.append) == 0
    assert ["missing" in line for line in told[:3]] == [True, True, False]
    snapshot = tmp_path / "hub/models--me--model/snapshots" / COMMIT
    assert told[-4].split()[1] == told[-1].split()[-1] == str(snapshot)  # its vae judges
    assert not list(snapshot.glob("v1-5*")) and not (snapshot / "safety_checker").exists()

    offline()
    shutil.rmtree(mine)
    read: set[Path] = set()
    monkeypatch.setattr(needs, "checksum", lambda file, _: read.add(file) or checksum(file))
    written = json.loads((train(config, progress=False) / "environment.json").read_text())
    (model,), (reward,) = (written["weights"][r] for r in ("model", "reward pickscore:me/reward"))
    assert model["path"] == str(snapshot)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (snapshot / unet).is_symlink()
    assert model["sha256"][unet] == checksum(SHIPPED / "model" / unet)
    assert model["revision"] == reward["revision"] == COMMIT
    large = {path.resolve() for path in snapshot.rglob("*.safetensors")}
    assert large and not large & read  # the hub's own names tell their checksums
    shipped = SHIPPED / "pickscore-tiny"
    assert reward["sha256"] == {f.name: checksum(f) for f in sorted(shipped.iterdir())}
    train(config, resume=True, progress=False)


def test_a_second_time_only_what_is_missing_is_asked_for(hub, mine, tmp_path):
    handler, _ = hub
    config = load_recipe("smoke", MINE)
    assert fetch(config, say=lambda _: None) == 0
    handler.asked.clear()
    assert fetch(config, say=lambda _: None) == 0
    assert handler.asked == []
    file = "vae/diffusion_pytorch_model.safetensors"
    (tmp_path / "hub/models--me--model/snapshots" / COMMIT / file).unlink()
    told: list[str] = []
    assert fetch(config, say=told.append) == 0
    assert [" missing  " in line for line in told[:3]] == [True, False, False]
    files = [path for path in handler.asked if "/resolve/" in path and "model_index" not in path]
    assert {path.rpartition(COMMIT + "/")[2] for path in files} == {file}


def test_half_precision_comes_where_there_is_no_other_and_a_lora(mine, offline, tmp_path):
    """Of the UNet and the autoencoder alone; its autoencoder judges as well."""
    write_diffusers(mine / "model", mine / "style")
    for part in ("unet", "vae"):
        file = mine / "model" / part / "diffusion_pytorch_model.safetensors"
        state = {k: t.half() for k, t in load_file(file).items()}
        save_file(state, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
        file.unlink()
    config = load_recipe(
        "smoke", [*MINE, f"output={tmp_path / 'run'}", "encoder=vae", "model.adapter=me/style"]
    )
    config = replace(config, evaluation=replace(config.evaluation, encoders=("vae",)))
    assert fetch(config, say=lambda _: None) == 0
    offline()
    shutil.rmtree(mine)
    run = train(config, progress=False)
    written = json.loads((run / "environment.json").read_text())["weights"]
    assert list(written["adapter"][0]["sha256"]) == ["pytorch_lora_weights.safetensors"]
    assert written["adapter"][0]["revision"] == COMMIT
    for role, part in {"model": "unet", "encoder vae": "vae"}.items():
        assert f"{part}/diffusion_pytorch_model.fp16.safetensors" in written[role][0]["sha256"]


def test_what_is_not_on_the_hub_does_not_stop_the_rest(mine, capsys):
    shutil.rmtree(mine / "model")
    assert main(["fetch", "smoke", *MINE]) == 2
    out, err = capsys.readouterr()
    assert "drift: error: 2 of these could not be fetched" in err  # it, and its vae that judges
    lines = out.split("\n\n")[1].splitlines()
    assert "FAILED  model.name: 'me/model' is not on this machine" in lines[0]
    assert lines[-1].startswith("encoder vae") and "FAILED" in lines[-1]
    assert lines[1].endswith(COMMIT)


def test_a_fallback_comes_along_where_the_published_files_lack_it(hub, offline):
    """HPSv2's repository has no tokenizer; that of "own" turns out to have none either."""
    _, root = hub
    names = ["HPS_v2.1_compressed.pt", "vocab.json", "merges.txt", "tokenizer_config.json"]
    for repo, held in (("xswu/HPSv2", names[:1]), ("me/own", names[:1])):
        (root / repo).mkdir(parents=True)
        for name in held:
            shutil.copy(GOLDEN / "hpsv2" / name, root / repo)
    clip = root / "openai/clip-vit-large-patch14"
    clip.mkdir(parents=True)
    for name in names[1:]:
        shutil.copy(GOLDEN / "hpsv2" / name, clip)
    told: list[str] = []
    config = load_recipe("smoke", ["reward=hpsv2.1 + hpsv2.1:me/own"])
    assert fetch(config, say=told.append) == 0
    before, after = told[: told.index("")], told[told.index("") + 1 :]
    assert sum("clip-vit-large-patch14" in line for line in before) == 1
    assert sum("clip-vit-large-patch14" in line for line in after) == 2
    offline()
    images, prompts = torch.rand(2, 3, 40, 33), ["a fox", "a cat"]
    ours, own = (load_reward(name)(images, prompts) for name in ("hpsv2.1", "hpsv2.1:me/own"))
    assert torch.equal(ours, own)
