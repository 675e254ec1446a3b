"""Errors a person can act on."""


class UserError(Exception):
    """Bad input: shown as one clear line, exit code 2, without a traceback."""
