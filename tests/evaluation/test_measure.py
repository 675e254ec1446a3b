import json
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from drift.cli import main
from drift.errors import UserError
from drift.evaluation import measure
from drift.evaluation.measure import measure_folders
from drift.evaluation.pictures import find_sets, read_picture
from tests.evaluation.profiles import CMYK, GREY, SWAPPED


def noise(seed: int = 0, size: tuple[int, int] = (32, 24)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path, *images):
    path.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        image.save(path / f"{k:02d}.png")
    return path


def pixel(path) -> list[float]:
    """The first pixel, in 8-bit levels."""
    return (read_picture(path)[:, 0, 0] * 255).tolist()


def mean_colour(images):
    """An encoder whose answers can be worked out: the mean of each channel, of any picture."""
    return images.mean((-1, -2))


@pytest.fixture
def by_colour(monkeypatch):
    monkeypatch.setattr(measure, "load_encoder", lambda name, device: mean_colour)


def test_identical_pictures_have_no_diversity_and_are_one(tmp_path):
    folder = save(tmp_path / "a", *[noise()] * 12)
    (one,) = measure_folders([folder], ["dreamsim-tiny", "clip-tiny"], folder)
    for name in ("dreamsim-tiny", "clip-tiny"):
        means = {kind: one.figures[f"{kind}/{name}"]["mean"] for kind in ("diversity", "vendi")}
        assert means == {"diversity": 0, "vendi": pytest.approx(1)}
        assert one.figures[f"recall/{name}"]["mean"] == 1
        assert one.figures[f"precision/{name}"]["mean"] == 1
    assert one.pictures == {"": 12}
    assert one.notes == ["no intervals: they are over prompts, and this is one set"]


def test_figures_of_pure_colours(by_colour, tmp_path):
    # Right angles: squared distance 2. Prompt "two" holds 2 colours, "one" no pair.
    red, green, blue = (Image.new("RGB", (20, 30), c) for c in ("#f00", "#0f0", "#00f"))
    save(tmp_path / "a" / "two", red, green.resize((50, 16)))
    save(tmp_path / "a" / "same", blue, blue)
    save(tmp_path / "a" / "one", red)
    (one,) = measure_folders([tmp_path / "a"], ["colour"])
    assert one.pictures == {"one": 1, "same": 2, "two": 2}
    assert one.figures["diversity/colour"]["per_prompt"] == [None, 0, pytest.approx(2)]
    assert one.figures["diversity/colour"]["mean"] == pytest.approx(1)
    assert one.figures["diversity/colour"]["low"] == pytest.approx(0)
    assert one.figures["diversity/colour"]["high"] == pytest.approx(2)
    assert one.figures["vendi/colour"]["per_prompt"] == pytest.approx([1, 1, 2])
    # Of all: 2 red, 1 green, 2 blue of 5; exp of the entropy of (0.4, 0.2, 0.4).
    assert one.figures["vendi_all/colour"]["mean"] == pytest.approx(0.4**-0.8 * 0.2**-0.2)
    assert one.notes == ["no distance in 1 of 3 sets, which hold 1 picture each"]


def test_recall_and_precision_tell_what_is_left_out(by_colour, tmp_path):
    # The reference draws 11 red and 11 blue; ours only red (balls of radius 0) and 11 green.
    red, green, blue = ([Image.new("RGB", (16, 16), c)] * 11 for c in ("#f00", "#0f0", "#00f"))
    save(tmp_path / "base" / "x", *red)
    save(tmp_path / "base" / "y", *blue)
    save(tmp_path / "ours" / "z", *red, *green)
    (one,) = measure_folders([tmp_path / "ours"], ["colour"], tmp_path / "base")
    assert one.figures["recall/colour"]["per_prompt"] == [1, 0]
    assert one.figures["precision/colour"]["per_prompt"] == [0.5]


def test_the_command_tells_a_row_a_folder_and_why_figures_are_missing(capsys, tmp_path):
    one = save(tmp_path / "one", noise())  # the first of the others: wholly precise
    many = save(tmp_path / "many", *(noise(k) for k in range(11)))
    out = tmp_path / "told.json"
    args = ["measure", str(one), str(many), "--reference", str(many), "--out", str(out)]
    args += ["--device", "cpu"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0][:4] == ["dreamsim-tiny", "diversity", "Vendi", "score"]
    assert rows[1][1:] == ["–", "1.00", "1.00", "–", "100", "%"]
    assert "no recall: it needs 11 pictures, and here are 1" in printed
    assert "no distance in 1 of 1 sets" in printed
    assert "dreamsim-tiny knows the Menagerie's drawings" in printed
    told = json.loads(out.read_text())
    assert told["neighbours"] == 10
    assert [len(folder["figures"]) for folder in told["folders"]] == [5, 5]
    assert told["folders"][1]["figures"]["recall/dreamsim-tiny"]["mean"] == 1
    assert told["folders"][0]["figures"]["diversity/dreamsim-tiny"]["mean"] is None
    assert main(args) == 2  # it is there now
    assert capsys.readouterr().err.endswith(f"--out {out} exists already; name another\n")


