"""Weights by name: local, shipped, from the hub, or from a URL; and what is said where it fails."""

import http.server
import shutil
import zipfile
from pathlib import Path

import pytest

from drift.errors import UserError
from drift.files import hub
from drift.files.hub import SHIPPED, Fallback, Weights, files_of, find, locate
from tests.serving import serving

CONTENT = bytes(range(256)) * 40


class Ranged(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; `asked` keeps the Range headers."""

    content, asked, cut = CONTENT, [], None  # cut: so many bytes, and the connection ends

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        body = self.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    handler = type("Handler", (Ranged,), {"asked": []})
    with serving(handler) as served:
        yield handler, f"http://127.0.0.1:{served.server_port}"


def test_a_shipped_part_and_a_local_folder_are_found_without_the_hub(tmp_path):
    assert locate("menagerie/model", field="model.name") == SHIPPED / "model"
    assert locate(str(tmp_path), field="model.name") == tmp_path
    assert locate(Weights(str(tmp_path)), field="model.name") == tmp_path


def test_a_name_that_is_no_hub_id_is_refused():
    with pytest.raises(UserError, match="encoder: there is no file or folder './absent'"):
        locate("./absent", field="encoder")


def test_offline_the_error_names_files_size_licence_and_origin(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    weights = Weights("nobody/NoModel", ("w.safetensors",), "3.9 GB", "MIT")
    with pytest.raises(UserError) as error:
        locate(weights, field="reward")
    told = str(error.value)
    assert "\n" not in told and told.startswith("reward: 'nobody/NoModel'")
    assert "w.safetensors; 3.9 GB; licence MIT" in told


def test_an_incomplete_snapshot_is_told(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(tmp_path))
    assert locate(Weights("a/b", ("*.json",)), field="reward") == tmp_path
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        locate(Weights("a/b", ("*.json", "model.safetensors")), field="reward")


def test_a_url_is_downloaded_once(server):
    handler, address = server
    file = locate(f"{address}/weights.pt", field="encoder")
    assert file.read_bytes() == CONTENT
    assert locate(f"{address}/weights.pt", field="encoder") == file
    assert handler.asked == [None]


def test_a_cut_connection_is_one_clear_error(server):
    handler, address = server
    handler.cut = 1000
    with pytest.raises(UserError, match="encoder: .*could not be fetched: .*1000"):
        locate(Weights(f"{address}/weights.pt", size="10 kB"), field="encoder")


def test_an_archive_is_unpacked_and_dropped(server, tmp_path):
    handler, address = server
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner/config.json", "{}")
    handler.content = (tmp_path / "a.zip").read_bytes()
    folder = locate(f"{address}/a.zip", field="encoder")
    assert (folder / "inner" / "config.json").read_text() == "{}"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["a"]


def test_an_archive_that_is_here_is_unpacked_offline(server, tmp_path, monkeypatch):
    handler, address = server
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    handler.content = (tmp_path / "a.zip").read_bytes()
    weights = Weights(f"{address}/a.zip")
    folder = locate(weights, field="encoder")
    shutil.rmtree(folder)
    shutil.copy(tmp_path / "a.zip", folder.parent)  # as a run that was killed before unpacking
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find(weights) is None
    assert locate(weights, field="encoder") == find(weights) == folder


def test_files_of_one_name_from_different_addresses_are_kept_apart(server):
    handler, address = server
    one = locate(f"{address}/v1/release.pt", field="encoder")
    handler.content = b"another"
    two = locate(f"{address}/v2/release.pt", field="encoder")
    assert one.read_bytes() == CONTENT
    assert two.read_bytes() == b"another"


@pytest.mark.parametrize(
    "url",
    ["https://me:pw@h/w.pt", "https://h/w.pt?access_token=pw", "https://h/w.pt?X-Amz-Signature=pw"],
)
def test_a_url_with_a_secret_is_refused_and_the_secret_not_told(url):
    for ask in (find, lambda weights: locate(weights, field="weights")):
        with pytest.raises(UserError, match=r"^weights: .* is refused|are refused") as error:
            ask(Weights(url))
        assert "pw" not in str(error.value)


@pytest.mark.parametrize("url", ["http://h", "http://h/", "http://h/..", "http://h/" + "x" * 300])
def test_a_url_that_names_no_file_is_refused(url):
    with pytest.raises(UserError, match="^encoder: .* does not end in the name of a file"):
        locate(url, field="encoder")


@pytest.mark.parametrize("url", ["http://[/w.pt", "http://h:port/w.pt", "http:///w.pt", "http://"])
def test_what_is_no_url_is_one_line(url, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match="^encoder: ") as error:
        locate(url, field="encoder")
    assert "\n" not in str(error.value)


def test_an_archive_that_leads_outside_itself_writes_nothing(server, tmp_path):
    handler, address = server
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
    handler.content = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(UserError, match="outside itself"):
        locate(f"{address}/a.zip", field="encoder")
    assert not list(tmp_path.rglob("evil.txt"))


def test_offline_forbids_urls_too(server, monkeypatch):
    handler, address = server
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        locate(f"{address}/weights.pt", field="encoder")
    assert handler.asked == []


def test_the_cache_is_where_drift_cache_says(monkeypatch):
    monkeypatch.setenv("DRIFT_CACHE", "/somewhere")
    assert hub.cache_folder() == Path("/somewhere")


def test_find_asks_no_network(server, tmp_path):
    handler, address = server
    assert find(Weights("menagerie/model")) == SHIPPED / "model"
    assert find(Weights("./absent")) is find(Weights("menagerie/absent")) is None
    weights = Weights(f"{address}/weights.pt")
    assert find(weights) is None and not handler.asked
    assert locate(weights, field="reward") == find(weights)
    assert len(handler.asked) == 1


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The snapshot's folder of "a/b" in a cache as huggingface_hub lays it out: links to blobs."""
    repo = tmp_path / "hub" / "models--a--b"
    snapshot = repo / "snapshots" / ("0" * 40)
    for folder in (snapshot / "inner", repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "model.safetensors", "inner/w.bin", "README.md", ".hidden.json"):
        blob = repo / "blobs" / name.replace("/", "-")
        blob.write_text(name)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_snapshot_in_the_hubs_cache_is_found_if_nothing_of_it_is_lacking(cached):
    assert find(Weights("a/b")) == find(Weights("a/b", ("*.json", "inner/*"))) == cached
    assert find(Weights("a/b", ("*.json", "vocab.txt"))) is None
    assert find(Weights("a/c")) is None


def test_the_files_that_count(cached):
    def named(*patterns: str) -> list[str]:
        return list(files_of(Weights("a/b", patterns), cached))

    assert named() == ["config.json", "inner/w.bin", "model.safetensors"]
    assert named("model.*", "inner/*") == ["inner/w.bin", "model.safetensors"]
    assert named("vae/*") == named()  # another's layout
    alone = cached / "README.md"
    assert files_of(Weights("x"), alone) == {"README.md": alone}


def test_a_fallback_is_needed_where_its_files_are_not(tmp_path):
    fallback = Fallback(Weights("a/tokenizer"), unless=("vocab.json", "inner/vocab.json"))
    (tmp_path / "w.pt").touch()
    first = Weights("a/b")
    for path in (tmp_path, tmp_path / "w.pt"):
        assert fallback.is_needed(first, path) and fallback.beside(path) is None
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "vocab.json").touch()
    for path in (tmp_path, tmp_path / "w.pt"):
        assert not fallback.is_needed(first, path)
        assert fallback.beside(path) == tmp_path / "inner" / "vocab.json"
    # Before the first are here: only if they certainly come without.
    assert fallback.is_needed(Weights("a/b", ("w.pt",)), None)
    assert not fallback.is_needed(Weights("a/b", ("w.pt", "*.json")), None)
    assert not fallback.is_needed(first, None)
