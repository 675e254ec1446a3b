"""What counts as a prompt, and what a file says of it."""

import gc
import json
import os
import time

import pytest

from drift.errors import UserError
from drift.recipes.prompt_lists import read_fields, read_prompts


def test_prompt_lists():
    everything = read_prompts("animals")
    assert len(everything) == 45
    train, held_out = read_prompts("menagerie-train"), read_prompts("menagerie-heldout")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(everything)
    assert read_prompts("animals-40") == everything[:40]


def test_a_byte_order_mark_and_line_ends_are_no_part_of_a_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfa fox\r\n# a heading\r\n\r\na\xe2\x80\xa8cat\r\n")
    assert read_prompts(str(file)) == ["a fox", "# a heading", "a\u2028cat"]


@pytest.mark.parametrize(
    "name, fields", [("a.txt", None), ("a.jsonl", {"include": [{"count": 2}]})]
)
def test_ten_times_the_prompts_take_about_ten_times_as_long(name, fields, tmp_path):
    file, seconds = tmp_path / name, {}
    for count in (100, 3_000, 30_000):  # the first to warm up
        prompts = [f"prompt {k}" for k in range(count)]
        lines = [json.dumps({"prompt": p} | fields) for p in prompts] if fields else prompts
        file.write_text("\n".join(lines))
        gc.disable()  # it walks all that other tests have left
        start = time.process_time()
        found = read_fields(str(file))
        seconds[count] = time.process_time() - start
        gc.enable()
        assert list(found) == prompts
    assert seconds[30_000] < 50 * seconds[3_000]  # squared it would be 100


def test_bad_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    with pytest.raises(UserError, match="no prompt file"):
        read_prompts(str(file))
    file.write_text("\n  \n")
    with pytest.raises(UserError, match="is empty"):
        read_prompts(str(file))
    file.write_text("a fox\na fox\n")
    with pytest.raises(UserError, match="'a fox' more than once, in lines 1 and 2"):
        read_prompts(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_prompts(str(file))


@pytest.mark.parametrize("name", ["prompts.jsonl", "PROMPTS.JSONL"])
def test_a_jsonl_file_has_fields_beside_its_prompts(tmp_path, name):
    file = tmp_path / name
    lines = [
        '{"count": 2, "prompt": " two foxes "}',
        "",
        '{"prompt": "# übrig", "at": [1.5, null]}',
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_fields(str(file)) == {"two foxes": {"count": 2}, "# übrig": {"at": [1.5, None]}}
    assert read_prompts(str(file)) == ["two foxes", "# übrig"]


def test_text_has_no_fields():
    assert set(map(str, read_fields("animals").values())) == {"{}"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a fox", "is not JSON: Expecting value, at column 1"),
        ('{"prompt": "a fox"', "is not JSON: Expecting ',' delimiter, at column 19"),
        ('["a fox"]', "wants an object"),
        ('{"text": "a fox"}', 'no "prompt" that is a text'),
        ('{"prompt": ["a fox"]}', 'no "prompt" that is a text'),
        ('{"prompt": "  "}', '"prompt" is empty'),
        (r'{"prompt": "a\nfox"}', "more than one line"),
        (r'{"prompt": "a fox", "at": "\ud800"}', "surrogates not allowed"),
        ('{"prompt": "a fox", "at": NaN}', "Out of range float"),
        ('{"prompt": "a fox", "at": 1e999}', "Out of range float"),
        ("[" * 100_000, "recursion"),
        ('{"prompt": "a cat", "count": 3}', "has 'a cat' more than once, in lines 1 and 3"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_number(tmp_path, line, told):
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"prompt": "a cat"}}\n\n{line}\n{{"prompt": "a dog"}}\n')
    with pytest.raises(UserError, match=told) as refusal:
        read_fields(str(file), field="evaluation.prompts")
    told = str(refusal.value)
    assert told.startswith(f"evaluation.prompts: '{file}'")
    assert "3" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a" * 260, "prompts: cannot read 'aaa"),
        ("a\0b", "prompts: cannot read 'a"),
        ("/dev/zero", "prompts: '/dev/zero' is not a regular file"),
        ("pipe", "prompts: 'pipe' is not a regular file"),
        (".", "prompts: '.' is not a regular file"),
        ("", "prompts: "),
    ],
)
def test_what_is_no_file_neither_hangs_nor_ends_in_a_traceback(name, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(UserError) as refused:
        read_prompts(name)
    assert str(refused.value).startswith(told) and str(refused.value).isprintable()