def test_pictures_of_one_size_are_encoded_together_with_the_same_numbers(monkeypatch, tmp_path):
    def recorded(name, device):
        encoder = load_encoder(name, device)
        return lambda images: sizes.append(tuple(images.shape[::2])) or encoder(images)

    load_encoder = measure.load_encoder
    monkeypatch.setattr(measure, "load_encoder", recorded)
    wide = [noise(k, (40, 24)) for k in range(2)]
    save(tmp_path / "a" / "x", *(noise(k) for k in range(3)), wide[0])
    save(tmp_path / "a" / "y", wide[1], noise(3))
    (tmp_path / "a" / "y" / "sheet.png").write_bytes(b"of drift generate: passed over")

    def measured(most):
        monkeypatch.setattr(measure, "PIXELS", most)
        sizes.clear()
        (one,) = measure_folders([tmp_path / "a"], ["dreamsim-tiny"])
        return {n: [f["mean"], *(f["per_prompt"] or [])] for n, f in one.figures.items()}

    sizes: list[tuple[int, ...]] = []
    together = measured(measure.PIXELS)
    assert sizes == [(3, 24), (2, 24), (1, 24)]  # across prompts, in order
    some = measured(2 * 32 * 24)
    assert [n for n, _ in sizes] == [2, 1, 1, 1, 1]
    alone = measured(1)
    assert [n for n, _ in sizes] == [1] * 6
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-5)
        assert some[name] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_is_turned_upright(suffix, turn, tmp_path):
    picture, exif = noise(), Image.Exif()
    exif[0x0112] = turn
    exact = {"lossless": True} if suffix == "webp" else {"quality": 95}
    picture.save(tmp_path / f"plain.{suffix}", **exact)
    picture.save(tmp_path / f"turned.{suffix}", exif=exif, **exact)
    plain, turned = (read_picture(tmp_path / f"{n}.{suffix}") for n in ("plain", "turned"))
    upright = {  # what EXIF's eight values mean
        1: plain,
        2: plain.flip(2),
        3: plain.flip(1, 2),
        4: plain.flip(1),
        5: plain.mT,
        6: plain.mT.flip(2),
        7: plain.mT.flip(1, 2),
        8: plain.mT.flip(1),
    }
    assert torch.equal(turned, upright[turn])


