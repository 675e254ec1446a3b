"""What other libraries say when they fail, as one plain phrase: the fact, without their advice.

Their messages are pages long, point at arguments that a person on the command line cannot give, or
at a stack trace that is not shown.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from socket import gaierror

LONGEST = 300  # characters of a reason
SHAPES = "its weights have other shapes than its config.json says"
# How huggingface_hub's errors are told, the narrower kinds first.
HUB = {
    "GatedRepoError": "it is gated: accept its terms on its page at the hub, then `hf auth login`",
    "RepositoryNotFoundError": "the hub has no such repository, or only for those who may see it",
    "RevisionNotFoundError": "the hub has no such revision of it",
    "RemoteEntryNotFoundError": "the repository has no such file",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
}


def reason(error: BaseException) -> str:
    """The first sentence of an error's message, in one line; its kind, if it has none."""
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", " ".join(str(error).split()))[0]
    if "ignore_mismatched_sizes" in sentence:  # transformers', which told the shapes elsewhere
        return SHAPES
    return sentence.rstrip(".")[:LONGEST] or type(error).__name__


def hub_reason(error: BaseException) -> str:
    """Why nothing came from the hub or from another address."""
    causes = list(_causes(error))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    told = [words for name, words in HUB.items() if name in kinds]
    if told:
        return told[0]
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return f"the hub answers {status}"
    root = causes[-1]
    if isinstance(root, gaierror | ConnectionError | TimeoutError):
        return f"no connection: {root.strerror or reason(root)}"
    if "LocalEntryNotFoundError" in kinds:
        return HUB["OfflineModeIsEnabled"]
    return reason(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on to the root."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def root_of(error: BaseException) -> BaseException:
    """What the error came from in the end."""
    return list(_causes(error))[-1]


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Nothing from the loggers of these libraries: what they report is told in one line of ours."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
