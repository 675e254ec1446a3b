"""A tiny random CLIP in both published layouts."""

import pytest
import torch

from drift.pretrain.clip import save_open_clip, save_transformers


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from drift.menagerie.captions import build_tokenizer

    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def clip(tokenizer):
    """Two layers, widths 128 and 64 (two heads and one), images of 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"num_hidden_layers": 2, "hidden_act": "gelu"}
    vision = {"hidden_size": 128, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": 24}
    text |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            vision_config=vision | shape | {"intermediate_size": 96},
            text_config=text | shape | {"intermediate_size": 80},
            projection_dim=24,
        )
    )
    for parameter in model.parameters():  # as shipped, and far from the small default
        parameter.data = (3 * parameter).half().float()
    model.logit_scale.data.fill_(2.5)
    return model.eval()


@pytest.fixture(scope="session")
def transformers_folder(clip, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    save_transformers(clip, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def open_clip_folder(clip, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    save_open_clip(clip, tokenizer, folder)
    return folder
