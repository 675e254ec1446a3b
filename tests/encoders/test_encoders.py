"""The dict of encoders, and how a name finds its weights."""

from pathlib import Path

import pytest
import torch

import drift.encoders as module
from drift.encoders import ENCODERS, POLICY, load_encoder
from drift.errors import UserError


def test_every_published_encoder_says_where_from_how_large_and_under_which_licence():
    for name, part in ENCODERS.items():
        for weights in part.weights:
            if weights.repo != POLICY and not weights.repo.startswith("menagerie/"):
                assert weights.size and weights.licence, name


def test_what_is_not_here_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="dreamsim_ensemble_checkpoint.zip' .*MIT.*HF_HUB_OFFLINE"):
        load_encoder("dreamsim")


@pytest.fixture
def located(monkeypatch):
    """Which weights are asked for, and by what the loader is then called."""
    calls = []

    def load(path, device):
        calls.append((path, device))
        return lambda images: images.flatten(1)

    monkeypatch.setattr(module, "locate", lambda weights, field: weights)
    parts = {name: module.Part(load, part.weights) for name, part in ENCODERS.items()}
    monkeypatch.setattr(module, "ENCODERS", parts)
    return calls


def test_a_name_may_bring_its_own_weights(located):
    load_encoder("clip:C:/mine", device="cuda")
    weights, device = located[0]
    assert (weights.repo, weights.files, device) == ("C:/mine", (), "cuda")


def test_the_policys_own_autoencoder_is_taken_or_another(located):
    load_encoder("vae", policy="some/model")
    load_encoder("vae:other/model", policy="some/model")
    assert [weights.repo for weights, _ in located] == ["some/model", "other/model"]
    assert all(weights.files[0] == "vae/config.json" for weights, _ in located)
    with pytest.raises(UserError, match="'vae' is part of a model; name one: vae:MODEL"):
        load_encoder("vae")


def test_the_policys_own_features_are_no_encoder():
    for name in ("policy", "policy:some/model"):
        with pytest.raises(UserError, match=f"'{name}' is what the policy computes while it samp"):
            load_encoder(name, policy="some/model")


def test_the_menageries_autoencoder_tells_pictures_apart():
    encoder = load_encoder("vae", policy="menagerie/model")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    features = encoder(torch.cat([images, (images + 0.02 * torch.randn_like(images)).clamp(0, 1)]))
    assert features.shape == (4, 24 * 8 * 8)
    distance = torch.cdist(features, features).square()
    assert distance[0, 1] > 10 * distance[0, 2]  # another picture; the same one with noise


def no_models(folder: Path) -> list[Path]:
    """Files and folders that hold no encoder, each in its own way."""
    from safetensors.torch import save_file

    text, empty, broken = (folder / name for name in ("a.txt", "empty.pt", "b.safetensors"))
    text.write_text("no model")
    empty.touch()
    broken.write_bytes(b"\xff" * 64)
    save_file({"x": torch.zeros(2)}, folder / "other.safetensors")
    scalars = {"patch_embed.proj.weight": torch.zeros(2), "pos_embed": torch.zeros(1)}
    save_file(scalars, folder / "scalars.safetensors")
    torch.save({1: torch.zeros(2), "state_dict": 3}, folder / "odd.pt")
    found = [text, empty, broken, *(folder / f"{n}" for n in ("other.safetensors", "odd.pt"))]
    for number, config in enumerate(["", "[]", "{}", '{"branches": 3}', '{"branches": [3]}']):
        inner = folder / f"folder{number}"
        inner.mkdir()
        (inner / "config.json").write_text(config)
        found.append(inner)
    return [*found, folder / "scalars.safetensors", folder]


@pytest.mark.parametrize("name", ENCODERS)
def test_files_of_no_model_are_refused_in_a_line_that_names_the_encoder(name, tmp_path):
    for path in no_models(tmp_path):
        with pytest.raises(UserError) as refused:
            load_encoder(f"{name}:{path}")
        # The autoencoder's is a model, and named so.
        field = ("encoder: ", "model.name: ") if name == "vae" else "encoder: "
        assert str(refused.value).startswith(field) and str(refused.value).isprintable()
