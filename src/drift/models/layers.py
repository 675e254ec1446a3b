"""The layers of a network that a LoRA is on, or could be on; and settings that contradict them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from drift.errors import UserError

NAME = "default"  # of the adapter that is trained


def check_settings(
    network: nn.Module,
    adapter: Path,
    rank: int | None,
    alpha: int | float | None,
    target_modules: Sequence[str] | None,
) -> None:
    """Refuse settings of a LoRA that contradict the one on the network; None says nothing."""
    layers: dict[str, Any]
    layers = {n: m for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)}
    ranks: set[int] = {layer.r[NAME] for layer in layers.values()}
    alphas: set[float] = {layer.lora_alpha[NAME] for layer in layers.values()}
    told = []
    if rank is not None and ranks != {rank}:
        told.append(f"lora_rank is {rank}, its own {_listed(ranks)}")
    if alpha is not None and alphas != {alpha}:
        told.append(f"lora_alpha is {alpha:g}, its own {_listed(alphas)}")
    if target_modules is not None:
        ends = tuple(f".{target}" for target in target_modules)
        wanted = {n for n in _linear(network) if f".{n}".endswith(ends)}
        if wanted != layers.keys():
            kinds = sorted({_kind(name) for name in layers})
            told.append(
                f"target_modules is {', '.join(target_modules)} ({len(wanted)} layers), its own "
                f"{', '.join(kinds)} ({len(layers)} layers)"
            )
    if told:
        raise UserError(
            f"model.adapter {adapter} is continued with its own settings, but model."
            f"{'; model.'.join(told)}; leave these out, or set model.adapter_use=fuse"
        )


def _listed(numbers: set) -> str:
    return " to ".join(f"{number:g}" for number in sorted({min(numbers), max(numbers)}))


def check_targets(network: nn.Module, target_modules: Sequence[str]) -> None:
    """Refuse a name that is of no module, which peft does only if all are so."""
    names = [f".{name}" for name, _ in network.named_modules()]
    unknown = [t for t in target_modules if not any(name.endswith(f".{t}") for name in names)]
    if unknown:
        kinds = sorted({_kind(name) for name in _linear(network)})
        raise UserError(
            f"model.target_modules: no module of this {type(network).__name__} is called "
            f"{', '.join(unknown)}; layers of it are {', '.join(kinds)}"
        )


def _linear(network: nn.Module) -> set[str]:
    """The names of all layers that could have a LoRA."""
    tuned = (nn.Linear, nn.Conv2d, BaseTunerLayer)
    return {n for n, m in network.named_modules() if isinstance(m, tuned) and "base_layer" not in n}


def _kind(name: str) -> str:
    """The end of a layer's name that tells its kind: "to_q", "to_out.0"."""
    last = name.rpartition(".")[2]
    return ".".join(name.split(".")[-2:]) if last.isdigit() else last


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Those of the adapter that is trained, whichever is active."""
    return [p for n, p in network.named_parameters() if ".lora_" in n and f".{NAME}." in n]
