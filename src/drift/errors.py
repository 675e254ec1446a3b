"""Errors a person can act on."""

LONGEST = 2_000  # characters of a line that a person reads


class UserError(Exception):
    """Bad input: shown as one clear line, exit code 2, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """The text without line ends and whatever else a terminal would obey, not over `LONGEST`."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)
    half = (LONGEST - 5) // 2
    return shown if len(shown) <= LONGEST else f"{shown[:half]} ... {shown[-half:]}"


class Interrupted(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM came: the process ends, with the exit code 128 + `number`."""

    def __init__(self, number: int, saved: str = ""):
        super().__init__()
        self.number, self.saved = number, saved


def refuse(condition: bool, message: str) -> None:
    """For checks of a dataclass's fields: pydantic turns the ValueError into a line of its own."""
    if condition:
        raise ValueError(message)
