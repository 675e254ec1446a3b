"""Against a real server on this machine, well-behaved and not."""

import base64
import io
import json
import socket
import ssl
import time
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drift.errors import UserError
from drift.rewards import find_reward, load_reward, remote
from drift.rewards.remote import RemoteReward
from tests.serving import serving


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.behave(self, request)

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def lengths(handler, request):
    """The well-behaved one: the prompt's length plus the image's mean in grey levels."""
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(i)))) for i in request["images"]]
    scores = [len(p) + x.mean() for p, x in zip(request["prompts"], pixels, strict=True)]
    handler.reply(200, json.dumps({"scores": scores}).encode())


@pytest.fixture
def server():
    with serving(Handler) as server:
        server.requests, server.behave = [], lengths
        server.url = f"http://127.0.0.1:{server.server_port}/score"
        yield server


@pytest.fixture
def reward(server):
    return RemoteReward(server.url, batch_size=2, timeout=5.0, wait=0.01)


LEVELS = torch.tensor([0.0, 51.0, 102.0])
IMAGES = (LEVELS / 255)[:, None, None, None].expand(3, 3, 8, 8)
PROMPTS = ["a fox", "a hedgehog", "ünïcode"]


def test_image_i_meets_prompt_i_in_every_batch(server, reward):
    assert reward(IMAGES, PROMPTS).tolist() == [5.0, 61.0, 109.0]
    assert [request["prompts"] for request in server.requests] == [PROMPTS[:2], PROMPTS[2:]]
    assert reward(IMAGES[:0], []).shape == (0,)


def test_loading_tries_the_server_out(server):
    named = load_reward(f"0.5*{server.url}")
    assert [request["prompts"] for request in server.requests] == [["a test"]]
    assert named(IMAGES[:1], ["a fox"]).tolist() == [2.5]


def test_fields_are_sent_where_there_are_any(server):
    fields = {"a hedgehog": {"count": 2, "at": [0.5, None]}, "a fox": {}}
    named = load_reward(server.url, fields=fields)
    named(IMAGES, PROMPTS)
    tried, asked = server.requests
    assert tried["prompts"] == ["a hedgehog"]  # the first of the run's
    assert tried["metadata"] == [fields["a hedgehog"]]
    assert asked["metadata"] == [{}, fields["a hedgehog"], {}]

    without = load_reward(server.url, fields={"a fox": {}})
    without(IMAGES, PROMPTS)
    assert server.requests[2]["prompts"] == ["a fox"]
    assert all("metadata" not in request for request in server.requests[2:])


def flaky(*faults):
    """Commit one fault a request, then behave."""
    left = list(faults)

    def behave(handler, request):
        if left:
            return left.pop(0)(handler)
        lengths(handler, request)

    return behave


def drop(handler):
    handler.connection.close()


def stall(handler):
    time.sleep(1.5)


def fail(handler):
    handler.reply(503, b"busy\nand more")


def cut(handler):
    handler.reply(200, b'{"scores": [1', **{"Content-Length": "500"})


@pytest.mark.parametrize("fault", [drop, stall, fail, cut])
def test_a_passing_fault_is_tried_again(server, fault):
    server.behave = flaky(fault, fault)
    reward = RemoteReward(server.url, timeout=1.0, wait=0.01)
    assert reward(IMAGES, PROMPTS).tolist() == [5.0, 61.0, 109.0]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "fault, told",
    [
        (drop, "could not be asked"),
        (stall, "could not be asked: timed out"),
        (fail, "answered 503: busy"),
        (cut, "could not be asked"),
    ],
)
def test_a_lasting_fault_is_an_error_after_four_attempts(server, fault, told):
    server.behave = lambda handler, request: fault(handler)
    timeout = 0.3 if fault is stall else 5.0
    with pytest.raises(UserError) as refusal:
        RemoteReward(server.url, timeout=timeout, wait=0.01)(IMAGES, PROMPTS)
    message = str(refusal.value)
    assert message.startswith(f"reward: {server.url} {told}") and "\n" not in message
    assert len(server.requests) == remote.ATTEMPTS == 4


