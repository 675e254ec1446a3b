"""Any text as an override or a recipe: a value, or one line that names it, and soon."""

import time
from pathlib import Path

import pytest
import yaml

from drift.config import parse_value, read_yaml
from drift.config.reading import DEEPEST
from drift.errors import UserError
from drift.recipes import load_recipe, parse_override

DEEP = "[" * 5_000
BOMB = "[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a], [*b,*b,*b,*b]]"


def refusal(recipe: str, *overrides: str) -> str:
    start = time.process_time()
    with pytest.raises(UserError) as refused:
        load_recipe(recipe, list(overrides))
    assert time.process_time() - start < 2
    told = str(refused.value)
    assert told.isprintable() and len(told) <= 2_000
    return told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prompts=@x", "prompts: not a value: found character '@'"),
        ("reward=*", "reward: not a value: expected alphabetic"),
        ("epochs=[5", "epochs: not a value: expected ',' or ']'"),
        ("epochs=5]", "smoke: epochs: Input should be a valid integer"),
        ("epochs={a: {b}", "epochs: not a value: "),
        ("seed=2024-13-01", "smoke: seed: Input should be a valid integer"),
        ("seed=1:30", "smoke: seed: Input should be a valid integer"),
        ("reward.weight=1", "reward: 'pickscore-tiny' is no section"),
        ("method=3", "method: 3 is no section"),
        ("method=[1]", "method: [1] is no section"),
        ("method.base=-", "method: there is no '[None]'"),
        ("method.base={}", "method: there is no '{}'"),
        ("method.shaping=3", "smoke: method.shaping: "),
        ("method.shaping.weight.x=3", "smoke: method.shaping.diversity.weight: "),
        ("parts=1", "parts: 1 is no section"),
        ("parts={selection.none: 1}", "parts.selection.none: 1 is no section"),
        ("sampling=3", "smoke: sampling: "),
        ("output='a{b}'", "output: '{b}' is not known there; {recipe} and {method} are"),
        ("output={recipe.__class__}", "smoke: output: Input should be a valid string"),
        ("output='{recipe.__class__}'", "output: '{recipe.__class__}' is not known there"),
        (f"output={'a' * 260}", "smoke: output: a part of 260 bytes"),
        (f"model.name={'a' * 260}", "smoke: model.name: a part of 260 bytes"),
        (f"prompts={'a' * 260}", "smoke: prompts: a part of 260 bytes"),
        ("model.name=~no-such-user/x", "smoke: model.name: there is no home folder"),
        ("encoder=clip:~no-such-user/x", "smoke: encoder: there is no home folder"),
        ("model.name=a\0b", "model.name: not a value: special characters are not allowed"),
        (r'model.name="a\0b"', "smoke: model.name: it holds characters that cannot be printed"),
        (r'sampling.negative_prompt="\ud800"', "smoke: sampling.negative_prompt: it is no UTF-8"),
        ("model.name=\udcff", "model.name: not a value: special characters"),
        (f"epochs={DEEP}", f"epochs: not a value: over {DEEPEST} levels"),
        (f"epochs={'{a: ' * 5_000}", f"epochs: not a value: over {DEEPEST} levels"),
        (f"epochs={'- ' * 5_000}", f"epochs: not a value: over {DEEPEST} levels"),
        (f"reward={'1' * 10_000}", "reward: not a value: a number of over 60 digits"),
        (f"reward={'1' * 3_000}*a", "smoke: reward: the weight of 'a' is inf"),
        (f"epochs={'9' * 60}", f"smoke: epochs: {'9' * 40}... is refused: at most 1000000"),
        (f"epochs={'x' * 20_001}", "epochs: not a value: 20,001 characters"),
        (f"prompts={BOMB}", "prompts: not a value: '&' and '*' are not read"),
        ("epochs=!!python/object/apply:os.system [x]", "epochs: not a value: 'tag:yaml.org"),
        ("epochs=!!timestamp 2024-13-01", "epochs: not a value: 'tag:yaml.org"),
        ("epochs=!x 1", "epochs: not a value: '!x' is not read"),
        ("sampling={steps: 1, steps: 2}", "sampling: not a value: 'steps' is given twice"),
        ("sampling={1: 2}", "sampling: not a value: a key that names no field"),
        ("sampling={[a]: 2}", "sampling: not a value: a key that names no field"),
        ("epochs=--- 1\n--- 2", "epochs: not a value: "),
        ("=1", "'=1' is not an override"),
        ("a..b=1", "'a..b=1' is not an override"),
        (".=1", "'.=1' is not an override"),
        (f"{'a.' * 5_000}b=1", "'a.a.a."),
        ("x y=1", "'x y=1' is not an override"),
        ("epochs\n=1", "'epochs =1' is not an override"),
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_no_text_is_more_than_one_line(override, told):
    assert refusal("smoke", override).startswith(told)


def test_one_override_after_another_that_is_no_section():
    assert "sampling: 3 is no section" in refusal("smoke", "sampling=3", "sampling.steps=5")


@pytest.mark.parametrize("name", ["a" * 260, "a\0b", "\udcff", "~no-such-user/x", "", "/", "."])
def test_no_name_of_a_recipe_is_more_than_one_line(name):
    assert refusal(name).startswith("there is no recipe '")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-3", -3),
        ("1e-3", "1e-3"),  # text to YAML 1.1, a number to a field that wants one
        ("1.5e-3", 0.0015),
        ("2024-01-02", "2024-01-02"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("", ""),
        ("'010'", "010"),
        ("[a, 1, {b: 2}]", ["a", 1, {"b": 2}]),
        ("a+b", "a+b"),
    ],
)
def test_values_are_what_they_look_like(text, value):
    assert parse_override(f"a.b={text}") == (["a", "b"], value)


@pytest.mark.parametrize(
    "value", ["010", "1e-3", "1:30", "yes", "2024-01-02", "~", "", "&a", "0x10", "1_0", "é", "<<"]
)
def test_what_is_written_reads_back(value):
    assert parse_value(yaml.safe_dump([value, {value: value}]), named="x") == [
        value,
        {value: value},
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is a mapping of fields"),
        (b"[1]", "is a mapping of fields"),
        (b"epochs: [5", "expected ',' or ']', but got '<stream end>', in line 1"),
        (b"seed: 1\nepochs: 1\nepochs: 2\n", "'epochs' is given twice, in line 3"),
        (b"a: &x 1\nb: *x\n", "'&' and '*' are not read, in line 1"),
        (b"a: !!python/name:os.system\n", "is not read, in line 1"),
        (b"\xff\xfe\x00", "cannot read"),
        (b"a: \0", "special characters are not allowed"),
        (b"a: " + b"[" * 60_000, "over 12 levels"),
        (b"[" + b"a," * 90_000 + b"]", "over 5,000 values"),
        (b"a: " + b"x" * 500_000, "characters, and 500,000 at most"),
    ],
)
def test_a_recipe_that_is_none_is_one_line_with_file_and_line(tmp_path, content, told):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert told in refusal(str(file))
    with pytest.raises(UserError, match="mine.yaml"):
        read_yaml(file)


def test_recipes_that_extend_one_another_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("extends: ./b.yaml\n")
    Path("b.yaml").write_text(f"extends: ../{tmp_path.name}/a.yaml\n")
    assert "extends itself" in refusal("a.yaml")
    Path("a.yaml").write_text("extends: [a.yaml]\n")
    assert "there is no recipe '['a.yaml']'" in refusal("a.yaml")
