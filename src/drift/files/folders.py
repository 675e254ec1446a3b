"""Which weights are read of a folder of diffusers or transformers; nothing is unpickled."""

from pathlib import Path

from drift.errors import UserError

VARIANTS = ("fp16", "bf16")  # read where a folder has no others: NAME.fp16.safetensors


def variant_of(folder: Path, *, field: str) -> str | None:
    """Which of `VARIANTS` to read in `folder`; None if it has weights without one, or nothing.

    A folder that has only pickles is an error, for to read one may run code.
    """
    names = {file.name for file in folder.glob("*.safetensors")}
    # NAME.safetensors, NAME.fp16.safetensors, and both in shards: NAME.fp16-00001-of-00002....
    kinds = {name.split(".")[1].partition("-")[0] for name in names}
    if "safetensors" in kinds:
        return None
    found = next((variant for variant in VARIANTS if variant in kinds), None)
    if pickles := [] if found else sorted(folder.glob("*.bin")):
        raise UserError(
            f"{field}: {pickles[0]} is a pickle, which is not read; convert it on a machine that "
            "trusts it: load it there and save_pretrained(FOLDER, safe_serialization=True)"
        )
    return found
