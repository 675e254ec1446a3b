"""The policy of a run: the model that its configuration names, with the adapter it asks for."""

from pathlib import Path

from drift.config import TrainConfig
from drift.models import load_model
from drift.types import PolicyModel


def add_adapter(model: PolicyModel, config: TrainConfig) -> None:
    """A fresh adapter, which changes nothing until it is trained."""
    adapter = config.model
    model.add_adapter(
        adapter.lora_rank, adapter.lora_alpha, adapter.target_modules, seed=config.seed
    )


def put_adapter(model: PolicyModel, config: TrainConfig, checkpoint: Path) -> None:
    """Put a checkpoint's weights on the model, in place of another's if it has one."""
    if not model.trainable_parameters():
        add_adapter(model, config)
    model.load_adapter(checkpoint)


def load_policy(config: TrainConfig, checkpoint: Path | None = None) -> PolicyModel:
    """The model as it was published, or with the adapter saved in a checkpoint's folder."""
    model = load_model(config.model.name)
    if checkpoint is not None:
        put_adapter(model, config, checkpoint)
    return model
