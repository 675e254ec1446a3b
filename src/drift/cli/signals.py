"""How a command ends when it is asked to: Ctrl-C, SIGTERM, or the death of the command above it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from drift.errors import Interrupted
from drift.studies.processes import PARENT

GRACE = 60.0  # seconds to save in, once the parent is gone
LOOK = 0.5  # seconds between looks for it


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind, so that children end too; but at once amid imports, whose authors expect no end."""
    if _is_importing(frame):
        os.write(2, b"\ndrift: interrupted\n")
        os._exit(128 + number)
    raise Interrupted(number)


@contextmanager
def handled() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `Interrupted`; in the main thread only, as Python has it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """If the environment names a parent, end as by SIGTERM when it is gone."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    sys.stderr.write("drift: the command that started this one is gone\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)
