"""Random damage to a valid text, drawn from a seeded generator: the same seed, the same damage."""

import random
from collections.abc import Callable, Sequence

ODD = [
    *("\0", "\n", "\r", "\t", "\x1b[2J", "\u2028", "\u202e", "\ufeff", "\udcff", "\U0001f98a", "é"),
    *("'", '"', "\\", "%s", "{", "}", "{0.__class__}", "[", "]", ":", ": ", "- ", "#", "&a", "*a"),
    *(
        "!!python/name:os.system",
        "!!timestamp 1",
        "<<: ",
        "~",
        "~nobody-here/x",
        "..",
        "/",
        "|",
        ">",
    ),
    *(".nan", ".inf", "-.inf", "1e999", "-1", "0", "1e308", "0x10", "1_0", "1:30", "2024-13-01"),
    *(
        "null",
        "true",
        "no",
        "=",
        "+",
        "*",
        "@",
        ",",
        "--",
        "---\n",
        "...",
        "http://",
        "hf://",
        "$HOME",
    ),
]
LARGEST = 12_000  # characters that one piece of damage puts in


def _flip(draw: random.Random, text: str, others: Sequence[str]) -> str:
    """A bit of a byte, as UTF-8 that may be none any more."""
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if raw:
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return raw.decode("utf-8", "surrogateescape")


def _insert(draw: random.Random, text: str, others: Sequence[str]) -> str:
    at = draw.randint(0, len(text))
    return text[:at] + draw.choice(ODD) + text[at:]


def _cut(draw: random.Random, text: str, others: Sequence[str]) -> str:
    first, last = sorted(draw.randint(0, len(text)) for _ in range(2))
    return text[:first] + text[last:]


def _splice(draw: random.Random, text: str, others: Sequence[str]) -> str:
    other = draw.choice(others)
    return text[: draw.randint(0, len(text))] + other[draw.randint(0, len(other)) :]


def _repeat(draw: random.Random, text: str, others: Sequence[str]) -> str:
    first, last = sorted(draw.randint(0, len(text)) for _ in range(2))
    part = text[first:last] or draw.choice(ODD)
    times = draw.choice([2, 3, 300, LARGEST // len(part)])
    return text[:first] + part * min(times, LARGEST // len(part)) + text[last:]


def _nest(draw: random.Random, text: str, others: Sequence[str]) -> str:
    """Around what follows the `=`, or all of it."""
    open_, close = draw.choice([("[", "]"), ("{a: ", "}"), ("- ", ""), ("(", ")"), ('{"a":', "}")])
    times, at = draw.choice([1, 3, 30, 3_000]), text.find("=") + 1
    return text[:at] + open_ * times + text[at:] + close * draw.choice([0, times])


def _value(draw: random.Random, text: str, others: Sequence[str]) -> str:
    """Another value after the `=`."""
    return text[: text.find("=") + 1] + draw.choice(ODD)


def _characters(draw: random.Random, text: str, others: Sequence[str]) -> str:
    """Any characters at all."""
    codes = draw.choice([range(128), range(0x250), range(0x11000)])
    return text + "".join(chr(draw.choice(codes)) for _ in range(draw.randint(1, 40)))


DAMAGE: list[Callable[[random.Random, str, Sequence[str]], str]] = [
    *(_flip, _insert, _cut, _splice, _repeat, _nest, _value, _characters),
]


def mutate(draw: random.Random, valid: Sequence[str]) -> str:
    """One of the valid texts after one to four pieces of damage."""
    text = draw.choice(valid)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        text = draw.choice(DAMAGE)(draw, text, valid)
    return text
