"""The whole UNet trained: float32 weights under autocast, a base that stays the base."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.models import load_model

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """The tiny model with weights, of norms too, that no half precision holds."""
    folder = tmp_path_factory.mktemp("unrounded")
    for part in tiny_model.iterdir():
        if part.name != "unet":
            (folder / part.name).symlink_to(part)
    unet, generator = UNet2DConditionModel.from_pretrained(tiny_model / "unet"), torch.Generator()
    for parameter in unet.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    unet.save_pretrained(folder / "unet")
    return folder


def unfrozen(folder, **settings):
    model = load_model(str(folder), **settings)
    model.unfreeze()
    return model


def train_a_little(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def predict(model):
    x = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    embeds = model.encode(["a fox", "a bee"])
    return model.predict(x, torch.tensor([800, 20]), embeds, 2.0)


def test_unfreezing_changes_nothing_and_trains_every_weight(folder):
    model = load_model(str(folder))
    before = predict(model)
    assert not model.trainable_parameters()
    model.unfreeze()
    assert torch.equal(predict(model), before)
    assert len(model.trainable_parameters()) == len(list(model.network.parameters()))
    assert not model.network.training


@pytest.mark.parametrize("dtype", HALVES)
def test_in_half_precision_the_weights_start_from_the_bases_own_unrounded(folder, dtype):
    model = unfrozen(folder, dtype=dtype)
    published = load_file(folder / "unet" / SAFETENSORS_WEIGHTS_NAME)
    for name, parameter in model.network.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, published[name])
    assert {p.dtype for p in model.pipe.vae.parameters()} == {dtype}
    full = predict(unfrozen(folder))
    assert 0 < (predict(model) - full).abs().max() < 0.1 * full.abs().max()  # it computes in half


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_reference_is_the_base_to_the_bit_however_far_the_weights_have_gone(folder, dtype):
    model = unfrozen(folder, dtype=dtype)
    before, network = predict(model), model.network
    train_a_little(model)
    assert "_base" not in vars(model)  # a copy is read only when it is asked for
    trained = predict(model)
    with model.reference():
        assert torch.equal(predict(model), before)
        assert not model.trainable_parameters()
    assert model.network is network
    assert torch.equal(predict(model), trained)
    assert not torch.equal(trained, before)


def test_the_reference_is_left_by_an_error_too(folder):
    model = unfrozen(folder)
    network = model.network
    with pytest.raises(RuntimeError, match="boom"), model.reference():
        raise RuntimeError("boom")
    assert model.network is network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_weights_are_a_unet_of_plain_diffusers(folder, tmp_path, dtype):
    model = unfrozen(folder, dtype=dtype)
    train_a_little(model)
    model.save_weights(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        SAFETENSORS_WEIGHTS_NAME,
    ]
    plain = UNet2DConditionModel.from_pretrained(tmp_path)
    for name, theirs in plain.state_dict().items():
        assert torch.equal(theirs, model.network.state_dict()[name])
    again = unfrozen(folder, dtype=dtype)
    again.load_weights(tmp_path)
    assert torch.equal(predict(again), predict(model))
    strides = {n: p.stride() for n, p in model.network.named_parameters()}
    assert strides == {n: p.stride() for n, p in again.network.named_parameters()}


def test_weights_of_another_network_are_refused_by_name(folder, tmp_path):
    model = unfrozen(folder)
    with pytest.raises(UserError, match="checkpoint: there is no file"):
        model.load_weights(tmp_path)
    state = model.network.state_dict()
    state["conv_in.weight"] = torch.zeros(2, 2)
    state["odd"] = state.pop("conv_out.bias")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / SAFETENSORS_WEIGHTS_NAME)
    told = r"does not fit UNet2DConditionModel; 1 missing: conv_out.bias; 1 unexpected: odd; 1 of"
    with pytest.raises(UserError, match=told):
        model.load_weights(tmp_path)


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients = []
    for checkpointed in (False, True):
        model = unfrozen(folder, gradient_checkpointing=checkpointed)
        x = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
        embeds = model.encode(["a fox", "a bee"])
        noise = model.predict(x, torch.tensor([800, 20]), embeds, 2.0)
        gradients.append(torch.autograd.grad(noise.square().mean(), model.trainable_parameters()))
    for one, two in zip(*gradients, strict=True):
        assert one.abs().max() > 0  # every weight has a say
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
