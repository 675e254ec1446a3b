import pytest
import torch

from benchmarks import published
from benchmarks.memory import GIB, cuda_autocast, fit_card, imagine
from drift.models.stable_diffusion import StableDiffusion
from drift.training.memory import peak_memory
from drift.training.plan import sizes, stages
from drift.training.policy import make_trainable

SMALL = ["sampling.steps=4", "model.dtype=float32"]


def counted(config, model, reward, encoder) -> dict[str, list[int]]:
    """Bytes of one row and of two by stage."""
    return {
        stage.field: [peak_memory(lambda s=stage, n=n: s.work(n), model.device) for n in (1, 2)]
        for stage in stages(config, model, reward, encoder)
    }


def test_networks_without_contents_take_what_real_ones_take(tmp_path):
    parts = imagine("sd15-pickscore", SMALL, "tiny")
    model = StableDiffusion(published.policy("tiny", tmp_path, torch.float32))
    make_trainable(model, parts.config)
    parts.reward.text_features.clear()
    ours = counted(parts.config, parts.model, parts.reward, parts.encoder)
    parts.reward.model = published.reward("tiny", model.pipe.tokenizer).eval()
    parts.reward.text_features.clear()
    real = counted(parts.config, model, parts.reward, published.encoder("tiny").eval())
    for field, sizes_ in ours.items():
        assert sizes_ == pytest.approx(real[field], rel=0.05), field


@pytest.mark.slow
def test_checkpointing_saves_memory_and_float32_takes_more():
    trained = "optimizer.micro_batch_size"
    plain, kept, half = (
        counted(p.config, p.model, p.reward, p.encoder)[trained]
        for p in (
            imagine("sd15-pickscore", [*SMALL, *more], "tiny")
            for more in ([], ["model.gradient_checkpointing=true"], ["model.dtype=float16"])
        )
    )
    assert kept[1] < 0.6 * plain[1]
    assert half[1] < 0.8 * plain[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("card", "overrides"), [(24, []), (12, ["model.gradient_checkpointing=true"])]
)
def test_the_papers_recipe_fits(card, overrides):
    """With the batch sizes of Table 2: 16 sampled, 2 trained on."""
    parts = imagine("sd15-pickscore", overrides)
    with cuda_autocast():
        planned = fit_card(parts, card * GIB)
    assert planned == parts.config
    assert sizes(planned)["sampling.batch_size"] == 16
    assert sizes(planned)["optimizer.micro_batch_size"] == 2
