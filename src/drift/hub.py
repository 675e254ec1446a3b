"""Find weights by name: a shipped part, a local file or folder, or a Hugging Face hub id."""

from importlib.resources import files
from pathlib import Path

from drift.errors import UserError

SHIPPED = Path(str(files("drift"))) / "menagerie" / "weights"


def locate(name: str, *, field: str) -> Path:
    """The local folder or file of `name`; a hub id is downloaded (or found in the hub's cache).

    `menagerie/PART` names a shipped part. `field` is the config field that an error should name.
    """
    if name.startswith("menagerie/") and (SHIPPED / name.removeprefix("menagerie/")).exists():
        return SHIPPED / name.removeprefix("menagerie/")
    if Path(name).expanduser().exists():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "/", "~", "menagerie/")):
        raise UserError(f"{field}: there is no file or folder '{name}'")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # offline, gated, missing: the hub has many names for "no"
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{field}: '{name}' is not a local path, nor to be had from the hub: {reason}"
        ) from error
