import math

import pytest
import torch

from drift.errors import UserError
from drift.rewards import hpsv2, pickscore
from drift.rewards.clip_score import CLIP_MEAN, CLIP_STD

PROMPTS = ["a fox", "a cat at night", "an ant", "a fox"]


def images(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(0))


def vit_h() -> dict[str, torch.Tensor]:
    """The names and shapes of the published checkpoint, without its numbers."""
    layer = {
        "attn.in_proj_weight": lambda w: (3 * w, w),
        "attn.in_proj_bias": lambda w: (3 * w,),
        "attn.out_proj.weight": lambda w: (w, w),
        "attn.out_proj.bias": lambda w: (w,),
        "ln_1.weight": lambda w: (w,),
        "ln_1.bias": lambda w: (w,),
        "ln_2.weight": lambda w: (w,),
        "ln_2.bias": lambda w: (w,),
        "mlp.c_fc.weight": lambda w: (4 * w, w),
        "mlp.c_fc.bias": lambda w: (4 * w,),
        "mlp.c_proj.weight": lambda w: (w, 4 * w),
        "mlp.c_proj.bias": lambda w: (w,),
    }
    shapes = {
        "positional_embedding": (77, 1024),
        "text_projection": (1024, 1024),
        "logit_scale": (),
        "visual.class_embedding": (1280,),
        "visual.positional_embedding": (257, 1280),
        "visual.proj": (1280, 1024),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "token_embedding.weight": (49408, 1024),
    }
    for name, width in (("visual.ln_pre", 1280), ("visual.ln_post", 1280), ("ln_final", 1024)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for prefix, layers, width in (("visual.", 32, 1280), ("", 24, 1024)):
        for number in range(layers):
            for name, shape in layer.items():
                shapes[f"{prefix}transformer.resblocks.{number}.{name}"] = shape(width)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_published_checkpoint_fits():
    from transformers import CLIPModel

    config = hpsv2.infer_config(vit_h(), end_token=49407)
    vision, text = config.vision_config, config.text_config
    assert (vision.image_size, vision.patch_size, vision.num_attention_heads) == (224, 14, 16)
    assert (text.max_position_embeddings, text.num_attention_heads) == (77, 16)
    with torch.device("meta"):
        model = CLIPModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    converted = hpsv2.to_transformers(vit_h())
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


def test_a_pt_file_with_its_state_dict_inside(open_clip_folder, tmp_path):
    state = hpsv2.read_state(open_clip_folder / "open_clip_model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(open_clip_folder / name)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "HPS_v2.1_compressed.pt")
    expected = hpsv2.load(open_clip_folder)(images(), PROMPTS)
    for path in (tmp_path, tmp_path / "HPS_v2.1_compressed.pt"):
        assert torch.equal(hpsv2.load(path)(images(), PROMPTS), expected)


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


def test_wrong_files_are_refused_in_one_line(transformers_folder, tmp_path):
    with pytest.raises(UserError, match=r"^reward: [^\n]* holds no .pt or .safetensors [^\n]*$"):
        hpsv2.load(tmp_path)
    with pytest.raises(UserError, match=r"^reward: [^\n]* lacks visual.conv1.weight$"):
        hpsv2.load(transformers_folder / "model.safetensors")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(UserError, match=r"^reward: cannot read weights from [^\n]*$"):
            hpsv2.load(tmp_path / name)


def test_a_checkpoint_with_a_hole_is_refused(open_clip_folder, tmp_path):
    state = hpsv2.read_state(open_clip_folder / "open_clip_model.safetensors")
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "holed.pt")
    (tmp_path / "tokenizer.json").symlink_to(open_clip_folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"^reward: [^\n]*vision_model.post_layernorm.bias[^\n]*$"):
        hpsv2.load(tmp_path)
