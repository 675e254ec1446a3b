import copy
import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from drift.errors import UserError
from drift.models import load_model


@pytest.fixture(params=["epsilon", "v_prediction"])
def folder(request, tiny_models):
    return tiny_models[request.param]


def test_guidance_one_skips_the_unconditional_pass(folder):
    model, calls = load_model(str(folder)), []
    model.pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    x, t = torch.randn(3, *model.latent_shape()), torch.tensor([999, 500, 100])
    embeds = model.encode(["a fox", "a bee", "an ant"])
    with torch.no_grad():
        plain = model.predict(x, t, embeds, 1.0)
        guided = model.predict(x, t, embeds, 3.0)
        nothing = model.predict(x, t, model.encode([""] * 3), 1.0)
    assert calls == [3, 6, 3]
    torch.testing.assert_close(guided, nothing + 3.0 * (plain - nothing), rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_trains_only_itself(folder):
    model = load_model(str(folder))
    x, t = torch.randn(1, *model.latent_shape()), torch.tensor([500])
    embeds = model.encode(["a fox"])
    with torch.no_grad():
        before = model.predict(x, t, embeds, 2.0)
        model.add_adapter(4, 8, ("to_q", "to_v"), seed=0)
        after = model.predict(x, t, embeds, 2.0)
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    names = {n for n, p in model.pipe.unet.named_parameters() if p.requires_grad}
    assert names
    assert all("lora" in name for name in names)


def test_the_saved_adapter_loads_in_plain_diffusers(folder, tmp_path):
    model = load_model(str(folder))
    model.add_adapter(4, 16, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(0, 0.1)
    model.save_weights(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as stored:
        header = json.loads(stored.metadata()["lora_adapter_metadata"])
    assert header["unet.target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]  # not as hashed
    x, t = torch.randn(2, *model.latent_shape()), torch.tensor([800, 20])
    embeds = model.encode(["a fox", "a bee"])
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    with torch.no_grad():
        base = plain.unet(x, t, embeds.prompt.tokens).sample
        plain.load_lora_weights(tmp_path)
        theirs = plain.unet(x, t, embeds.prompt.tokens).sample
        ours = model.pipe.unet(x, t, embeds.prompt.tokens).sample
        with model.reference():
            off = model.pipe.unet(x, t, embeds.prompt.tokens).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(off, base, rtol=1e-5, atol=1e-5)
    assert (ours - base).abs().max() > 0.01

    again = load_model(str(folder))
    again.add_adapter(4, 16, ("to_q", "to_k", "to_v", "to_out.0"), seed=1)
    again.load_weights(tmp_path)
    for mine, theirs in zip(
        model.trainable_parameters(), again.trainable_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_saving_an_adapter_twice_writes_the_same_bytes(folder, tmp_path):
    model, written = load_model(str(folder)), set()
    model.add_adapter(4, 16, ("to_q", "to_k"), seed=0)
    for k in range(8):  # as the library leaves it, two orders of its metadata turn up
        (tmp_path / str(k)).mkdir()
        model.save_weights(tmp_path / str(k))
        written.add((tmp_path / str(k) / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(written) == 1


def test_a_folder_of_pickles_is_refused_and_told_how_to_convert(folder, tmp_path):
    StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).save_pretrained(
        tmp_path / "whole"
    )
    weights = tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(
        UserError, match=r"model\.name: .*\.bin is a pickle.*safe_serialization"
    ) as e:
        load_model(str(tmp_path / "whole"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",)])
def test_parts_that_come_in_half_precision_alone_are_read(folder, tmp_path, parts):
    whole = load_model(str(folder)).pipe
    shutil.copytree(folder, tmp_path / "half")
    for part in parts:
        (file,) = (tmp_path / "half" / part).glob("*.safetensors")
        getattr(copy.deepcopy(whole), part).half().save_pretrained(file.parent, variant="fp16")
        file.unlink()
    model = load_model(str(tmp_path / "half"))
    for part in ("unet", "vae", "text_encoder"):
        wanted, state = (getattr(p, part).state_dict() for p in (whole, model.pipe))
        for name, tensor in wanted.items():
            stored = tensor.half().float() if part in parts else tensor
            assert torch.equal(state[name], stored), name
    model.unfreeze()
    with model.reference():  # which reads the UNet again
        base = model.network
        assert base is not whole.unet
        assert torch.equal(base.conv_in.weight, whole.unet.conv_in.weight.half().float())


@pytest.mark.parametrize(("dtype", "off"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_is_the_networks_alone(folder, dtype, off):
    full, half = load_model(str(folder)), load_model(str(folder), dtype=dtype)
    for model in (full, half):
        model.add_adapter(4, 8, ("to_q", "to_v"), seed=0)
    assert {p.dtype for p in half.trainable_parameters()} == {torch.float32}
    frozen = {p.dtype for p in half.network.parameters() if not p.requires_grad}
    assert frozen == {dtype}
    x, t = torch.randn(2, *full.latent_shape()), torch.tensor([800, 20])
    embeds = half.encode(["a fox", "a bee"])
    assert embeds.prompt.tokens.dtype == torch.float32
    with torch.no_grad():
        ours, theirs = (m.predict(x, t, embeds, 2.0).float() for m in (half, full))
    assert 0 < (ours - theirs).abs().max() < off * theirs.abs().max()
    images = half.decode(x)
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def gradient_of(model, folder) -> list[torch.Tensor]:
    x, t = torch.randn(2, *model.latent_shape()), torch.tensor([800, 20])
    embeds = model.encode(["a fox", "a bee"])
    noise = model.predict(x, t, embeds, 2.0)
    return list(torch.autograd.grad(noise.square().mean(), model.trainable_parameters()))


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients, calls = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = load_model(str(folder), gradient_checkpointing=checkpointed)
        model.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
        seen = []
        for name, module in model.network.named_modules():
            if name.rpartition(".")[0].endswith("resnets"):
                module.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        gradients.append(gradient_of(model, folder))
        calls.append(len(seen))
    assert calls[1] > calls[0]  # its blocks really were run again
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-8)


# --- the policy's own features ---


def predict(model, rows, guidance_scale=3.0, times=(999, 500, 100)):
    """Of the first rows of a fixed batch."""
    x = torch.randn(3, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    embeds = model.encode(["a fox", "a bee", "an ant"])
    with torch.no_grad():
        return model.predict(x[rows], torch.tensor(times)[rows], embeds[rows], guidance_scale)


def test_features_are_the_middle_of_the_network_under_the_prompt(folder):
    model, outputs = load_model(str(folder)), []
    hook = model.pipe.unet.mid_block.register_forward_hook(lambda *a: outputs.append(a[-1]))
    everything = slice(None)
    with model.capture_features() as seen:
        predict(model, everything, guidance_scale=1.0)
        predict(model, everything)
        predict(model, everything, guidance_scale=0.0)
    hook.remove()
    assert [len(o) for o in outputs] == [3, 6, 6]
    assert outputs[0].shape[1:] == (64, 4, 4)  # here the middle has just as many places
    assert torch.equal(seen[0], outputs[0].flatten(1))
    assert torch.equal(seen[1], outputs[1][3:].flatten(1))
    for features in seen[1:]:  # guidance mixes predictions, not features
        torch.testing.assert_close(features, seen[0], rtol=1e-4, atol=1e-5)
    assert (seen[1] - outputs[1][:3].flatten(1)).abs().max() > 1e-3  # the empty prompt's are others


def test_features_are_pooled_to_as_many_numbers_at_any_size(folder):
    model = load_model(str(folder))
    embeds, t = model.encode(["a fox"]), torch.tensor([500])
    with torch.no_grad(), model.capture_features() as seen:
        for height, width in [(8, 8), (16, 32), (4, 4)]:
            model.predict(torch.randn(1, 16, height, width), t, embeds, 2.0)
    assert [features.shape for features in seen] == [(1, 16 * 64)] * 3


def test_features_do_not_depend_on_the_batch(folder):
    model = load_model(str(folder))
    with model.capture_features() as seen:
        predict(model, slice(None))
        for k in range(3):
            predict(model, slice(k, k + 1))
    torch.testing.assert_close(seen[0], torch.cat(seen[1:]), rtol=1e-4, atol=1e-5)


def test_capturing_changes_no_prediction_and_ends_with_its_context(folder):
    model = load_model(str(folder))
    before = predict(model, slice(None))
    with model.capture_features() as seen:
        assert torch.equal(predict(model, slice(None)), before)
    with pytest.raises(ValueError, match="on the way"), model.capture_features() as failed:
        raise ValueError("on the way")
    assert torch.equal(predict(model, slice(None)), before)
    assert (len(seen), len(failed)) == (1, 0)
    assert not model.pipe.unet.mid_block._forward_hooks


def test_features_are_those_of_the_policy_with_its_adapter(folder):
    model = load_model(str(folder))
    with model.capture_features() as base:
        predict(model, slice(None))
    model.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    for parameter in model.trainable_parameters():
        parameter.data += 0.1
    with model.capture_features() as seen:
        predict(model, slice(None))
        with model.reference():
            predict(model, slice(None))
    assert (seen[0] - base[0]).abs().max() > 1e-3
    torch.testing.assert_close(seen[1], base[0], rtol=1e-5, atol=1e-5)


def test_features_of_a_network_in_half_precision_are_float32(folder):
    full, half = load_model(str(folder)), load_model(str(folder), dtype=torch.bfloat16)
    with full.capture_features() as theirs:
        predict(full, slice(None))
    with half.capture_features() as ours:
        predict(half, slice(None))
    assert ours[0].dtype == torch.float32
    assert 0 < (ours[0] - theirs[0]).abs().max() < 0.1 * theirs[0].abs().max()


def test_a_network_without_a_middle_has_no_features(folder):
    model = load_model(str(folder))
    model.pipe.unet.mid_block = None  # as in some distilled models
    with pytest.raises(UserError, match="'policy' needs a UNet with"), model.capture_features():
        pass


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no file or folder"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no model_index.json"):
        load_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(UserError, match="is a PixArtAlphaPipeline"):
        load_model(str(tmp_path))
