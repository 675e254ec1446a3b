"""The types of what a configuration holds: the one place where its numbers and names get bounds.

No number is NaN, infinite, or a truth value; what lies outside its range is refused by the field's
name (`drift.config.validate`). Bounds that are no matter of taste have their reason beside them.
"""

import os
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from drift.errors import refuse

STRICT = ConfigDict(extra="forbid")

MANY = 1_000_000
LONGEST_TEXT = 20_000  # characters
LONGEST_NAME, LONGEST_PART = 4_000, 255  # characters of a path, bytes of a part: file systems' own


def _no_truth(value: object) -> object:
    refuse(isinstance(value, bool), "a number is wanted, and not true or false")
    return value


NUMBER = BeforeValidator(_no_truth)

Amount = Annotated[int, NUMBER, Field(ge=0, le=MANY)]  # where 0 has a meaning of its own
Count = Annotated[int, NUMBER, Field(ge=1, le=MANY)]
Several = Annotated[int, NUMBER, Field(ge=2, le=MANY)]  # diversity and advantages compare
Steps = Annotated[int, NUMBER, Field(ge=1, le=10_000)]  # a model knows 1,000 or so
Repeats = Annotated[int, NUMBER, Field(ge=1, le=1_000)]  # of whole runs
Threads = Annotated[int, NUMBER, Field(ge=0, le=1_024)]
Rank = Annotated[int, NUMBER, Field(ge=1, le=4_096)]
Pixels = Annotated[int, NUMBER, Field(ge=0, le=16_384, multiple_of=8)]
Seed = Annotated[int, NUMBER, Field(ge=0, le=2**62)]  # image k is drawn with `seed + k`, 64 bits

# Smaller than 1e-12 is zero in effect: it trains nothing, or divides by nothing in float32.
Positive = Annotated[float, NUMBER, Field(ge=1e-12, le=1e6, allow_inf_nan=False)]
Limit = Annotated[float, NUMBER, Field(ge=1e-12, le=1e12, allow_inf_nan=False)]  # at most: none
Alpha = Annotated[int | float, NUMBER, Field(ge=1e-12, le=1e6)]  # stays whole as a file has it
Rate = Annotated[float, NUMBER, Field(ge=1e-12, le=10, allow_inf_nan=False)]
Epsilon = Annotated[float, NUMBER, Field(ge=1e-30, le=1, allow_inf_nan=False)]
Weight = Annotated[float, NUMBER, Field(ge=0, le=1e6, allow_inf_nan=False)]
Guidance = Annotated[float, NUMBER, Field(ge=0, le=1_000, allow_inf_nan=False)]
Seconds = Annotated[float, NUMBER, Field(ge=0, le=1e7, allow_inf_nan=False)]
Share = Annotated[float, NUMBER, Field(ge=0, le=1, allow_inf_nan=False)]
SomeShare = Annotated[float, NUMBER, Field(ge=1e-6, le=1, allow_inf_nan=False)]
ShareBelowOne = Annotated[float, NUMBER, Field(ge=0, lt=1, allow_inf_nan=False)]
ClipRange = Annotated[float, NUMBER, Field(ge=1e-12, lt=1, allow_inf_nan=False)]
Time = Annotated[float, NUMBER, Field(ge=-10, le=10, allow_inf_nan=False)]  # of [0, 1]


def check_text(text: str) -> str:
    """Refuse what no file takes as UTF-8, and texts that are none."""
    refuse(len(text) > LONGEST_TEXT, f"{len(text):,} characters, and {LONGEST_TEXT:,} at most")
    refuse("\0" in text or any("\ud800" <= c <= "\udfff" for c in text), "it is no UTF-8 text")
    return text


def check_name(text: str) -> str:
    """Refuse what can be no name of a file, folder, repository or part: too long, unprintable."""
    length = f"{len(text):,} characters, and {LONGEST_NAME:,} at most"
    refuse(len(text) > LONGEST_NAME, length)
    refuse(not text.isprintable(), "it holds characters that cannot be printed")
    longest = max(len(part.encode()) for part in text.split("/"))
    refuse(longest > LONGEST_PART, f"a part of {longest} bytes, and {LONGEST_PART} at most")
    for path in (text, text.partition(":")[2]):
        homeless = path.startswith("~") and os.path.expanduser(path) == path
        refuse(homeless, f"there is no home folder '{path.partition('/')[0]}'")
    return text


LISTED = Field(max_length=1_000)  # of one list; a run's own file is read back whole

Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, AfterValidator(check_name)]
