"""Tiny stand-ins for real weights, built once per session: random, of the Menagerie's shapes.

diffusers is imported where it is needed, so that tests without a model start fast.
"""

from pathlib import Path

import pytest

WIDTH = 32


@pytest.fixture(autouse=True)
def no_known_code(monkeypatch, tmp_path_factory):
    """Code that a test runs is not known to the next one, nor to whoever runs the tests."""
    place = tmp_path_factory.mktemp("known-code")
    monkeypatch.setattr("drift.files.trust.folder", lambda: place)


def tiny_scheduler(prediction_type: str):
    """SD 1.5's settings for epsilon, the Menagerie's for v_prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
        timestep_spacing="trailing" if prediction_type == "v_prediction" else "leading",
        steps_offset=1,
    )


def tiny_text_encoder(tokenizer):
    from transformers import CLIPTextModel

    from tests.models.families import text_config

    return CLIPTextModel(text_config(tokenizer, WIDTH, layers=1)).eval()


def build_tiny_pipeline(folder: Path):
    """UNet blocks (32, 64) on 16x8x8 latents, 64x64 pictures, the Menagerie's words."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    from drift.menagerie.captions import build_tokenizer
    from tests.models.families import autoencoder

    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "words")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = autoencoder(channels=16)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=tiny_scheduler("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Prediction type ("epsilon", "v_prediction") -> a diffusers folder with the same weights."""
    folder = tmp_path_factory.mktemp("tiny")
    pipe = build_tiny_pipeline(folder)
    folders = {}
    for prediction_type in ("epsilon", "v_prediction"):
        pipe.scheduler = tiny_scheduler(prediction_type)
        folders[prediction_type] = folder / prediction_type
        pipe.save_pretrained(folders[prediction_type])
    return folders


@pytest.fixture(scope="session")
def sd_models(tmp_path_factory) -> dict[str, Path]:
    """ "sd15", "sd21" -> a tiny random diffusers folder in the layout of the published one."""
    from tests.models.published import PUBLISHED, shrunk, write_pipeline

    folder = tmp_path_factory.mktemp("stable-diffusion")
    return {name: write_pipeline(folder / name, shrunk(p)) for name, p in PUBLISHED.items()}


@pytest.fixture(scope="session")
def tiny_model(tiny_models) -> Path:
    """A tiny random Stable Diffusion folder like the Menagerie's (v-prediction)."""
    return tiny_models["v_prediction"]


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[str, Path]:
    """ "sdxl", "sd3", "flux" -> a tiny random diffusers folder."""
    from tests.models.families import BUILD

    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILD.items()}
