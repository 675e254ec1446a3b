"""HTTP under a deadline that holds for all of it, whatever the server does.

requests' own timeout starts anew with every byte, so a server that drips its headers, the sizes of
its chunks or its body holds a client for as long as it likes. Here what is asked runs in a thread
of its own, and at the deadline its sockets are shut down, which ends it wherever it waits.
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from drift.errors import UserError
from drift.files.foreign import root_of

LONGEST_NAME = 200  # bytes of a file's name
SECRET = re.compile(
    r"token|key$|secret|passw|pwd|auth(?!or)|sig(nature)?$|credential|session", re.I
)
T = TypeVar("T")


class Connection:
    """One request at a time; `with` closes it. Certificates are verified, proxies as in the shell.

    Its errors are OSErrors of one line, a late answer's a TimeoutError.
    """

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.cut = False
        self.session = requests.Session()
        # requests would read the body of a redirect whole, even of one that is not followed.
        self.session.get_redirect_target = lambda resp: None
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter(self))

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self.session.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        seconds: float,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> requests.Response:
        """The answer's status and headers; its body is still to `read`. No redirect is followed."""
        plain = {"Accept-Encoding": "identity"}  # as it is: no unpacking, no bombs
        options = {"data": body, "timeout": seconds, "stream": True}
        return self.within(
            seconds,
            lambda: self.session.request(method, url, headers=plain | dict(headers), **options),
        )

    def read(self, answer: requests.Response, count: int, *, seconds: float) -> bytes:
        """The next `count` bytes of the body, fewer or none at its end.

        Where it was cut short, what came of it is told first, and the next reading is an error.
        """
        return self.within(seconds, lambda: answer.raw.read(count, decode_content=False))

    def within(self, seconds: float, work: Callable[[], T]) -> T:
        """What `work` returns if it does within so many seconds; else the connection ends."""
        outcome: Future[T] = Future()
        Thread(target=_settle, args=(outcome, work), daemon=True).start()
        try:
            return outcome.result(max(seconds, 0))
        except TimeoutError as error:
            self._end()
            raise TimeoutError("timed out") from error
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise _plain(error) from error
        except BaseException:  # Ctrl-C: the thread is not to go on alone
            self._end()
            raise

    def hold(self, made: socket.socket) -> None:
        """Keep hold of a new socket, to shut it down by; refuses one that comes too late."""
        if self.cut:
            made.close()
            raise TimeoutError("timed out")
        self.sockets.append(made.dup())  # TLS takes the first one's number away

    def _end(self) -> None:
        self.cut = True
        while self.sockets:
            held = self.sockets.pop()
            with suppress(OSError):  # the other side may have ended it
                held.shutdown(socket.SHUT_RDWR)
            held.close()


def _settle(outcome: "Future[T]", work: Callable[[], T]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
        outcome.set_exception(error)


def _plain(error: Exception) -> OSError:
    """One of a kind for all that requests and urllib3 raise, told by where it began."""
    root = root_of(error)
    if isinstance(error, requests.Timeout) or isinstance(root, TimeoutError):
        return TimeoutError("timed out")
    told = str(getattr(root, "strerror", None) or root or type(root).__name__)
    return ConnectionError(re.sub(r"^<[^>]*>: *|^HTTPS?Connection\S*: *", "", told))


class _Adapter(HTTPAdapter):
    """requests' own, whose sockets a Connection holds."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _hold_sockets(self.poolmanager, self.connection)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        return _hold_sockets(manager, self.connection)


def _hold_sockets(manager: Any, connection: Connection) -> Any:
    manager.pool_classes_by_scheme = {
        scheme: kind if hasattr(kind, "holder") else _holding(kind, connection)
        for scheme, kind in manager.pool_classes_by_scheme.items()
    }
    return manager


def _holding(pool: Any, connection: Connection) -> Any:
    """The same kind of pool, whose every new socket `connection` gets to know."""

    def new_socket(self: Any) -> socket.socket:
        made = super(kind, self)._new_conn()
        connection.hold(made)
        return made

    kind = type("Held", (pool.ConnectionCls,), {"_new_conn": new_socket})
    return type("HeldPool", (pool,), {"ConnectionCls": kind, "holder": connection})


def refuse_credentials(url: str, *, field: str) -> None:
    """Refuse a URL with a password or token: it would be written into the run's files."""
    advice = "it would be written into the run's files"
    try:
        parts = urlsplit(url)
    except ValueError as error:  # brackets that do not close
        raise UserError(f"{field}: this is not a URL: {error}") from error
    if "@" in parts.netloc:
        raise UserError(f"{field}: a URL's user and password are refused: {advice} (SECURITY.md)")
    asked = parse_qsl(parts.query, keep_blank_values=True)
    if secret := next((name for name, _ in asked if SECRET.search(name)), None):
        told = f"{field}: the '{secret}' in a URL's query looks like a secret, and is refused"
        raise UserError(f"{told}: {advice} (SECURITY.md)")


def name_of(url: str, *, field: str) -> str:
    """The name of the file that a URL leads to."""
    name = urlsplit(url).path.rpartition("/")[2]
    if name in ("", ".", "..") or len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(f"{field}: '{url}' does not end in the name of a file")
    return name


def without_credentials(text: str) -> str:
    """The same text with what its URLs hold of passwords and tokens left out."""
    text = re.sub(r"(https?://)[^\s/?#@]*(?:@[^\s/?#@]*)*@", r"\1", text)

    def strip(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}=***" if SECRET.search(found[2]) else found[0]

    return re.sub(r"([?&])([^\s=&#?]+)=[^\s&#]*", strip, text)
