"""What rewards of CLIP's shape share: pictures, and folders that are not what they should be."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise, resize
from drift.rewards import load_reward
from drift.rewards.clip_score import (
    load_clip,
    load_tokenizer,
    require,
    transformers_preprocess,
)


def test_the_shortest_side_is_resized_and_the_centre_cut():
    wide = torch.zeros(1, 3, 16, 48)
    wide[..., 16:32] = 1  # the central square
    assert torch.equal(crop(wide, 16, half=math.floor), torch.ones(1, 3, 16, 16))
    tall = crop(wide.transpose(2, 3), 8, half=math.floor)
    assert tall.shape == (1, 3, 8, 8)
    torch.testing.assert_close(tall[..., 2:6, :], torch.ones(1, 3, 4, 8))


@pytest.mark.parametrize(
    ("width", "down", "nearest"),
    [(8, 0, 0), (9, 0, 0), (10, 1, 1), (11, 1, 2), (13, 2, 2), (15, 3, 4)],  # 1.5 -> 1 or 2
)
def test_half_an_odd_margin(width, down, nearest):
    columns = (torch.arange(width) / 16).expand(1, 3, 8, width)
    assert torch.equal(crop(columns, 8, half=math.floor)[0, 0, 0, :1], torch.tensor([down / 16]))
    assert torch.equal(crop(columns, 8)[0, 0, 0, :1], torch.tensor([nearest / 16]))


def pil_square(image: torch.Tensor) -> torch.Tensor:
    """PIL's resize and transformers' crop of an image "3 H W" in grey levels."""
    picture = Image.fromarray(image.byte().permute(1, 2, 0).numpy())
    width, height = (int(32 * side / min(picture.size)) for side in picture.size)
    left, top = (width - 32) // 2, (height - 32) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    cut = np.array(resized.crop((left, top, left + 32, top + 32)))
    return torch.from_numpy(cut).permute(2, 0, 1).float()


@pytest.mark.parametrize("size", [(64, 64), (45, 64), (20, 30), (64, 33), (21, 96), (100, 35)])
def test_smooth_pixels_are_within_a_grey_level_of_pils(size):
    y, x = torch.meshgrid(*(torch.linspace(0, 3, side) for side in size), indexing="ij")
    waves = torch.stack([torch.sin(3 * x + y), torch.cos(x - 2 * y), torch.sin(4 * x * y / 3)])
    image = (127.5 + 127.5 * waves).round()
    ours = (255 * crop(image[None] / 255, 32, half=math.floor)[0]).round()
    assert (ours - pil_square(image)).abs().max() <= 1


def test_few_pixels_at_hard_edges_are_further_from_pils(golden_images):
    """PIL rounds and clips between its two passes. These have noise and rectangles, at black."""
    images = [(255 * image).round() for images in golden_images for image in images]
    ours = [(255 * crop(image[None] / 255, 32, half=math.floor)[0]).round() for image in images]
    theirs = [pil_square(image) for image in images]
    off = (torch.stack(ours) - torch.stack(theirs)).abs()
    assert (off > 1).float().mean() < 0.001 and off.max() < 16


def test_resizing_may_overshoot_and_the_square_may_not():
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    assert (
        resize(edge, 32, 32, clamp=False).max() > 1.01
        and resize(edge, 32, 32, clamp=False).min() < -0.01
    )
    assert crop(edge, 32, half=math.floor).max() == 1 and crop(edge, 32, half=math.floor).min() == 0


def test_normalise_by_hand():
    grey = normalise(torch.full((1, 3, 1, 1), 0.5), (0.5, 0.25, 0.0), (1.0, 0.5, 0.25))
    assert grey.flatten().tolist() == [0.0, 0.5, 2.0]


def test_mean_and_std_are_the_folders_own(golden, link):
    copy = link(golden / "clip", without=("preprocessor_config.json",))
    model, images = load_clip(copy, "cpu"), torch.rand(2, 3, 32, 32)
    usual = transformers_preprocess(model, copy)(images)
    torch.testing.assert_close(usual, normalise(images, CLIP_MEAN, CLIP_STD))
    plain = '{"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}'
    (copy / "preprocessor_config.json").write_text(plain)
    assert torch.equal(transformers_preprocess(model, copy)(images), images)


def test_shards_and_old_position_ids_are_read(golden, link):
    copy = link(golden / "clip", without=("model.safetensors",))
    state = load_file(golden / "clip" / "model.safetensors")
    whole = load_clip(golden / "clip", "cpu").state_dict()
    names = sorted(state)
    first = {name: state[name] for name in names[:40]}
    first["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(first, copy / "model-00001-of-00002.safetensors")
    save_file({name: state[name] for name in names[40:]}, copy / "model-00002-of-00002.safetensors")
    places = {
        n: f"model-0000{1 if n in first else 2}-of-00002.safetensors" for n in (*names, *first)
    }
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_clip(copy, "cpu").state_dict()
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)
    assert all(tensor.dtype == torch.float32 for tensor in whole.values())


def test_half_precision_is_read_where_there_is_no_other_and_no_pickle(golden, link):
    copy = link(golden / "clip", without=("model.safetensors",))
    state = load_file(golden / "clip" / "model.safetensors")
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^reward: .*pytorch_model.bin is a pickle.*convert"):
        load_clip(copy, "cpu")
    save_file({k: t.half() for k, t in state.items()}, copy / "model.fp16.safetensors")
    halved = load_clip(copy, "cpu").state_dict()
    assert all(torch.equal(halved[k], t.half().float()) for k, t in state.items() if k in halved)


@pytest.mark.parametrize("content", (None, b'{"model_type": "bert"}', b"{", b"\xff"))
def test_another_folder_is_refused_in_one_line(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^reward: [^\n]*config.json[^\n]*$"):
        load_clip(tmp_path, "cpu")


def test_missing_truncated_and_pickled_weights_are_refused(golden, link, pickled, tmp_path):
    copy = link(golden / "clip", without=("model.safetensors",))
    file = copy / "model.safetensors"
    with pytest.raises(UserError, match=r"^reward: [^\n]*no file named model.safetensors[^\n]*$"):
        load_clip(copy, "cpu")
    whole = (golden / "clip" / "model.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], pickled):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"^reward: cannot load a CLIPModel from [^\n]*$"):
            load_clip(copy, "cpu")
    assert not (tmp_path / "ran").exists()


def test_misfits_are_named(golden, link):
    copy = link(golden / "clip", without=("model.safetensors",))
    state = load_file(golden / "clip" / "model.safetensors")
    state["head.weight"] = state.pop("text_projection.weight")
    save_file(state, copy / "model.safetensors")
    told = r"^reward: [^\n]* 1 missing: text_projection.weight; 1 unexpected: head.weight$"
    with pytest.raises(UserError, match=told):
        load_clip(copy, "cpu")


def test_an_absent_and_a_broken_tokenizer(no_hub, tmp_path):
    told = r"^reward: 'openai/clip-vit-large-patch14' \(tokenizer[^\n]*merges.txt[^\n]*$"
    with pytest.raises(UserError, match=told):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match=r"^reward: cannot read a tokenizer from [^\n]*$"):
        load_tokenizer(tmp_path)


def test_a_state_without_what_sizes_are_read_from(tmp_path):
    state = {"weights": 3, "a": torch.zeros(2), "b": torch.zeros(2, 2)}
    require(state, {"a": 1, "b": 2}, source=tmp_path, kind="model")
    told = "is no model: it lacks weights, b, c; it holds a, b, weights$"
    with pytest.raises(UserError, match=told):
        require(state, {"weights": 1, "b": 3, "c": 1}, source=tmp_path, kind="model")


def test_a_prompts_features_do_not_depend_on_its_company():
    """Else a resumed run, which meets its prompts in other batches, would score them otherwise."""
    prompts = [
        "a fox",
        "a small wolf in the snow under a red moon, noto style",
        "a bee",
        "owl",
    ]
    together, alone = load_reward("pickscore-tiny"), load_reward("pickscore-tiny")
    together._encode_prompts(prompts)
    for prompt in reversed(prompts):
        alone._encode_prompts([prompt])
        assert torch.equal(together.text_features[prompt], alone.text_features[prompt])