def test_waits_double(monkeypatch):
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    with pytest.raises(UserError, match="refused"):
        remote.post("http://127.0.0.1:9/", b"", timeout=1.0, wait=0.5)
    assert waits == [0.5, 1.0, 2.0]


def test_an_answer_that_drips_is_held_to_the_limit(server):
    def drip(handler, request):
        handler.reply(200, b"", **{"Content-Length": "100"})
        for _ in range(30):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    server.behave = drip
    start = time.monotonic()
    with pytest.raises(UserError, match="timed out"):
        RemoteReward(server.url, timeout=0.2, wait=0.01)(IMAGES, PROMPTS)
    assert time.monotonic() - start < 4 * 1.4  # a whole drip takes 1.5 s


def dripping(*parts):
    """Sends the first part at once, and then a byte of the second each 50 ms, for 3 s at most."""

    def behave(handler, request):
        first, again = parts
        handler.wfile.write(first)
        for k in range(60):
            handler.wfile.write(again[k % len(again) : k % len(again) + 1])
            time.sleep(0.05)

    return behave


@pytest.mark.parametrize(
    "parts",
    [
        (b"", b"HTTP/1.1 " + b"0" * 99),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 500 No\r\nContent-Length: 999\r\n\r\n", b"busy "),
        (b"HTTP/1.1 404 No\r\n\r\n", b"none "),
        (b"HTTP/1.1 302 On\r\nLocation: /on\r\n\r\n", b"on "),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status", "headers", "size", "chunks", "trailer", "body", "5xx", "4xx", "3xx", "100s"],
)
def test_whatever_drips_is_held_to_the_limit(server, parts, monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    server.behave = dripping(*parts)
    start = time.monotonic()
    with pytest.raises(UserError, match="could not be asked: timed out"):
        RemoteReward(server.url, timeout=0.4, wait=0.01)(IMAGES, PROMPTS)
    assert time.monotonic() - start < 3.0  # a whole drip takes that, and there are two


def test_a_connection_that_is_not_taken_is_held_to_the_limit(monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:
        start = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            remote.post(f"http://127.0.0.1:{deaf.getsockname()[1]}/", b"", 0.4, wait=0.01)
        assert time.monotonic() - start < 3.0


def test_an_answer_without_an_end_is_not_kept(server):
    def flood(handler, request):
        handler.reply(200, b"")
        with suppress(OSError):
            for _ in range(10_000):
                handler.wfile.write(b" " * 65_536)

    server.behave = flood
    with pytest.raises(UserError, match="sent over 1048576 bytes"):
        RemoteReward(server.url, wait=0.01)(IMAGES, PROMPTS)


CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def secure(server):
    """The same server behind TLS, with a certificate that nobody signed but itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.url.replace("http://", "https://")


def test_certificates_are_verified(secure, server, monkeypatch):
    with pytest.raises(UserError, match="certificate verify failed"):
        RemoteReward(secure, wait=0.01)(IMAGES, PROMPTS)
    assert not server.requests
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    assert RemoteReward(secure)(IMAGES, PROMPTS).tolist() == [5.0, 61.0, 109.0]


def test_a_tls_handshake_that_hangs_is_held_to_the_limit(monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            remote.post(f"https://127.0.0.1:{mute.getsockname()[1]}/", b"", 0.4, wait=0.01)
        assert time.monotonic() - start < 2.0


TOLD = "Bearer s3cret-token"


def test_secret_headers_reach_their_server_alone_and_are_never_told(server, monkeypatch, capfd):
    seen = []

    def refuse(handler, request):
        seen.append(handler.headers.get("Authorization"))
        handler.reply(401, f"bad token {(seen[-1] or 'none').split()[-1]}".encode())

    server.behave = refuse
    origin = server.url.removesuffix("/score")
    monkeypatch.setenv(remote.HEADERS, f"{origin} Authorization: {TOLD}\nhttp://other X-Key: abcd")
    with pytest.raises(UserError, match=r"answered 401: bad token \*\*\*") as error:
        RemoteReward(server.url, wait=0.01)(IMAGES, PROMPTS)
    monkeypatch.setenv(remote.HEADERS, f"http://127.0.0.1:1 Authorization: {TOLD}")
    with pytest.raises(UserError, match="bad token none"):
        RemoteReward(server.url, wait=0.01)(IMAGES, PROMPTS)
    assert seen == [TOLD, None]
    told = "".join(traceback.format_exception(error.value)) + "".join(capfd.readouterr())
    assert "s3cret" not in told


@pytest.mark.parametrize(
    "line",
    ["s3cret", "http://h s3cret", "http://h X: s3\ncret", "https://h X Y: s3cret", "h X: s3"],
)
def test_a_malformed_secret_is_refused_untold(line, monkeypatch):
    monkeypatch.setenv(remote.HEADERS, line)
    with pytest.raises(UserError, match=r"line \d of DRIFT_REWARD_HEADERS is not") as error:
        find_reward("http://h/score")
    assert "s3" not in str(error.value) and "cret" not in str(error.value)


@pytest.mark.parametrize("status", [400, 404, 422, 302])
def test_a_refusal_is_not_tried_again(server, status):
    def refuse(handler, request):
        handler.reply(status, b"no such prompt", Location="/elsewhere")

    server.behave = refuse
    with pytest.raises(UserError, match=f"{server.url} answered {status}: no such prompt"):
        RemoteReward(server.url, wait=0.01)(IMAGES, PROMPTS)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body, told",
    [
        ('{"scores": [1, 2]}', "sent 2 scores for 3 images"),
        ('{"scores": 1}', "sent no list of scores for 3 images"),
        ('{"scores": [1, NaN, 2]}', "scored an image for 'a hedgehog' as nan"),
        ('{"scores": [1, 2, null]}', "scored an image for 'ünïcode' as None"),
        ('{"scores": [1, 2, 1e300]}', "scored an image for 'ünïcode' as 1e+300"),
        ('{"scores": [true, 2, 3]}', "scored an image for 'a fox' as True"),
        ('{"scores": ["1", 2, 3]}', "scored an image for 'a fox' as '1'"),
        ("[1, 2, 3]", "but: [1, 2, 3]"),
        ('{"score": [1]}', 'did not answer {"scores": [...]} but: {"score": [1]}'),
        ("<html>\n502", "but: <html>"),
        ("", "but: no reason given"),
        (" " * (1 << 21), "sent over 1048576 bytes"),
    ],
)
def test_a_wrong_answer_is_one_clear_line_and_never_a_score(server, body, told):
    server.behave = lambda handler, request: handler.reply(200, body.encode())
    with pytest.raises(UserError) as refusal:
        RemoteReward(server.url, wait=0.01)(IMAGES, PROMPTS)
    message = str(refusal.value)
    assert message.startswith(f"reward: {server.url} ") and told in message
    assert "\n" not in message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    ["http://", "http://host:port/", "http://a b/", "https://:80", "http://h/ä", "http://h:99999"],
)
def test_what_is_no_url_is_refused_without_asking(url):
    with pytest.raises(UserError, match="reward: '.*' is not a URL"):
        find_reward(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@host/",
        "https://s3cret@host/",
        "http://host/score?token=s3cret",
        "http://host/score?model=a&api_key=s3cret",
    ],
)
def test_a_secret_in_a_url_would_be_written_down(url):
    with pytest.raises(UserError, match=r"^reward: .*refused.*written into the run") as error:
        find_reward(url)
    assert "s3cret" not in str(error.value)


def test_a_query_without_a_secret_is_fine(server):
    assert load_reward(f"{server.url}?model=small&author=me")(IMAGES[:1], ["a fox"]).tolist() == [5]
