"""Every field of the configuration against values that are wrong, and its numbers' ranges."""

import dataclasses
import math
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter

from drift.config import TrainConfig, load_run_config, to_yaml, validate
from drift.errors import UserError
from drift.methods.parts import Method
from drift.ranges import check_name, check_text
from drift.recipes import load_recipe

NOT_FINITE = [math.nan, math.inf, -math.inf]
WRONG = [*NOT_FINITE, -1, 0, 1e308, 10**30, -(10**400), "", "a\nb\0", [], [[1]], None, True, {}]
SMOKE = TypeAdapter(TrainConfig).dump_python(load_recipe("smoke", []), mode="json")


def kinds_of(hint: Any) -> list[Any]:
    """The plain types that a field takes: of Annotated, unions and tuples the insides."""
    if get_origin(hint) is Annotated:
        return kinds_of(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return [kind for part in get_args(hint) if part is not ... for kind in kinds_of(part)]
    return [hint]


def fields_of(kind: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], list[Any]]]:
    """Path and plain types of every field, of a slot's parts by "slot:kind"."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in {f.name for f in dataclasses.fields(kind)}:
            continue
        kinds = kinds_of(hint)
        inner = [k for k in kinds if dataclasses.is_dataclass(k)]
        if not inner:
            found.append(((*path, name), kinds))
        for part in inner:
            own = f"{name}:{part.kind}" if kind is Method else name
            found += fields_of(part, (*path, own))
    return found


FIELDS = fields_of(TrainConfig)
NUMBERS = [path for path, kinds in FIELDS if {int, float} & set(kinds)]


def with_value(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """The smoke recipe's configuration with another value there."""
    raw = {**SMOKE, "method": dict(SMOKE["method"])}
    inner = raw
    for step in path[:-1]:
        name, _, kind = step.partition(":")
        same = not kind or inner[name]["kind"] == kind
        inner[name] = dict(inner[name]) if same else {"kind": kind}
        if kind == "given":
            inner[name]["weights"] = [1.0] * 5
        inner = inner[name]
    inner[path[-1]] = value
    return raw


def test_the_walk_reaches_every_section_and_slot():
    assert {path[0] for path, _ in FIELDS} == {f.name for f in dataclasses.fields(TrainConfig)}
    slots = {path[1].partition(":")[0] for path, _ in FIELDS if path[0] == "method"}
    assert slots == {f.name for f in dataclasses.fields(Method)}
    assert len(FIELDS) > 90 and len(NUMBERS) > 50


@pytest.mark.parametrize("path", [path for path, _ in FIELDS], ids=".".join)
def test_any_value_is_a_configuration_or_a_line_that_names_the_field(path):
    for value in WRONG:
        try:
            config = validate(with_value(path, value), source="here")
        except UserError as error:
            assert str(error).startswith("here: ")
            named = path[-2] if path[-1] == "kind" else path[-1]
            assert named.partition(":")[0] in str(error)
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 700
        else:
            assert isinstance(config, TrainConfig)


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_no_number_is_nan_infinite_or_a_truth_value(path):
    listed = path[-1] == "weights"
    for value in [*NOT_FINITE, ".nan", True, 10**400]:
        with pytest.raises(UserError, match=path[-1]):
            validate(with_value(path, [value] if listed else value), source="here")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.max_grad_norm=-1", "optimizer.max_grad_norm: -1 is refused: at least 1e-12"),
        ("optimizer.max_grad_norm=0", "optimizer.max_grad_norm: 0 is refused: at least 1e-12"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: inf is refused: at most 10"),
        ("optimizer.epsilon=0", "optimizer.epsilon: 0 is refused: at least 1e-30"),
        ("optimizer.beta1=2", "optimizer.beta1: 2 is refused: less than 1"),
        ("optimizer.beta2=1", "optimizer.beta2: 1 is refused: less than 1"),
        ("optimizer.weight_decay=1000", "optimizer: weight_decay (1000.0) times learning_rate"),
        ("model.lora_alpha=0", "model.lora_alpha: 0 is refused: at least 1e-12"),
        ("model.lora_rank=0", "model.lora_rank: 0 is refused: at least 1"),
        ("threads=-1", "threads: -1 is refused: at least 0"),
        ("threads=1025", "threads: 1025 is refused: at most 1024"),
        ("seed=-1", "seed: -1 is refused: at least 0"),
        ("sampling.height=50", "sampling.height: 50 is refused: a multiple of 8"),
        ("epochs=true", "epochs: a number is wanted, and not true or false"),
    ],
)
def test_settings_that_would_train_wrongly_are_refused_with_the_reason(override, told):
    with pytest.raises(UserError) as refused:
        load_recipe("smoke", ["optimizer.learning_rate=0.1", override])
    assert str(refused.value).startswith(f"smoke: {told}")


def test_alpha_stays_as_whole_as_it_was():
    assert type(load_recipe("smoke", ["model.lora_alpha=16"]).model.lora_alpha) is int
    assert load_recipe("smoke", ["model.lora_alpha=0.5"]).model.lora_alpha == 0.5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a" * 256, "a part of 256 bytes"),
        ("clip:/x/" + "ä" * 128, "a part of 256 bytes"),
        ("a/" * 2_001, "4,002 characters"),
        ("a\0b", "cannot be printed"),
        ("a\udcff", "cannot be printed"),
        ("~no-such-user/x", "no home folder '~no-such-user'"),
        ("clip:~no-such-user/x", "no home folder '~no-such-user'"),
    ],
)
def test_what_names_no_file_is_no_name(name, told):
    with pytest.raises(ValueError, match=told):
        check_name(name)
    fine = ["", "a b", "ä/" + "b" * 255, "~/x", "a~b", "http://h/p?q=1"]
    assert [check_name(other) for other in fine] == fine


def test_a_text_has_any_lines_but_is_utf_8():
    assert check_text("a\nb\té") == "a\nb\té"
    for wrong in ("a\0", "\ud800", "a" * 20_001):
        with pytest.raises(ValueError):
            check_text(wrong)


def test_a_servers_address_may_be_longer_than_a_files_name():
    address = f"http://h/p?{'q' * 300}"
    assert load_recipe("smoke", [f"reward=0.5*{address}"]).reward == f"0.5*{address}"
    for other in ("a" * 300, f"hpsv2:{address}", f"{address} + {'a' * 300}"):
        with pytest.raises(UserError, match="reward: a part of"):
            load_recipe("smoke", [f"reward={other}"])
    with pytest.raises(UserError, match="encoder: a part of"):
        load_recipe("smoke", [f"encoder=clip:{address}"])


def test_what_a_run_writes_can_be_read_back_however_long_its_lists_are(tmp_path):
    many = ",".join(f"m{k}" for k in range(1_000))
    lists = ("model.target_modules", "evaluation.rewards", "evaluation.encoders")
    config = load_recipe("smoke", [f"{field}={many}" for field in lists])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_run_config(tmp_path) == config
    for field in lists:
        with pytest.raises(UserError, match=f"{field}: .*at most 1000 items"):
            load_recipe("smoke", [f"{field}={many},x"])
