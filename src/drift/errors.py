"""Errors a person can act on."""


class UserError(Exception):
    """Bad input: shown as one clear line, exit code 2, without a traceback."""


class Interrupted(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM came: the process ends, with the exit code 128 + `number`."""

    def __init__(self, number: int, saved: str = ""):
        super().__init__()
        self.number, self.saved = number, saved


def refuse(condition: bool, message: str) -> None:
    """For checks of a dataclass's fields: pydantic turns the ValueError into a line of its own."""
    if condition:
        raise ValueError(message)
