"""The layouts we test in are the published ones: counts, names and shapes at full size.

Full-size networks are made on the meta device, without memory for a weight.
"""

import pytest
import torch
from peft import LoraConfig

from drift.config import ModelConfig
from drift.models import load_model
from tests.models.published import (
    PUBLISHED,
    published_text_names,
    published_vae_names,
    shrunk,
    text_encoder_of,
    unet_of,
    vae_of,
)

# Weights, and tensors in the file (a text encoder's with its stored positions).
COUNTS = {
    "sd15": {
        "unet": (859_520_964, 686),
        "vae": (83_653_863, 248),
        "text_encoder": (123_060_480, 197),
    },
    "sd21": {
        "unet": (865_910_724, 686),
        "vae": (83_653_863, 248),
        "text_encoder": (340_387_840, 373),
    },
}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
SAME = {  # both UNets'
    "conv_in.weight": (320, 4, 3, 3),
    "time_embedding.linear_1.weight": (1280, 320),
    "down_blocks.0.attentions.0.norm.weight": (320,),
    f"{ATTENTION}.attn1.to_q.weight": (320, 320),
    f"{ATTENTION}.attn1.to_out.0.bias": (320,),
    f"{ATTENTION}.ff.net.0.proj.weight": (2560, 320),
    f"{ATTENTION}.ff.net.2.weight": (320, 1280),
    "down_blocks.1.resnets.0.conv_shortcut.weight": (640, 320, 1, 1),
    "down_blocks.2.downsamplers.0.conv.weight": (1280, 1280, 3, 3),
    "down_blocks.3.resnets.1.time_emb_proj.weight": (1280, 1280),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.weight": (1280, 1280),
    "up_blocks.0.resnets.0.conv1.weight": (1280, 2560, 3, 3),
    "up_blocks.3.resnets.0.conv_shortcut.weight": (320, 960, 1, 1),
    "conv_norm_out.weight": (320,),
    "conv_out.weight": (4, 320, 3, 3),
}
TEXT = "text_model.encoder.layers.{}.{}.weight"
VAE_SHAPES = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.mid_block.attentions.0.query.weight": (512, 512),
    "decoder.mid_block.attentions.0.proj_attn.bias": (512,),
    "decoder.up_blocks.3.resnets.2.conv2.weight": (128, 128, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
    "post_quant_conv.weight": (4, 4, 1, 1),
}
SHAPES = {
    "sd15": {
        "unet": SAME
        | {
            "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
            f"{ATTENTION}.attn2.to_k.weight": (320, 768),
            f"{ATTENTION}.attn2.to_v.weight": (320, 768),
        },
        "vae": VAE_SHAPES,
        "text_encoder": {
            "text_model.embeddings.token_embedding.weight": (49408, 768),
            "text_model.embeddings.position_embedding.weight": (77, 768),
            "text_model.embeddings.position_ids": (1, 77),
            TEXT.format(11, "mlp.fc1"): (3072, 768),
            TEXT.format(11, "self_attn.out_proj"): (768, 768),
            "text_model.final_layer_norm.weight": (768,),
        },
    },
    "sd21": {
        "unet": SAME
        | {
            "down_blocks.0.attentions.0.proj_in.weight": (320, 320),
            f"{ATTENTION}.attn2.to_k.weight": (320, 1024),
            f"{ATTENTION}.attn2.to_v.weight": (320, 1024),
        },
        "vae": VAE_SHAPES,
        "text_encoder": {
            "text_model.embeddings.token_embedding.weight": (49408, 1024),
            TEXT.format(22, "mlp.fc1"): (4096, 1024),
            "text_model.final_layer_norm.weight": (1024,),
        },
    },
}
NETWORKS = {"unet": unet_of, "vae": vae_of, "text_encoder": text_encoder_of}
NAMES = {"unet": dict, "vae": published_vae_names, "text_encoder": published_text_names}


def on_meta(name, part, published=PUBLISHED):
    with torch.device("meta"):
        return NETWORKS[part](published[name][part])


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_full_size_layout_is_the_published_one(name, part):
    network = on_meta(name, part)
    state = NAMES[part](network.state_dict())
    count = sum(p.numel() for p in network.parameters())
    assert (count, len(state)) == COUNTS[name][part]
    shapes = SHAPES[name][part]
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def heads(unet):
    """Heads and their width at each of the four levels of attention on the way down."""
    blocks = [unet.down_blocks[k].attentions[0] for k in range(3)] + [unet.mid_block.attentions[0]]
    attentions = [block.transformer_blocks[0].attn1 for block in blocks]
    return [(a.heads, a.to_q.out_features // a.heads) for a in attentions]


def test_attention_head_dim_is_the_number_of_heads():
    # 40, 80, 160: the widths of SD 1.5's heads; 64: of every one of SD 2.1's
    assert heads(on_meta("sd15", "unet")) == [(8, 40), (8, 80), (8, 160), (8, 160)]
    assert heads(on_meta("sd21", "unet")) == [(5, 64), (10, 64), (20, 64), (20, 64)]
    small = {name: shrunk(published) for name, published in PUBLISHED.items()}
    assert heads(on_meta("sd15", "unet", small)) == [(8, 5), (8, 10), (8, 20), (8, 20)]
    assert heads(on_meta("sd21", "unet", small)) == [(5, 8), (10, 8), (20, 8), (20, 8)]


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_shrinking_changes_widths_alone(name, part):
    small = on_meta(name, part, {name: shrunk(PUBLISHED[name])})
    shapes = {key: tensor.ndim for key, tensor in small.state_dict().items()}
    assert shapes == {k: tensor.ndim for k, tensor in on_meta(name, part).state_dict().items()}


# 797,184 is the well-known count of diffusers' LoRAs of rank 4, 3.2 MB in float32.
@pytest.mark.parametrize(("rank", "count"), [(4, 797_184), (8, 1_594_368)])
def test_a_lora_on_sd15s_attention_has_the_known_size(rank, count):
    unet = on_meta("sd15", "unet").requires_grad_(False)
    modules = list(ModelConfig().target_modules)
    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=rank, target_modules=modules))
    trained = [p for p in unet.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == count
    assert len(trained) == 2 * 128  # 16 transformer blocks, two attentions, four projections


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_are_read_whole(sd_models, name):
    """Every weight under its name of 2022 arrives, without the parts that were never fetched."""
    model, small = load_model(str(sd_models[name])), shrunk(PUBLISHED[name])
    torch.manual_seed(0)
    written = [NETWORKS[part](small[part]) for part in ("unet", "vae", "text_encoder")]
    for wanted, loaded in zip(
        written, (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder), strict=True
    ):
        theirs = loaded.state_dict()
        for key, tensor in wanted.state_dict().items():
            assert torch.equal(theirs[key], tensor), key
    assert model.latent_shape() == (4, 8, 8)
    tokens = model.pipe.tokenizer(["a fox"], padding="max_length").input_ids[0]
    assert len(tokens) == 77
    assert tokens[-1] == model.pipe.tokenizer.convert_tokens_to_ids(
        PUBLISHED[name]["tokenizer"]["pad_token"]
    )
    assert model.encode(["a fox"]).prompt.tokens.shape == (1, 77, {"sd15": 48, "sd21": 64}[name])
    # t = 1 + 20 k: `steps_offset` 1, "leading"
    assert model.schedule(50).timesteps.tolist() == [20 * k + 1 for k in reversed(range(50))]
    kinds = {"sd15": "epsilon", "sd21": "v_prediction"}
    assert model.pipe.scheduler.config.prediction_type == kinds[name]
