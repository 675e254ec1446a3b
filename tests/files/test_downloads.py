"""Downloads from a real server on this machine that cuts, changes, drips, lies and floods."""

import hashlib
import http.server
import io
import threading
import time
import zipfile
from itertools import count

import pytest

from drift.errors import UserError
from drift.files import downloads
from drift.files.downloads import download, largest, unpack
from drift.files.hub import Weights, locate
from tests.serving import serving

OLD, NEW = b"o" * 10_240, b"n" * 10_240


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` as the version `etag`; `asked` keeps the headers that resume."""

    content, etag, cut, asked = OLD, '"one"', None, []
    heeds_if_range, shift, headers_too = True, 0, {}

    def do_GET(self):
        asked, known = self.headers.get("Range"), self.headers.get("If-Range")
        self.asked.append((asked, known))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if self.heeds_if_range and known != self.etag:
            start = 0
        body, total = self.content[start:], len(self.content)
        self.send_response(206 if start else 200)
        told = {"Content-Length": str(len(body)), "ETag": self.etag} | self.headers_too
        if start:
            told["Content-Range"] = f"bytes {start + self.shift}-{total - 1}/{total}"
        for name, value in told.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.write(body[: self.cut])

    def write(self, body):
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The handler's class, and the address of a file there."""
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    handler = type("Served", (Handler,), {"asked": []})
    with serving(handler) as served:
        yield handler, f"http://127.0.0.1:{served.server_port}/weights.pt"


@pytest.fixture
def half(server, tmp_path):
    """The server, and a file of which the first 1000 bytes came."""
    handler, url = server
    handler.cut, file = 1000, tmp_path / "weights.pt"
    with pytest.raises(OSError, match="1000"):
        download(url, file)
    assert not file.exists() and (tmp_path / "weights.pt.partial").stat().st_size == 1000
    handler.cut = None
    return handler, url, file


def test_an_interrupted_download_goes_on_where_it_stopped(half, tmp_path):
    handler, url, file = half
    download(url, file)
    assert file.read_bytes() == OLD
    assert handler.asked == [(None, None), ("bytes=1000-", '"one"')]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pt"]


@pytest.mark.parametrize(
    "ways",
    [
        {},
        {"heeds_if_range": False},  # 206 with the new version's ETag
        {"heeds_if_range": False, "headers_too": {"ETag": ""}},  # or without any
    ],
)
def test_a_file_that_changed_at_the_server_is_never_mixed(half, ways):
    handler, url, file = half
    handler.content, handler.etag = NEW, '"two"'
    for name, value in ways.items():
        setattr(handler, name, value)
    download(url, file)
    assert file.read_bytes() == NEW


def test_a_range_of_other_bytes_is_not_taken(half):
    handler, url, file = half
    handler.shift = 7
    download(url, file)
    assert file.read_bytes() == OLD
    assert handler.asked[-1] == (None, None)


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_strong_etag_it_begins_anew(server, tmp_path, etag):
    handler, url = server
    handler.etag, handler.cut, file = etag, 1000, tmp_path / "weights.pt"
    with pytest.raises(OSError):
        download(url, file)
    handler.cut = None
    download(url, file)
    assert file.read_bytes() == OLD and handler.asked == [(None, None)] * 2


def test_a_download_killed_before_its_rename_asks_nothing(half):
    handler, url, file = half
    file.with_name("weights.pt.partial").write_bytes(OLD)
    download(url, file)
    assert file.read_bytes() == OLD and len(handler.asked) == 1


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"etag": 1}', b'{"etag": "", "total": "x"}']
)
def test_a_partial_of_an_unknown_version_begins_anew(half, damage):
    handler, url, file = half
    file.with_name("weights.pt.partial.json").write_bytes(damage)
    download(url, file)
    assert file.read_bytes() == OLD and handler.asked[-1] == (None, None)


PAGE = b"\n<!DOCTYPE html><html>log in</html>"


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        ({"content": PAGE}, "is a web page, not the file"),
        ({"headers_too": {"Content-Type": "text/html; charset=utf-8"}}, "sends a web page"),
        ({"headers_too": {"Content-Length": "lots"}}, "does not say how large"),
        ({"headers_too": {"Content-Length": "-1"}}, "does not say how large"),
        ({"headers_too": {"Content-Length": ""}}, "does not say how large"),
        ({"headers_too": {"Content-Length": "20000"}}, "10240"),
        ({"headers_too": {"Content-Encoding": "gzip"}}, "encoded as 'gzip'"),
        ({"headers_too": {"Content-Length": str(1 << 40)}}, "more than the"),
    ],
)
def test_what_is_not_the_file_is_one_line_and_does_not_stay(server, tmp_path, ways, told):
    handler, url = server
    for name, value in ways.items():
        setattr(handler, name, value)
    with pytest.raises(UserError, match=f"^encoder: .*{told}") as error:
        locate(url, field="encoder")
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name == "weights.pt"]
    handler.content, handler.headers_too = NEW, {}
    assert locate(url, field="encoder").read_bytes() == NEW


def test_a_published_checksum_is_held(server, tmp_path):
    _, url = server
    with pytest.raises(UserError, match=r"not the published 0{64}"):
        locate(Weights(url, sha256="0" * 64), field="encoder")
    good = Weights(url, sha256=hashlib.sha256(OLD).hexdigest())
    assert locate(good, field="encoder").read_bytes() == OLD


def test_a_body_without_an_end_is_cut_at_the_limit(server, tmp_path):
    handler, url = server
    handler.headers_too = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    handler.write = lambda self, body: [self.wfile.write(chunk) for _ in range(1000)]
    with pytest.raises(OSError, match="more than 3000000 bytes came"):
        download(url, tmp_path / "weights.pt", limit=3_000_000)
    assert (tmp_path / "weights.pt.partial").stat().st_size <= 3_000_000


def test_a_body_that_drips_is_given_up(server, tmp_path, monkeypatch):
    handler, url = server
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)

    def drip(self, body):
        for byte in body[:200]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    handler.write, start = drip, time.monotonic()
    with pytest.raises(OSError, match="timed out"):
        download(url, tmp_path / "weights.pt")
    assert time.monotonic() - start < 5  # all of it takes 10


def test_a_redirect_is_followed_but_not_for_ever(server, tmp_path):
    handler, url = server
    hops, get = count(), handler.do_GET

    def redirect(self):
        if next(hops) == 1:
            return get(self)
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    handler.do_GET = redirect
    download(url, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").read_bytes() == OLD
    with pytest.raises(OSError, match="leads on and on"):
        download(url, tmp_path / "other.pt")


def test_two_at_once_are_one_download(server):
    handler, url = server
    found = []
    several = [
        threading.Thread(target=lambda: found.append(locate(url, field="encoder").read_bytes()))
        for _ in range(4)
    ]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert found == [OLD] * 4 and len(handler.asked) == 1


def test_sizes():
    assert largest("about 0.8 GB") == 3_200_000_000
    assert largest("3.7 MB") == 1 << 30
    assert largest("") == downloads.LARGEST


def zipped(*entries, method=zipfile.ZIP_DEFLATED):
    """A .zip of these (name, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


WHOLE = zipped(("inner/config.json", b"{}" * 500))
ENCRYPTED = WHOLE.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
UNKNOWN = WHOLE.replace(b"\x08\x00", b"\x63\x00")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk" * 100,
        PAGE[10:],
        WHOLE[:-30],
        WHOLE[:60] + b"\xff" * 8 + WHOLE[68:],
        ENCRYPTED,
        UNKNOWN,
        zipped(("../evil.txt", b"x")),
        zipped(("/evil.txt", b"x")),
        zipped(("..\\evil.txt", b"x")),
        zipped(("a", b"x"), ("a/b", b"x")),
        zipped(("x" * 300, b"x")),
        zipped(*((f"{n}", b"") for n in range(downloads.MOST + 1))),
        zipped(("bomb", bytes(100 << 20))),  # 100 kB
    ],
)
def test_an_odd_zip_is_one_line_and_nothing_of_it_stays(tmp_path, content):
    archive = tmp_path / "folder" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.zip is no \.zip that could be unpacked: .") as error:
        unpack(archive, archive.with_suffix(""))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_good_zip_becomes_its_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(WHOLE)
    unpack(tmp_path / "a.zip", tmp_path / "a")
    assert (tmp_path / "a" / "inner" / "config.json").read_bytes() == b"{}" * 500
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
