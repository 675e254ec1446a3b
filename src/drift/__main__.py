"""`python -m drift` is `drift`; until the command line has taken over, a signal ends in silence."""

import os
import signal
import sys


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    from drift.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
