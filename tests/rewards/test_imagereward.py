import json

import pytest
import torch

from drift.errors import UserError
from drift.rewards import imagereward

# The fields of the published med_config.json that are read.
PUBLISHED = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


@pytest.fixture(scope="module")
def reward(golden):
    return imagereward.load(golden / "imagereward")


def state_of(folder):
    return torch.load(folder / "ImageReward.pt", weights_only=True)


def test_the_published_checkpoint_fits(layouts, tmp_path):
    """Names and shapes are those of the image-reward package's model, BLIP's leftovers aside."""
    state = layouts["ImageReward"]
    assert imagereward.infer_vision(state) == {
        "image_size": 224,
        "patch_size": 16,
        "width": 1024,
        "depth": 24,
        "heads": 16,
    }
    with torch.device("meta"):
        model = imagereward.build(state, PUBLISHED, str.split, tmp_path)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    left_over = {name for name in state if name.startswith(imagereward.UNUSED)}
    assert left_over == {
        "blip.text_encoder.embeddings.position_ids",
        "blip.vision_proj.weight",
        "blip.vision_proj.bias",
        "blip.text_proj.weight",
        "blip.text_proj.bias",
    }
    assert {n: t.shape for n, t in state.items() if n not in left_over} == wanted


def test_the_heads_number_is_standardised(reward, golden_images, monkeypatch):
    prompts = ["a fox", "an owl"]
    score = reward(golden_images[0], prompts)
    reward.mlp.layers[7].bias += imagereward.STD  # one published spread more
    torch.testing.assert_close(reward(golden_images[0], prompts), score + 1, rtol=0, atol=1e-5)
    reward.mlp.layers[7].weight *= 0
    reward.mlp.layers[7].bias.fill_(imagereward.MEAN)
    assert reward(golden_images[0], prompts).tolist() == [0.0, 0.0]


def test_padding_and_what_follows_the_35th_token_have_no_say(golden, golden_images):
    reward, image = imagereward.load(golden / "imagereward"), golden_images[0][:1]
    alone = reward(image, ["a fox"])
    padded = reward(image.expand(2, -1, -1, -1), ["a fox", "a fox and many animals"])
    torch.testing.assert_close(alone, padded[:1], rtol=0, atol=1e-5)
    words = ["fox"] * 33  # with [CLS] and [SEP] 35 tokens
    full, longer, shorter = (
        reward(image, [" ".join(text)]) for text in (words, [*words, "owl"], words[1:])
    )
    assert torch.equal(full, longer) and not torch.equal(full, shorter)


def test_the_file_may_be_named_itself(golden, golden_images, reward):
    named = imagereward.load(golden / "imagereward" / "ImageReward.pt")
    prompts = ["a fox", "an owl"]
    folder = imagereward.load(golden / "imagereward")
    assert torch.equal(named(golden_images[2], prompts), folder(golden_images[2], prompts))


def test_missing_files_are_named(golden, link, no_hub, tmp_path):
    with pytest.raises(UserError, match=r"^reward: [^\n]*med_config.json is missing, or[^\n]*$"):
        imagereward.load(tmp_path)
    copy = link(golden / "imagereward", without=("ImageReward.pt", "vocab.txt"))
    with pytest.raises(UserError, match=r"^reward: there is no file [^\n]*ImageReward.pt$"):
        imagereward.load(copy)
    (copy / "ImageReward.pt").symlink_to(golden / "imagereward" / "ImageReward.pt")
    told = r"^reward: 'google-bert/bert-base-uncased' \(tokenizer[^\n]*vocab.txt[^\n]*$"
    with pytest.raises(UserError, match=told):
        imagereward.load(copy)


def test_an_incomplete_med_config_is_refused(golden, link):
    copy = link(golden / "imagereward", without=("med_config.json",))
    (copy / "med_config.json").write_text(json.dumps({"hidden_size": 32}))
    told = "lacks vocab_size, intermediate_size, num_hidden_layers, num_attention_heads, max_pos"
    with pytest.raises(UserError, match=told):
        imagereward.load(copy)


def test_wrong_weights_are_refused_in_one_line(golden, link, pickled, tmp_path):
    copy = link(golden / "imagereward", without=("ImageReward.pt",))
    file = copy / "ImageReward.pt"
    torch.save({"model": {}, "epoch": 3}, file)
    told = r"^reward: [^\n]* is no ImageReward checkpoint: it lacks blip.visual_encoder.pos_embed, "
    with pytest.raises(UserError, match=told + r"[^\n]*; it holds epoch, model$"):
        imagereward.load(copy)
    whole = (golden / "imagereward" / "ImageReward.pt").read_bytes()
    for content in (whole[: len(whole) // 2], pickled):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"^reward: cannot read weights from [^\n]*$"):
            imagereward.load(copy)
    assert not (tmp_path / "ran").exists()


def test_misfits_are_named(golden, link):
    copy = link(golden / "imagereward", without=("ImageReward.pt",))
    state = state_of(golden / "imagereward")
    state["blip.visual_encoder.extra"] = state.pop("blip.visual_encoder.norm.weight")
    torch.save(state, copy / "ImageReward.pt")
    told = "1 missing: blip.visual_encoder.norm.weight; 1 unexpected: blip.visual_encoder.extra$"
    with pytest.raises(UserError, match=told):
        imagereward.load(copy)
