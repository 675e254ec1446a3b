import pytest

from drift.errors import UserError
from drift.files.records import count_lines, read_lines, read_object, settings_difference


def test_lines_come_back_but_the_one_that_is_being_written(tmp_path):
    (tmp_path / "m").write_text('{"epoch": 1, "prompt": "a\u2028b\x85"}\n{"epoch": 2}\n{"epo')
    assert [line["epoch"] for line in read_lines(tmp_path / "m", field="output")] == [1, 2]
    assert read_lines(tmp_path / "absent", field="output") == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"garbage", "it is not JSON: Expecting value, at column 1"),
        (b"\0" * 4096, "it is not JSON"),
        (b'{"epoch": "\xff"}', "it is not UTF-8, at byte 11"),
        (b"[1]", "it is no JSON object"),
        (b"", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON that anybody wrote"),
    ],
)
def test_a_damaged_line_is_told_by_file_and_number(line, why, tmp_path):
    (tmp_path / "m").write_bytes(b'{"epoch": 1}\n' + line + b'\n{"epoch": 2}\n')
    with pytest.raises(UserError) as error:
        read_lines(tmp_path / "m", field="output")
    assert str(error.value).startswith(f"output: {tmp_path / 'm'}, line 2 is damaged: {why}")
    assert "\n" not in str(error.value)


def test_an_object_is_read_or_told(tmp_path):
    assert read_object(tmp_path / "absent", field="output") == {}
    for content in (b"null", b"\xff", b"{", b"\0\0"):
        (tmp_path / "e.json").write_bytes(content)
        with pytest.raises(UserError, match=r"^output: .*e\.json is damaged: it is no"):
            read_object(tmp_path / "e.json", field="output")


def test_lines_are_counted_with_a_known_checksum():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert count_lines([]) == {"lines": 0, "sha256": empty}
    assert count_lines([b"a\n", b"b\n"]) != count_lines([b"a\n", b"c\n"])


def test_the_first_difference_is_told_with_both_values():
    one = {"optimizer": {"learning_rate": 1e-4}, "seed": 1}
    two = {"optimizer": {"learning_rate": 3e-4}, "seed": 2}
    told = settings_difference(one, two, told="{} then, {} now")
    assert told == "optimizer: learning_rate (0.0001 then, 0.0003 now)"
    assert settings_difference(one, two, ignore=["optimizer"]) == "seed (1 and 2)"
    assert settings_difference(one, one) is None