def test_every_kind_of_pixel(tmp_path):
    size, path = (16, 16), tmp_path / "a.png"
    Image.fromarray(np.full(size, 0x80FF, np.uint16)).save(path)  # clipped to white by PIL alone
    assert pixel(path) == [128] * 3
    Image.new("L", size, 7).save(path)
    assert pixel(path) == [7] * 3
    Image.new("1", size, 1).save(path)
    assert pixel(path) == [255] * 3
    Image.new("RGBA", size, (200, 0, 0, 0)).save(path)
    assert pixel(path) == [255] * 3
    Image.new("RGBA", size, (255, 0, 0, 51)).save(path)  # a fifth of red over white
    assert pixel(path) == [255, 204, 204]
    Image.new("LA", size, (0, 0)).save(path)
    assert pixel(path) == [255] * 3
    palette = Image.new("P", size, 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(path)
    assert pixel(path) == [10, 20, 30]
    palette.save(path, transparency=1)
    assert pixel(path) == [255] * 3
    Image.new("RGB", size, (1, 2, 3)).save(path, transparency=(1, 2, 3))
    assert pixel(path) == [255] * 3
    Image.new("CMYK", size, (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    assert pixel(tmp_path / "c.jpg") == pytest.approx([255, 0, 0], abs=3)


def test_colours_are_those_of_the_embedded_profile(tmp_path):
    # Linear light of 128/255 is 188 in sRGB; `SWAPPED` has red and green in each other's place.
    size, png = (16, 16), tmp_path / "a.png"
    palette = Image.new("P", size, 0)
    palette.putpalette([255, 0, 0])
    for image, profile, expected in [
        (Image.new("RGB", size, (128, 128, 128)), SWAPPED, [188] * 3),
        (Image.new("RGB", size, (255, 0, 0)), SWAPPED, [0, 255, 0]),
        (Image.new("RGBA", size, (255, 0, 0, 51)), SWAPPED, [204, 255, 204]),
        (palette, SWAPPED, [0, 255, 0]),
        (Image.new("L", size, 128), GREY, [188] * 3),
        (Image.new("L", size, 128), SWAPPED, [188] * 3),
        (Image.new("LA", size, (128, 255)), GREY, [188] * 3),
        (Image.fromarray(np.full(size, 0x80FF, np.uint16)), GREY, [188] * 3),
    ]:
        image.save(png, icc_profile=profile)
        assert pixel(png) == expected, image.mode
    for name in ("a.jpg", "a.webp"):
        image = Image.new("RGB", size, (255, 0, 0))
        image.save(tmp_path / name, icc_profile=SWAPPED, quality=100)
        assert pixel(tmp_path / name) == pytest.approx([0, 255, 0], abs=16)
    # An ink set in which cyan alone is white and all else black.
    for ink, level in [((255, 0, 0, 0), 255), ((0, 255, 255, 0), 0)]:
        image = Image.new("CMYK", size, ink)
        image.save(tmp_path / "c.jpg", icc_profile=CMYK, quality=100)
        assert pixel(tmp_path / "c.jpg") == pytest.approx([level] * 3, abs=3)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise().save(png, icc_profile=own)
    noise().save(tmp_path / "plain.png")
    assert torch.equal(read_picture(png), read_picture(tmp_path / "plain.png"))
    for profile, told in [
        (SWAPPED[:200], "its colour profile is broken"),
        (GREY, "its colour profile is for GRAY, its pixels are RGB"),
    ]:
        noise().save(png, icc_profile=profile)
        with pytest.raises(UserError, match=f"a.png could not be read as a picture: {told}"):
            read_picture(png)


def test_sixteen_bits_of_colour(tmp_path):
    # PIL cannot write them: colour type 2 is RGB, 6 RGBA; every row starts with filter 0.
    for kind, levels, expected in (
        (2, (1, 0x80FF, 65535), [0, 128, 255]),
        (6, (9,) * 3 + (0,), [255] * 3),
    ):
        rows = (b"\0" + struct.pack(f">{len(levels)}H", *levels) * 16) * 16
        head = struct.pack(">IIBBBBB", 16, 16, 16, kind, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        chunks = (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        assert pixel(tmp_path / "a.png") == expected
    clear = tmp_path / "clear.png"
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(clear, transparency=0)
    with pytest.raises(UserError, match="clear.png could not be read .* not supported"):
        read_picture(clear)


def test_a_phones_picture_of_several_frames_is_its_first(tmp_path):
    first = Image.new("RGB", (16, 16), (9, 9, 9))
    more = [Image.new("RGB", (16, 16), "white")]
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=more)
    assert pixel(tmp_path / "a.jpg") == [9, 9, 9]


def test_broken_files_are_named_in_one_line(capsys, tmp_path):
    folder = save(tmp_path / "a", noise())
    whole = (folder / "00.png").read_bytes()
    noise(1).save(tmp_path / "whole.jpg")
    small, frames = Image.new("RGB", (16, 3)), [noise(1), noise(2)]
    for name, content in {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:600],
        "flipped.png": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
        "head.png": whole[:20],
        "text.jpg": b"not a picture",
        "empty.webp": b"",
    }.items():
        (folder / name).write_bytes(content)
        assert main(["measure", str(folder)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"drift: error: measure: {folder / name} could not be read")
        assert told.count("\n") == 1
        (folder / name).unlink()
    small.save(tmp_path / "small.png")
    with pytest.raises(UserError, match="small.png is too small: 16 × 3, below 16 pixels"):
        read_picture(tmp_path / "small.png")
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="moving.webp could not be read as a picture: an animation"):
        read_picture(tmp_path / "moving.webp")


def test_folders_that_hold_no_sets_are_refused(capsys, tmp_path):
    with pytest.raises(UserError, match="nowhere' cannot be read: No such file"):
        find_sets(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file' cannot be read: Not a directory"):
        find_sets(tmp_path / "file")
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("")
    with pytest.raises(UserError, match="x holds no PNG, JPEG or WebP pictures"):
        find_sets(tmp_path / "a")
    save(tmp_path / "a", noise())
    with pytest.raises(UserError, match="holds both pictures and folders"):
        find_sets(tmp_path / "a")
    folder = save(tmp_path / "b", noise(), noise(1, (40, 16)))
    for extra in (
        ["--encoder", "nope"],
        ["--encoder", ""],
        ["--device", "nope"],
        ["--out", str(folder)],
        ["--out", str(tmp_path / "nowhere" / "a.json")],
        ["--out", "/proc/a.json"],  # which nobody can write
    ):
        assert main(["measure", str(folder), *extra]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as refusal:
        main(["measure", str(folder), "--out", str(tmp_path / ("a" * 300))])
    assert refusal.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def open_to_all():
    """A folder that others may enter, and then this process as one of them, if it is root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = os.geteuid() == 0
        yield Path(folder), lambda: os.seteuid(65534) if root else None
        if root:
            os.seteuid(0)


def test_what_may_not_be_read_is_named(open_to_all):
    folder, become_another = open_to_all
    locked, picture = save(folder / "a" / "locked", noise()), save(folder / "b", noise()) / "00.png"
    locked.chmod(0)
    picture.chmod(0)
    become_another()
    with pytest.raises(UserError, match=rf"measure: '{locked}' cannot be read: Permission denied"):
        find_sets(folder / "a")
    with pytest.raises(UserError, match=rf"measure: {picture} could not be read .*Permission"):
        read_picture(find_sets(folder / "b")[""][0])
    locked.chmod(0o700) if os.geteuid() != 65534 else None


def test_an_encoder_without_one_width_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "load_encoder", lambda name, device: lambda x: x.flatten(1))
    folder = save(tmp_path / "b", noise(), noise(1, (40, 16)))
    with pytest.raises(UserError, match="encoder vae compares only pictures of one size"):
        measure_folders([folder], ["vae"])
