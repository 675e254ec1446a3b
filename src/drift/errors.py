"""Errors a person can act on."""


class UserError(Exception):
    """Bad input: shown as one clear line, exit code 2, without a traceback."""


def refuse(condition: bool, message: str) -> None:
    """For checks of a dataclass's fields: pydantic turns the ValueError into a line of its own."""
    if condition:
        raise ValueError(message)
