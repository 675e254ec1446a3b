import math

import pytest
import torch

from drift.errors import UserError
from drift.pixels import CLIP_MEAN, CLIP_STD
from drift.rewards import hpsv2, load_reward, pickscore

PROMPTS = ["a fox", "a cat at night", "an ant", "a fox"]


def images(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "vision_heads", "text_heads"), [("ViT-H-14", 16, 16), ("ViT-L-14", 16, 12)]
)
def test_the_published_checkpoints_fit(name, vision_heads, text_heads, layouts):
    """open_clip's ViT-H/14 is HPSv2, and under transformers' names PickScore; ViT-L/14 is CLIP."""
    from transformers import CLIPModel

    state = layouts[name]
    config = hpsv2.infer_config(state, end_token=49407)
    vision, text = config.vision_config, config.text_config
    assert (vision.image_size, vision.patch_size) == (224, 14)
    assert (vision.num_attention_heads, text.num_attention_heads) == (vision_heads, text_heads)
    assert (text.max_position_embeddings, text.vocab_size) == (77, 49408)
    with torch.device("meta"):
        model = CLIPModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    converted = hpsv2.to_transformers(state)
    assert {name: tensor.shape for name, tensor in converted.items()} == wanted


def test_converting_there_and_back_changes_nothing(clip):
    state = clip.state_dict()
    there = hpsv2.to_open_clip(state)
    assert there["transformer.resblocks.1.attn.in_proj_weight"].shape == (3 * 64, 64)
    assert there["visual.proj"].shape == (128, 24)
    back = hpsv2.to_transformers(there)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_score_is_the_cosine_of_the_converted_model(transformers_folder, open_clip_folder):
    scores = hpsv2.load(open_clip_folder)(images(), PROMPTS)
    same = pickscore.load(transformers_folder)  # square images of the right size: equal pixels
    torch.testing.assert_close(scores, same(images(), PROMPTS) / math.exp(2.5), rtol=0, atol=1e-5)


def renamed(folder, states, tokenizer_from):
    """A folder of .pt files, each with its state dict inside, and the tokenizer."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(tokenizer_from / name)
    for name, state in states.items():
        torch.save({"epoch": 3, "state_dict": state}, folder / name)
    return folder


def test_each_name_takes_its_own_file_of_a_folder_with_both(open_clip_folder, tmp_path):
    one = hpsv2.read_state(open_clip_folder / "open_clip_model.safetensors")
    other = one | {"text_projection": -one["text_projection"]}
    files = {"HPS_v2_compressed.pt": one, "HPS_v2.1_compressed.pt": other}
    folder = renamed(tmp_path / "both", files, open_clip_folder)
    v2, v21 = (load_reward(f"{n}:{folder}")(images(), PROMPTS) for n in ("hpsv2", "hpsv2.1"))
    assert torch.equal(v2, hpsv2.load(open_clip_folder)(images(), PROMPTS))
    torch.testing.assert_close(v21, -v2)
    named = load_reward(f"hpsv2:{folder / 'HPS_v2.1_compressed.pt'}")
    assert torch.equal(named(images(), PROMPTS), v21)


def test_a_folder_with_the_other_version_or_with_several_files_is_refused(tmp_path):
    (tmp_path / "HPS_v2.1_compressed.pt").touch()
    told = r"^reward: [^\n]* lacks HPS_v2_compressed.pt; it holds HPS_v2.1_compressed.pt$"
    with pytest.raises(UserError, match=told):
        hpsv2.load(tmp_path)
    (tmp_path / "mine.pt").touch()
    assert hpsv2.find_weights(tmp_path, "HPS_v2_compressed.pt") == tmp_path / "mine.pt"
    (tmp_path / "yours.safetensors").touch()
    with pytest.raises(UserError, match="it holds HPS_v2.1_compressed.pt, mine.pt, yours"):
        hpsv2.find_weights(tmp_path, "HPS_v2_compressed.pt")


def test_the_longest_side_is_resized_and_the_rest_padded_with_black():
    black = -torch.tensor(CLIP_MEAN) / torch.tensor(CLIP_STD)
    white = (1 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    padded = hpsv2.preprocess(torch.ones(1, 3, 16, 64), 32)  # 8 x 32, between 12 rows each
    assert padded.shape == (1, 3, 32, 32)
    torch.testing.assert_close(padded[0, :, 11, 5], black)
    torch.testing.assert_close(padded[0, :, 12, 0], white)
    torch.testing.assert_close(padded[0, :, 19, 31], white)
    torch.testing.assert_close(padded[0, :, 20, 5], black)
    odd = hpsv2.preprocess(torch.ones(1, 3, 32, 27), 32)  # 5 columns: 2 left, 3 right
    torch.testing.assert_close(odd[0, :, 3, 1], black)
    torch.testing.assert_close(odd[0, :, 3, 2], white)
    torch.testing.assert_close(odd[0, :, 3, 28], white)
    torch.testing.assert_close(odd[0, :, 3, 29], black)


def test_texts_are_unescaped_and_quotes_folded():
    assert hpsv2.clean(" a &amp;quot;fox&quot; of “mine” ") == 'a "fox" of "mine"'


def test_wrong_files_are_refused_in_one_line(transformers_folder, pickled, tmp_path):
    with pytest.raises(UserError, match=r"^reward: [^\n]* holds no .pt or .safetensors file$"):
        hpsv2.load(tmp_path)
    told = r"^reward: [^\n]* lacks visual.conv1.weight, [^\n]*; it holds logit_scale, text_m[^\n]*$"
    with pytest.raises(UserError, match=told):
        hpsv2.load(transformers_folder / "model.safetensors")
    for name in ("broken.pt", "broken.safetensors"):
        for content in (b"not weights at all", pickled):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=r"^reward: cannot read weights from [^\n]*$"):
                hpsv2.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_a_hole_is_refused(open_clip_folder, tmp_path):
    state = hpsv2.read_state(open_clip_folder / "open_clip_model.safetensors")
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "holed.pt")
    (tmp_path / "tokenizer.json").symlink_to(open_clip_folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"^reward: [^\n]*vision_model.post_layernorm.bias[^\n]*$"):
        hpsv2.load(tmp_path)
