"""A server that speaks as much of the Hugging Face hub's API as its clients use to download."""

import hashlib
import http.server
import json
from pathlib import Path
from urllib.parse import unquote

COMMIT = "c0ffee" + 34 * "0"


class HubServer(http.server.BaseHTTPRequestHandler):
    """Serves the folders `root`/OWNER/NAME as repositories of one commit; `asked` keeps paths."""

    root, asked = Path(), []
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.partition("?")[0]).strip("/")
        self.asked.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            self.tell(self.root / owner / name, tree=rest[:1] == ["tree"])
        else:
            owner, name, *rest = [*path.split("/"), ""]  # resolve/COMMIT/PATH
            self.send_file(self.root / owner / name / "/".join(rest[2:]).rstrip("/"))

    def tell(self, repo: Path, tree: bool) -> None:
        """The repository's commit and files, or only these with their sizes."""
        if not repo.is_dir():
            return self.refuse("RepoNotFound")
        files = [f for f in sorted(repo.rglob("*")) if f.is_file()]
        names = [f.relative_to(repo).as_posix() for f in files]
        listed = [
            {"type": "file", "path": name, "size": f.stat().st_size, "oid": etag(f)}
            for name, f in zip(names, files, strict=True)
        ]
        whole = {
            "id": f"{repo.parent.name}/{repo.name}",
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in names],
        }
        self.answer(200, json.dumps(listed if tree else whole).encode())

    def send_file(self, file: Path) -> None:
        if not file.is_file():
            return self.refuse("EntryNotFound")
        body, headers = file.read_bytes(), {"ETag": f'"{etag(file)}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = body[int(asked[0]) : int(asked[2] or len(body)) + 1]
        self.answer(206 if "Range" in self.headers else 200, part, headers)

    def refuse(self, code: str) -> None:
        self.answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def etag(file: Path) -> str:
    """As on the hub: SHA-256 of a large file, which LFS keeps, SHA-1 of others."""
    kind = hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1
    return kind(file.read_bytes()).hexdigest()
