"""A training that is asked to end, by SIGTERM or Ctrl-C, ends between two micro-batches.

The first signal only asks. `poll`, which all work in batches goes by, then raises: an epoch of
which no update was taken yet is left, one in which updates were taken is finished first. So what is
saved lies between two epochs, and a resumed run is to the bit one that never ended. A second
signal ends the process at once, with nothing saved; saves are whole or not there at all.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from drift.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
APART = 1.0  # seconds; what comes sooner is the same request, sent to process and group
ASKED = b"\ndrift: ending, with what is finished saved first; a second signal ends at once\n"

_asked: list[tuple[int, float]] = []  # the signal and when it came
_holds: list[None] = []  # one for each `held` that is entered


def _ask(number: int, frame: FrameType | None) -> None:
    if not _asked:
        _asked.append((number, time.monotonic()))
        os.write(2, ASKED)  # print may be in the middle of a line of its own
    elif time.monotonic() - _asked[0][1] > APART:
        os._exit(128 + number)


@contextmanager
def gently() -> Iterator[None]:
    """Within, signals ask. Outside the main thread, where Python handles none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


@contextmanager
def held() -> Iterator[None]:
    """Within, `poll` lets go on: what was begun is finished."""
    _holds.append(None)
    try:
        yield
    finally:
        _holds.pop()


def poll() -> None:
    """End here, if that was asked for."""
    if _asked and not _holds:
        raise Interrupted(_asked[0][0])
