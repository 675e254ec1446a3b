"""The policy of a run: the model that its configuration names, with the adapter it asks for."""

from pathlib import Path

import torch

from drift.config import TrainConfig
from drift.errors import UserError
from drift.models import load_model
from drift.types import PolicyModel


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device, if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"device: '{name}' is not to be had: {reason}") from error
    return device


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
    model = load_model(
        config.model.name,
        device=pick_device(config.device),
        dtype=getattr(torch, config.model.dtype),
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    if checkpoint is not None:
        put_adapter(model, config, checkpoint)
    return model
