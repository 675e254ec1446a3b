import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from drift.errors import UserError
from drift.files import writing
from drift.files.writing import append_text, replacing, write_text, write_texts


@contextmanager
def files_of_at_most(size: int):
    """A real limit of the system: what would make a file longer is refused, as by a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_a_folder_take_the_place_of_others(tmp_path):
    for text in ("one", "two"):
        write_text(tmp_path / "deep" / "file", text, field="out")
        with replacing(tmp_path / "folder", field="out") as partial:
            partial.mkdir()
            (partial / text).write_text(text)
    assert (tmp_path / "deep/file").read_text() == "two" and names(tmp_path / "folder") == ["two"]
    assert names(tmp_path) == ["deep", "folder"] and names(tmp_path / "deep") == ["file"]


WRITERS = {
    "text": lambda path: path.write_text("x" * 9000),
    "array": lambda path: np.save(path.open("wb"), np.zeros(9000)),
    "tensors": lambda path: save_file({"x": torch.zeros(9000)}, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(write, tmp_path):
    (tmp_path / "file").write_text("before")
    told = (
        "^output: cannot write .*/file: .*; what was there is as it was; .*give the command again$"
    )
    with (
        files_of_at_most(4096),
        pytest.raises(UserError, match=told),
        replacing(tmp_path / "file", field="output") as partial,
    ):
        write(partial)
    assert (tmp_path / "file").read_text() == "before" and names(tmp_path) == ["file"]


def test_of_several_files_none_takes_its_place_if_one_fails(tmp_path):
    texts = {"a": "1", "sub/b": "2"}
    write_texts(tmp_path, texts, field="out")
    with files_of_at_most(4096), pytest.raises(UserError, match=r"^out: cannot write .*sub/b: "):
        write_texts(tmp_path, {"a": "new", "sub/b": "x" * 9000}, field="out")
    assert (tmp_path / "a").read_text() == "1" and (tmp_path / "sub/b").read_text() == "2"
    assert names(tmp_path) == ["a", "sub"] and names(tmp_path / "sub") == ["b"]


def test_an_append_that_fails_leaves_no_half_line(tmp_path):
    append_text(tmp_path / "lines", "one\n", field="output")
    with files_of_at_most(4096), pytest.raises(UserError, match="^output: cannot write .*lines: "):
        append_text(tmp_path / "lines", "x" * 9000 + "\n", field="output")
    append_text(tmp_path / "lines", "two\n", field="output")
    assert (tmp_path / "lines").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "name a place that can be written")],
)
def test_a_sync_that_fails_is_told_with_what_to_do(number, advice, tmp_path, monkeypatch):
    """The disk may be found full only when it is synced."""

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(UserError, match=f"^out: cannot write .*{os.strerror(number)}; {advice}"):
        write_text(tmp_path / "file", "text", field="out")
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^out: cannot write .*file/inner: "):
        write_text(tmp_path / "file" / "inner", "text", field="out")


def test_an_interrupt_leaves_nothing_and_an_older_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "folder", field="out") as partial:
        partial.mkdir()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["folder"]
