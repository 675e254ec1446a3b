"""What other libraries say becomes one phrase, whatever they say; with a hub of our own."""

import http.server
import logging
import threading

import pytest

from drift.errors import UserError
from drift.files.foreign import hub_reason, quiet, reason
from drift.files.hub import locate
from drift.models import locate_model
from tests.hub_server import HubServer


def test_the_first_sentence_is_kept_and_the_advice_is_not():
    for message, expected in [
        ("Cannot read /a.b/c.json. Please check the stack trace above.", "Cannot read /a.b/c.json"),
        ("Error(s) in loading:\n\tsize mismatch for x", "Error(s) in loading: size mismatch for x"),
        ("is no class `A`. `B` would be", "is no class `A`"),
        ("You set `ignore_mismatched_sizes` to `False`, see the", "its weights have other shapes"),
        ("", "ValueError"),
        ("x" * 999, "x" * 300),
    ]:
        assert reason(ValueError(message)).startswith(expected)
        assert "\n" not in reason(ValueError(message))
    assert reason(ValueError("One. Two.")) == "One"


class Answer(HubServer):
    """Answers every question with one status and one of the hub's codes of errors."""

    status, code = 404, ""

    def do_GET(self):
        self.answer(
            self.status,
            b"{}",
            {"X-Error-Code": self.code, "X-Error-Message": "a long one. See the docs"},
        )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's handler, whose answer may be set, and what closes it."""
    handler = type("Handler", (Answer,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    closed = []

    def close():
        if not closed:
            server.shutdown()
            server.server_close()
            closed.append(True)

    yield handler, close
    close()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, "RepoNotFound", "the hub has no such repository, or only for those who may see it"),
        (401, "", "the hub answers 401"),
        (403, "GatedRepo", "it is gated: accept its terms on its page at the hub, then"),
        (404, "RevisionNotFound", "the hub has no such revision of it"),
        (400, "", "the hub answers 400"),
        (None, "", "no connection: Connection refused"),
    ],
)
def test_what_the_hub_refuses_is_one_line_of_ours(status, code, told, hub, capfd):
    handler, close = hub
    handler.status, handler.code = status, code
    if status is None:
        close()
    for field, open_it in [
        ("reward", lambda: locate("some/model", field="reward")),
        ("model.name", lambda: locate_model("some/model")),
    ]:
        with pytest.raises(UserError) as error:
            open_it()
        expected = f"{field}: 'some/model' is not on this machine and could not be fetched: {told}"
        assert str(error.value).startswith(expected)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # nor do the libraries say more


def test_an_error_that_came_of_itself_has_an_end():
    error = ValueError("round")
    error.__context__ = other = KeyError("about")
    other.__context__ = error
    assert hub_reason(error) == "round"


def test_loggers_are_quiet_for_a_while(caplog):
    logger = logging.getLogger("some.library")
    level = logger.level
    with quiet("some.library"), pytest.raises(KeyError):
        logger.critical("read the documentation")
        raise KeyError
    assert not caplog.records and logger.level == level
