"""Golden checkpoints to spoil, and files that are no weights."""

import pickle
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


@pytest.fixture
def golden(tmp_path):
    """A copy, to be spoilt, of a golden folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))

    return copy


class Trap:
    def __reduce__(self):
        return (print, ("code in a pickle was run",))


@pytest.fixture
def spoil(capsys):
    """Spoil a file of weights in one way; at the end no code in it was run."""

    def change(file: Path, how: str) -> None:
        if how == "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif how == "pickle":
            file.write_bytes(pickle.dumps({"weight": Trap()}, protocol=2))
        elif how == "text":
            file.write_text("version https://git-lfs.github.com/spec/v1\n")
        else:
            file.unlink()

    yield change
    assert "code in a pickle" not in capsys.readouterr().out


SPOILT = ("truncated", "pickle", "text", "missing")
