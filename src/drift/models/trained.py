"""What of a model is trained: a fresh LoRA, one that it begins with, or the whole network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.training_utils import cast_training_params
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn import Parameter

from drift.errors import UserError
from drift.files.weights import (
    check_numbers,
    fit_weights,
    misfits_of,
    read_weights,
    refuse_misfits,
    settle_header,
)
from drift.models.adapters import Adapter, check_fit, load_into
from drift.models.layers import NAME, check_settings, check_targets, trained_parameters

START = "start"  # the name of the copy of an adapter as it was before training


class Trained:
    """The half of a PolicyModel that trains, saves and restores the network of its `pipe`.

    What is trained is float32 in every dtype. The reference of a KL is the policy at the start: the
    base model, with the adapter that the run began with if it goes on in one.
    """

    pipe: DiffusionPipeline
    part: ClassVar[str]  # of the pipe, that is trained: "unet" or "transformer"
    device: torch.device
    dtype: torch.dtype
    read_base: Callable[[], ModelMixin]  # the base's network anew, in float32
    start: Adapter | None = None  # what the run goes on in

    @property
    def network(self) -> ModelMixin:
        return getattr(self.pipe, self.part)

    def begin_with(self, start: Adapter) -> None:
        """Put an adapter on the network, to go on in it; frozen until `train_adapter`."""
        if start.texts:
            raise UserError(
                f"model.adapter: {start.file} also has weights for the text encoder, which is not "
                "trained here; set model.adapter_use=fuse to make it part of the base"
            )
        check_fit(start, self.part, self.network)
        load_into(start, self.network)
        self.start = start

    def train_adapter(
        self,
        rank: int | None = None,
        alpha: int | float | None = None,
        target_modules: Sequence[str] | None = None,
    ) -> None:
        """Train the LoRA that it begins with; settings that contradict it are an error."""
        assert self.start is not None
        check_settings(self.network, self.start.file, rank, alpha, target_modules)
        for parameter in trained_parameters(self.network):
            parameter.requires_grad_(True)

    def add_adapter(
        self, rank: int, alpha: int | float, target_modules: Sequence[str], seed: int
    ) -> None:
        """A fresh LoRA on the network; it changes nothing until it is trained (B starts at 0)."""
        check_targets(self.network, target_modules)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network.add_adapter(
                LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))  # type: ignore[arg-type]  # fractions are fine
            )
        cast_training_params(self.network, dtype=torch.float32)

    def unfreeze(self) -> None:
        """Train every weight of the network, in float32, from the base's own values unrounded."""
        self.network.requires_grad_(True)
        if self.dtype != torch.float32:
            cast_training_params(self.network, dtype=torch.float32)
            self.network.load_state_dict(self.read_base().state_dict())

    def trainable_parameters(self) -> list[Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    @property
    def _adapted(self) -> bool:
        return hasattr(self.network, "peft_config")

    def save_weights(self, folder: Path) -> None:
        """Write what plain diffusers loads: `pytorch_lora_weights.safetensors`, or the network."""
        if not self._adapted:
            self.network.save_config(folder)
            state = {n: p.cpu().contiguous() for n, p in self.network.state_dict().items()}
            save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            return
        config = self.network.peft_config[NAME].to_dict()
        config["target_modules"] = sorted(config["target_modules"])  # a set: its order is chance
        state = get_peft_model_state_dict(self.network, adapter_name=NAME)
        self.pipe.save_lora_weights(
            folder,
            **{
                f"{self.part}_lora_layers": {k: v.cpu() for k, v in state.items()},
                f"{self.part}_lora_adapter_metadata": config,
            },
        )
        settle_header(folder / LORA_WEIGHT_NAME_SAFE)

    def save_pipeline(self, folder: Path) -> None:
        """Write all of the model as a diffusers folder; an adapter is not part of it."""
        self.pipe.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Put saved weights into the adapter that is trained, or the network unfrozen."""
        if not self._adapted:
            file, field = folder / SAFETENSORS_WEIGHTS_NAME, "checkpoint"
            state = read_weights(file, field=field)
            check_numbers(state, source=file, field=field)
            fit_weights(self.network, state, source=file, field=field)
            return
        file, field = folder / LORA_WEIGHT_NAME_SAFE, "checkpoint"
        state = read_weights(file, field=field)
        weights = {name.removeprefix(f"{self.part}."): tensor for name, tensor in state.items()}
        wanted = get_peft_model_state_dict(self.network, adapter_name=NAME)
        misfits = misfits_of(weights, wanted)
        refuse_misfits(misfits, source=file, kind="the run's LoRA", field=field)
        check_numbers(weights, source=file, field=field)
        set_peft_model_state_dict(self.network, weights, NAME)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The frozen policy at the start: without the adapter, or with it as it was then."""
        network = self.network
        if self.start is not None:
            with self._as_it_began(self.start):
                yield
            return
        if self._adapted:
            network.disable_adapters()
        else:
            setattr(self.pipe, self.part, self._base)
        try:
            yield
        finally:
            setattr(self.pipe, self.part, network)
            if self._adapted:
                network.enable_adapters()

    @contextmanager
    def _as_it_began(self, start: Adapter) -> Iterator[None]:
        """A second copy of the adapter, loaded when first asked for, in the trained one's place."""
        network, trained = self.network, self.trainable_parameters()
        if START not in network.peft_config:
            load_into(start, network, START)
        network.set_adapter(START)
        try:
            yield
        finally:
            network.set_adapter(NAME)
            for parameter in network.parameters():  # which set_adapter changes
                parameter.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)

    @cached_property
    def _base(self) -> ModelMixin:
        """A frozen copy of the base, read when first asked for: few runs need one.

        It predicts to the bit what the unfrozen one does before its first step. Autocast rounds
        matrices to half precision, so they are stored so; vectors (of norms) it takes as they are.
        """
        network = self.read_base().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.to(self.dtype)
        return network.to(self.device, memory_format=torch.channels_last)
