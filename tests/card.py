"""A pretended device, "card": its tensors live on the CPU, and may not meet those of the CPU.

It computes what the CPU computes, so a run on it must give the same numbers; what a real card would
refuse, an operator on tensors of both devices, is refused here too.
"""

import json
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class CardModule(_DummyBackendModule):
    """What torch asks `torch.card` for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("card", CardModule())
CARD = torch.device("card:0")


class CardTensor(torch.Tensor):
    """Wraps `inner`, a CPU tensor."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CARD,
        )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __repr__(self) -> str:
        return f"CardTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = any(isinstance(tensor, CardTensor) for tensor in tensors)
    asked = kwargs.get("device")
    here = ours if asked is None else torch.device(asked).type == "card"
    copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    # A card takes the CPU's scalars, and indices from the CPU.
    indexing = "index" in func.__name__
    if ours and not copies and not indexing:
        strangers = [t for t in tensors if not isinstance(t, CardTensor) and t.ndim]
        if strangers:
            raise RuntimeError(f"{func}: tensors on card and cpu: {strangers[0].shape}")
    kwargs = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, CardTensor) else t, (args, kwargs))
    out = func(*args, **kwargs)
    if func is torch.ops.aten.copy_.default:
        return out
    return tree_map(lambda t: CardTensor(t) if isinstance(t, torch.Tensor) and here else t, out)


class Card(TorchDispatchMode):
    """Inside it, tensors can be made on the card."""

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor and new_tensor: made, then moved
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def run(commands: list[list[str]]) -> None:
    """Each `drift` command with the card at hand."""
    from drift.cli import main

    for command in commands:
        with Card():
            code = main(command)
        if code:
            raise SystemExit(f"{command}: exit code {code}")


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
