"""Work in batches that fit into memory: where one does not, it is halved and done again."""

from collections.abc import Callable

import torch
from torch import Tensor

from drift.errors import UserError


def in_batches(work: Callable[[Tensor], None], rows: Tensor, size: int, *, field: str) -> int:
    """Do `work` on all `rows`, `size` at once; returns the size that fitted in the end.

    `work` must leave nothing behind when it runs out of memory. `field` names the setting that an
    error should name.
    """
    parts = list(rows.split(size))
    while parts:
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
