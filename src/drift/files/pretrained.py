"""Load a class of transformers or diffusers from its folder, strictly, with one-line errors."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from drift.errors import UserError
from drift.files.folders import variant_of
from drift.files.foreign import quiet, reason
from drift.files.weights import refuse_misfits


def load_pretrained(
    kind: Any, folder: Path, field: str, *, whole: bool = False, **options: Any
) -> Any:
    """`kind.from_pretrained(folder)` in float32; weights that are missing or misfit are an error.

    `field` is the config field that an error should name. Read are safetensors alone. Weights that
    `kind` has no place for, such as a classifier's head, are left, or an error too if the `whole`
    of the file is wanted.
    """
    from safetensors import SafetensorError

    options |= {"use_safetensors": True, "variant": variant_of(folder, field=field)}

    try:
        with quiet("transformers", "diffusers"), _no_bar():
            model, report = kind.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
                **options,
            )
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        told = f"cannot load a {kind.__name__} from {folder}: {reason(error)}"
        raise UserError(f"{field}: {told}") from error
    misfits = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]) if whole else [],
        "of another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
    }
    refuse_misfits(misfits, source=folder, kind=kind.__name__, field=field)
    return model


@contextmanager
def _no_bar() -> Iterator[None]:
    """None of transformers', of loading weights; it rules over the hub's as well, of downloads."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
