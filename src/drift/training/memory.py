"""How much memory there is, how much a piece of work takes, and what if it is too much.

What a piece of work takes is measured, not guessed. Work in batches of which one does not fit is
halved and done again.
"""

import weakref
from collections.abc import Callable

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drift.errors import UserError
from drift.training.interrupt import poll


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take on `device`, its own cache included."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes by which `work` exceeds, at its worst moment, what is in use before it.

    On CUDA the allocator's own figure. Elsewhere the storages that operators make are counted
    while they live; what an operator needs inside itself is not seen.
    """
    if device.type != "cuda":
        with StorageCount() as count:
            work()
        return count.peak
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def in_batches(work: Callable[[Tensor], None], rows: Tensor, size: int, *, field: str) -> int:
    """Do `work` on all `rows`, `size` at once; returns the size that fitted in the end.

    `work` must leave nothing behind when it runs out of memory. `field` names the setting that an
    error should name.
    """
    parts = list(rows.split(size))
    while parts:
        poll()
        try:
            work(parts[0])
        except torch.OutOfMemoryError as error:
            if len(parts[0]) == 1:
                raise UserError(f"{field}: not even one row fits into memory: {error}") from error
            size = len(parts[0]) // 2
            parts = list(torch.cat(parts).split(size))
        else:
            parts.pop(0)
            continue
        torch.cuda.empty_cache()  # out here: the exception held on to the failed work's tensors
    return size


class StorageCount(TorchDispatchMode):
    """Bytes of the storages made inside it: `now` those still alive, `peak` the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._meet(args, kwargs, made=False)
        result = func(*args, **(kwargs or {}))
        # Views, in-place operators and such return storages that were there before.
        self._meet(result, made=not any(r.alias_info for r in func._schema.returns))
        return result

    def _meet(self, *trees, made: bool) -> None:
        for leaf in tree_leaves(trees):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._known:
                    size = storage.nbytes() if made else 0
                    self._known[id(storage)] = weakref.finalize(
                        storage, self._end, id(storage), size
                    )
                    self.now += size
        self.peak = max(self.peak, self.now)

    def _end(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]
