"""The policy of a run: the model that its configuration names, and what of it is trained."""

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
        torch.ones(1, device=device).item()  # "meta" makes tensors, and has no numbers
    except Exception as error:  # torch without CUDA asserts; other devices import and load
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"device: '{name}' cannot be used: {told}") from error
    return device


def use_tf32(wanted: bool) -> None:
    """Whether a card may round the factors of float32 products to 10 bits, in this process.

    Not where the policy computes in float32: TF32 moves its ratio by about 4e-5 between batch
    shapes, a good part of the paper's clip range of 1e-4. torch's own default has it in
    convolutions.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


def make_trainable(model: PolicyModel, config: TrainConfig) -> None:
    """An adapter, or all of the network; nothing changes until it is trained."""
    wanted = config.model
    rank, alpha, modules = wanted.lora_rank, wanted.lora_alpha, wanted.target_modules
    if wanted.tune == "full":
        model.unfreeze()
        return
    if wanted.continues:
        model.train_adapter(rank, alpha, modules)
        return
    assert rank is not None and alpha is not None and modules is not None  # of a fresh one
    try:
        model.add_adapter(rank, alpha, modules, seed=config.seed)
    except ValueError as error:  # peft's, of layers that are not there or take no LoRA
        reason = str(error).splitlines()[0]
        raise UserError(f"model.target_modules: no LoRA can be put there: {reason}") from error


def put_weights(model: PolicyModel, config: TrainConfig, checkpoint: Path) -> None:
    """Put a checkpoint's weights on the model, in place of another's if it has one."""
    if not model.trainable_parameters():
        make_trainable(model, config)
    model.load_weights(checkpoint)


def load_policy(config: TrainConfig, checkpoint: Path | None = None) -> PolicyModel:
    """The model as training begins with it, or with the weights saved in a checkpoint's folder."""
    use_tf32(config.model.dtype != "float32")
    model = load_model(
        config.model.name,
        prediction_type=config.model.prediction_type,
        flow_form=config.model.flow_form,
        flow_shift=config.model.flow_shift,
        adapter=config.model.adapter,
        adapter_use=config.model.adapter_use,
        device=pick_device(config.device),
        dtype=getattr(torch, config.model.dtype),
        gradient_checkpointing=config.model.gradient_checkpointing,
        offload=config.model.offload,
    )
    if checkpoint is not None:
        put_weights(model, config, checkpoint)
    return model
