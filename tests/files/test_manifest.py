import json
import os
import time
from contextlib import suppress

import pytest

from drift.files import checksums
from drift.files.checksums import checksum, remembered
from drift.files.manifest import MANIFEST, Damaged, check_files, read_manifest, seal


def examine(folder):
    found = read_manifest(folder, required=("a",), old={"epoch", "files"})
    check_files(folder, found)
    return found


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "a").write_bytes(b"some weights")
    (tmp_path / "b").write_bytes(b"a state")
    (tmp_path / ".DS_Store").write_bytes(b"not ours")
    seal(tmp_path, epoch=4)
    return tmp_path


def test_facts_and_files_come_back(sealed):
    found = examine(sealed)
    assert found["epoch"] == 4 and list(found["files"]) == ["a", "b"]
    (sealed / "._a").write_bytes(b"nor this")
    assert examine(sealed) == found


def test_every_flipped_bit_of_the_manifest_is_found(sealed):
    content = (sealed / MANIFEST).read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (sealed / MANIFEST).write_bytes(flipped)
        with pytest.raises(Damaged):
            read_manifest(sealed, required=(), old={"epoch", "files"})
    for end in range(len(content)):
        (sealed / MANIFEST).write_bytes(content[:end])
        with pytest.raises(Damaged):
            read_manifest(sealed, required=(), old={"epoch", "files"})


def test_every_flipped_bit_of_a_file_is_found(sealed):
    for name in "ab":
        content = (sealed / name).read_bytes()
        for place in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (sealed / name).write_bytes(flipped)
            with pytest.raises(Damaged, match=f"^'{name}' is damaged$"):
                examine(sealed)
        (sealed / name).write_bytes(content)
        examine(sealed)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "b").unlink(), r"is incomplete .*'b'"),
        (lambda f: (f / "b").rename(f / "c"), r"is incomplete .*'b'"),
        (lambda f: (f / "c").write_text(""), r"holds 'c', which its manifest.json does not list"),
        (lambda f: (f / "c").mkdir(), r"holds 'c'"),
        (lambda f: (f / MANIFEST).unlink(), "is incomplete .*No such file"),
        (lambda f: (f / MANIFEST).write_text("null"), f"'{MANIFEST}' is damaged"),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "is incomplete"),
    ],
)
def test_missing_renamed_and_unknown_files_are_told(spoil, told, sealed):
    spoil(sealed)
    with pytest.raises(Damaged, match=told):
        examine(sealed)


def test_required_files_are_missed(tmp_path):
    seal(tmp_path, epoch=4)  # of a folder without any
    with pytest.raises(Damaged, match="is incomplete .*'a'"):
        examine(tmp_path)


def test_a_manifest_of_before_is_taken_and_its_flips_are_found_but_in_facts(sealed):
    files = {name: checksum(sealed / name) for name in "ab"}
    content = json.dumps({"epoch": 4, "files": files}, indent=1).encode()
    (sealed / MANIFEST).write_bytes(content)
    assert examine(sealed)["epoch"] == 4
    passed = set()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (sealed / MANIFEST).write_bytes(flipped)
        with suppress(Damaged):
            passed.add(examine(sealed)["epoch"])
    assert passed and 4 not in passed  # of another epoch than the folder's name says
    (sealed / MANIFEST).write_text(json.dumps({"epoch": 4, "files": files, "more": 1}, indent=1))
    with pytest.raises(Damaged):
        examine(sealed)


def test_a_file_is_read_once_unless_it_changed(tmp_path, monkeypatch):
    file, read = tmp_path / "a", []
    file.write_bytes(b"weights")
    monkeypatch.setattr(checksums, "checksum", lambda path: read.append(path) or checksum(path))
    old = time.time() - 3600
    os.utime(file, (old, old))
    first = remembered(file)
    assert remembered(file) == first and len(read) == 1
    file.write_bytes(b"weighty")  # as long, and now
    assert remembered(file) == checksum(file) != first
    file.write_bytes(b"weights")  # within a tick of the clock, perhaps
    assert remembered(file) == first
