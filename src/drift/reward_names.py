"""The names of rewards and of their weighted sums: "pickscore + 0.1*aesthetic".

A sum is terms with `+` between them, a term is NAME or NUMBER*NAME. Names hold anything printable
but `+` and `*` (in a URL write %2B and %2A). Weights are of raw scores, whose units differ from
reward to reward: 0.1*aesthetic adds a tenth of an aesthetic point to a PickScore. To subtract,
weigh negatively: "pickscore + -0.1*jpeg-incompressibility".

This grammar knows no reward; it stands this low so that the configuration can use it.
"""

import math
import re

from drift.errors import refuse

# No digit can be read in two ways, so that no text takes longer than it is long.
TERM = re.compile(
    r"(?:(?P<weight>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE]-?\d+)?) *\* *)?(?P<name>[^*]+)", re.ASCII
)


def parse(text: str) -> dict[str, float]:
    """Name -> weight, the heaviest first, then by name; equal names are added up."""
    refuse(not text.isprintable(), f"{text!r} holds characters that cannot be printed")
    weights: dict[str, float] = {}
    for term in text.split("+"):
        found = TERM.fullmatch(term.strip())
        if found is None:
            raise ValueError(f"'{term.strip()}' in '{text}' is neither NAME nor NUMBER*NAME")
        name, weight = found["name"], float(found["weight"] or 1)
        weights[name] = weights.get(name, 0.0) + weight
    for name, weight in weights.items():
        refuse(weight == 0 or not math.isfinite(weight), f"the weight of '{name}' is {weight:g}")
    return dict(sorted(weights.items(), key=lambda pair: (-abs(pair[1]), pair[0])))


def canonical(text: str) -> str:
    """The one name of all that mean the same; the name of none stays empty."""
    return " + ".join(_term(*pair) for pair in parse(text).items()) if text else ""


def with_components(text: str) -> list[str]:
    """A reward's name, and after a sum's those of its components."""
    return list(dict.fromkeys([canonical(text), *parse(text)])) if text else []


def _term(name: str, weight: float) -> str:
    number = repr(weight).removesuffix(".0").replace("e+", "e")
    return name if weight == 1 else f"{number}*{name}"
