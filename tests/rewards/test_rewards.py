import pytest
import torch

from drift.errors import UserError
from drift.files.hub import locate
from drift.rewards import REWARDS, load_reward, pickscore


def test_a_name_may_bring_its_own_weights(transformers_folder, open_clip_folder):
    images, prompts = torch.rand(2, 3, 32, 32), ["a fox", "a cat"]
    pick = load_reward(f"pickscore:{transformers_folder}")(images, prompts)
    cosine = load_reward(f"hpsv2:{open_clip_folder}")(images, prompts)
    torch.testing.assert_close(pick / 2.718281828**2.5, cosine, rtol=0, atol=1e-5)


def test_the_published_rewards_load_by_name(golden):
    images, prompts = torch.rand(2, 3, 40, 33), ["a fox", "a cat"]
    for name, folder in (("clip", "clip"), ("hpsv2.1", "hpsv2"), ("imagereward", "imagereward")):
        scores = load_reward(f"{name}:{golden / folder}")(images, prompts)
        assert scores.shape == (2,) and scores.isfinite().all()


def test_the_aesthetic_head_alone_is_not_enough(golden, no_hub):
    told = r"^reward: 'openai/clip-vit-large-patch14' \(config.json, model.safetensors; 1.7 GB"
    with pytest.raises(UserError, match=told):
        load_reward(f"aesthetic:{golden / 'aesthetic'}")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="no 'aesthetics'; known are pickscore, hpsv2"):
        load_reward("aesthetics")


def test_absent_weights_are_named():
    with pytest.raises(UserError, match="reward: there is no file or folder './nowhere'"):
        load_reward("pickscore:./nowhere")


@pytest.mark.parametrize("name", [name for name in REWARDS if name.endswith("-tiny")])
def test_shipped_rewards_load_and_tell_prompts_apart(name):
    """How well they judge is measured in pre-training, where there is artwork."""
    one = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = load_reward(name)(one.expand(3, -1, -1, -1), ["a fox", "a spider", "a fox"])
    assert scores[0] == scores[2] != scores[1]


def test_shipped_hpsv2_is_the_same_in_both_layouts():
    images, prompts = torch.rand(2, 3, 64, 64), ["a fox", "a cat at night"]
    folder = locate("menagerie/hpsv2-tiny", field="reward")
    other = pickscore.load(folder)
    torch.testing.assert_close(
        load_reward("hpsv2-tiny")(images, prompts),
        other(images, prompts) / other.scale,
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", [name for name, part in REWARDS.items() if part.weights])
def test_files_of_no_model_are_refused_in_a_line_that_names_the_reward(name, tmp_path):
    for file, content in (
        ("a.txt", b"no"),
        ("b.safetensors", b"\xff" * 64),
        ("config.json", b"[]"),
    ):
        (tmp_path / file).write_bytes(content)
    for path in (*tmp_path.iterdir(), tmp_path):
        with pytest.raises(UserError) as refused:
            load_reward(f"{name}:{path}")
        assert str(refused.value).startswith("reward: ") and str(refused.value).isprintable()
