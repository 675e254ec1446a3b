"""An exponential average of what is trained: smoother than any one update leaves it.

Policy gradients are noisy, and the average of the last weights draws better pictures than the last
ones. Looks, checkpoints, and so evaluations and exports have the average; training goes on in the
weights themselves, which a checkpoint keeps beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch.nn import Parameter

from drift.errors import UserError
from drift.files.weights import check_numbers, misfits_of, read_weights, refuse_misfits

TRAINED = "trained.safetensors"  # in a checkpoint: the weights that the average is of


def open_average(parameters: list[Parameter], decay: float) -> EMAModel | None:
    """The average that `optimizer.ema` asks for, at the start; None if it is 0.

    The decay of update n is at most (1 + n) / (10 + n): the average forgets the start.
    """
    return EMAModel(parameters, decay=decay) if decay else None


@contextmanager
def averaged(average: EMAModel | None, parameters: list[Parameter]) -> Iterator[None]:
    """Have the averaged weights, if there are any, in place of those that are trained."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)


def save_trained(average: EMAModel, parameters: list[Parameter], folder: Path) -> None:
    """Write the weights that are trained, and how many updates the average has seen."""
    kept = {str(k): p.detach().cpu().contiguous() for k, p in enumerate(parameters)}
    save_file(kept | {"updates": torch.tensor(average.optimization_step)}, folder / TRAINED)


def load_trained(average: EMAModel, parameters: list[Parameter], folder: Path) -> None:
    """Take the weights on the model for the average, and put those that are trained there."""
    file, field = folder / TRAINED, "checkpoint"
    kept = read_weights(file, field=field)
    updates = kept.pop("updates", None)
    if updates is None or updates.numel() != 1 or updates.is_floating_point():
        raise UserError(f"{field}: {file} does not tell how many updates the average has seen")
    misfits = misfits_of(kept, {str(k): p for k, p in enumerate(parameters)})
    refuse_misfits(misfits, source=file, kind="what the run trains", field=field)
    check_numbers(kept, source=file, field=field)
    average.optimization_step = int(updates)
    with torch.no_grad():
        for k, (mean, parameter) in enumerate(zip(average.shadow_params, parameters, strict=True)):
            mean.copy_(parameter)
            parameter.copy_(kept[str(k)])
