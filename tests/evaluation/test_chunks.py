import numpy as np
import pytest

from drift.evaluation.chunks import Chunks, chunks_of, clear_leftovers

SETTINGS = {"prompts": ["a fox", "a cat"], "images_per_prompt": 2, "encoders": ["vae"], "steps": 3}
WANTED = {"settings": SETTINGS, "model": {"name": "m", "sha256": "ab"}, "adapter": None}


@pytest.mark.parametrize(
    ("prompts", "images", "expected"),
    [
        (3, 40, [range(1), range(1, 2), range(2, 3)]),
        (3, 100, [range(1), range(1, 2), range(2, 3)]),  # a prompt is never parted
        (5, 16, [range(2), range(2, 4), range(4, 5)]),
    ],
)
def test_chunks_are_whole_prompts_of_about_forty_images(tmp_path, prompts, images, expected):
    assert Chunks(tmp_path, prompts, images).all == expected


def test_a_chunk_is_there_whole_or_not_at_all(tmp_path):
    chunks = Chunks(tmp_path / "partial", prompts=2, images=40)
    first, second = chunks.all
    assert chunks.missing == [first, second]
    pixels = np.arange(2 * 40 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 40, 2, 2, 3)
    chunks.write(second, pixels[1:])
    (chunks.folder / ".killed").write_bytes(b"half a chunk")
    assert chunks.missing == [first]
    chunks.write(first, pixels[:1])
    assert chunks.missing == []
    assert np.array_equal(np.concatenate([chunks.read(c) for c in chunks.all]), pixels)


def test_the_folder_tells_what_is_drawn_but_not_who_judges(tmp_path):
    def folder(**changes):
        return chunks_of(tmp_path / "step-000020", WANTED | changes).folder

    own = folder()
    assert own.parent == tmp_path and own.name.startswith(".step-000020.")
    assert folder(settings=SETTINGS | {"encoders": ["clip"]}) == own
    assert folder(model={"name": "other name", "sha256": "ab"}) == own
    for changes in (
        {"settings": SETTINGS | {"steps": 4}},
        {"model": {"name": "m", "sha256": "cd"}},
        {"adapter": {"epoch": 20, "sha256": "ef"}},
    ):
        assert folder(**changes) != own


def test_a_flipped_or_cut_chunk_is_not_read(tmp_path):
    chunks = Chunks(tmp_path / "partial", prompts=1, images=1)
    (only,) = chunks.all
    assert chunks.read(only) is None
    chunks.write(only, np.zeros((1, 1, 2, 2, 3), np.uint8))
    (file,) = chunks.folder.iterdir()
    content = file.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert chunks.read(only) is None
    for end in (0, 5, 32, len(content) - 1):
        file.write_bytes(content[:end])
        assert chunks.read(only) is None
    file.write_bytes(content)
    assert chunks.read(only) is not None


def test_leftovers_of_what_is_whole_go(tmp_path):
    for name in ("step-000020", ".step-000020.ab.partial/whole", ".step-000020.cd.partial"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".step-000040.ab.partial").mkdir()  # of another evaluation
    clear_leftovers(tmp_path / "step-000020")
    assert {p.name for p in tmp_path.iterdir()} == {"step-000020", ".step-000040.ab.partial"}
    assert (tmp_path / "step-000020/file").read_text() == "step-000020"
