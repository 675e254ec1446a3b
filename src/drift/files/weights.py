"""Read files of weights and fit them into modules; nothing is unpickled, and misfits are named."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drift.errors import UserError
from drift.files.foreign import reason

SHOWN = 5  # names listed of the missing, the unexpected and the misshapen


def read_weights(file: Path, *, field: str) -> dict[str, Any]:
    """What a .safetensors file or a published .pt (`weights_only=True`) holds, on the CPU.

    `field` is the config field that an error should name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{field}: there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to load it all the same
        told = "it is damaged, or a pickle of more than weights, which is not read"
        raise UserError(f"{field}: cannot read weights from {file}: {told}") from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{field}: cannot read weights from {file}: {reason(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{field}: {file} holds no weights but a {type(content).__name__}")
    return content


def check_file(file: Path, *, field: str) -> None:
    """Refuse JSON that is none, and safetensors whose header does not fit them, by its name.

    (Libraries that read whole folders do not say which file they could not read.)
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".json":
        read_json(file, field=field)
    if file.suffix == ".safetensors":
        try:
            safe_open(file, "pt").__exit__(None, None, None)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{field}: cannot read {file}: {reason(error)}") from error


def settle_header(file: Path) -> None:
    """Write a .safetensors file's header in sorted order: equal weights are then equal bytes.

    The library writes its metadata in the order of a hash table, which differs from save to save.
    """
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def fit_weights(module: nn.Module, state: dict[str, Tensor], *, source: Path, field: str) -> None:
    """Put `state` into `module`, as float32; any misfit is an error naming keys and the file."""
    misfits = misfits_of(state, module.state_dict())
    refuse_misfits(misfits, source=source, kind=type(module).__name__, field=field)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})


def misfits_of(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, list[str]]:
    """What `state` has too little, too much, and of other shapes, for `refuse_misfits`."""
    return {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(state[name].shape)} for {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }


def refuse_misfits(misfits: dict[str, list[str]], *, source: Path, kind: str, field: str) -> None:
    """One error that counts the misfits of every sort and names the first few."""
    told = [
        f"{len(names)} {sort}: {', '.join(names[:SHOWN])}" + (" ..." if len(names) > SHOWN else "")
        for sort, names in misfits.items()
        if names
    ]
    if told:
        raise UserError(f"{field}: {source} does not fit {kind}; {'; '.join(told)}")


def check_numbers(state: dict[str, Tensor], *, source: Path, field: str) -> None:
    """Refuse what a run does not write: numbers that are not float32, or not finite."""
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise UserError(f"{field}: {source} has {name} in {tensor.dtype}, not in float32")
        if not tensor.isfinite().all():
            raise UserError(f"{field}: {source} has numbers in {name} that are not finite")


def read_json(file: Path, *, field: str) -> dict[str, Any]:
    """The JSON object in `file`; an absent file is an empty one."""
    try:
        content = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:  # no JSON, or not even text
        raise UserError(f"{field}: {file} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}
