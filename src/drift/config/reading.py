"""Text to values: the one reader of recipes, overrides and a run's config.yaml.

It is YAML without what a configuration has no use for: anchors, tags, dates, sums of sixty (1:30),
octal numbers, `yes` and `no`, keys given twice. Length, depth and digits are bounded before
anything is made of them, so that any text gives a value, or a `YAMLError` of one line, soon.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from drift.errors import UserError, one_line

LONGEST_FILE, LONGEST_VALUE = 500_000, 20_000  # characters
NODES = 5_000  # values and keys; a recipe has a hundred
DEEPEST = 12  # mappings and lists in one another; a recipe has three
DIGITS = 60  # of a number; no float has more that count

_RESOLVED = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    depth = nodes = 0

    def compose_node(self, parent, index):
        event: Any = self.peek_event()
        tag = getattr(event, "tag", None)
        for wrong, told in (
            (isinstance(event, yaml.AliasEvent) or event.anchor, "'&' and '*' are not read"),
            (tag not in (None, "!"), f"'{tag}' is not read"),
            (self.depth >= DEEPEST, f"over {DEEPEST} levels in one another"),
            (self.nodes >= NODES, f"over {NODES:,} values"),
        ):
            if wrong:
                raise ComposerError(None, None, told, event.start_mark)
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        if not node.tag.endswith(":str") and len(str(text)) > DIGITS:
            told = f"a number of over {DIGITS} digits"
            raise ConstructorError(None, None, told, node.start_mark)
        return text

    def construct_yaml_int(self, node):
        return int(self.construct_scalar(node))  # 010 is ten

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for at, _ in node.value:
            named = at.tag.endswith(":str")
            if not named or at.value in seen:
                told = f"'{at.value}' is given twice" if named else "a key that names no field"
                raise ConstructorError(None, None, told, at.start_mark)
            seen.add(at.value)
        return super().construct_mapping(node, deep=deep)


for _kind, _pattern, _first in _RESOLVED:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _load(text: str, longest: int) -> Any:
    """The value; a `YAMLError` where there is none."""
    if len(text) > longest:
        raise yaml.YAMLError(f"{len(text):,} characters, and {longest:,} at most")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that reads less


def _reason(error: yaml.YAMLError, where: str = "") -> str:
    """What is wrong, and in a file where."""
    told = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return one_line(told) + (where.format(mark.line + 1) if mark else "")


def parse_value(text: str, *, named: str) -> Any:
    """The value that an override gives, empty text as it is; errors begin with `named`."""
    try:
        return _load(text, LONGEST_VALUE) if text else ""
    except yaml.YAMLError as error:
        hint = "; a text with special characters stands in quotes of its own: '\"...\"'"
        raise UserError(f"{named}: not a value: {_reason(error)}{hint}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields that a recipe, or a run's config.yaml, holds."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = _load(file.read(LONGEST_FILE + 1), LONGEST_FILE)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {path}: {_reason(error, ', in line {}')}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping of fields")
    return content
