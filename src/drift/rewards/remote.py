"""A reward behind HTTP, named by its URL: "http://host:port/path", or https.

One POST for every batch of at most 8 images, JSON both ways:

    {"images": ["<base64 of a PNG, RGB, 8 bits>", ...], "prompts": ["a fox", ...]}
    {"scores": [0.25, ...]}                 # one finite number for each image, larger is better

Where the file of prompts is a .jsonl with other fields, a request also has those of each image's
prompt: "metadata": [{"count": 2}, ...].

Image i belongs to prompt i. PNG rounds pixels to 8 bits, so a reward that is served may differ from
the same one in this process by what half a grey level does to it; pictures under evaluation are of
8 bits already. Loading the reward has one grey picture scored, for the first of the run's prompts,
so that a server that is down or speaks otherwise is found before anything is sampled.

No connection, a timeout and 5xx are tried again, `ATTEMPTS` times in all, with waits that double;
4xx says that the request is wrong and is not. `TIMEOUT` holds for a request as a whole, however its
answer drips; redirects are not followed, and an answer is small. What a server wants to know its
clients by stands in the environment, and goes to that address alone:

    DRIFT_REWARD_HEADERS='https://scores.example.org Authorization: Bearer abc'   # one a line

`examples/reward_server.py` is the other side.
"""

import base64
import io
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from drift.errors import UserError
from drift.files.connection import Connection, refuse_credentials
from drift.pixels import to_pixels
from drift.types import Fields

BATCH = 8  # images in a request
TIMEOUT = 300.0  # seconds for a request
ATTEMPTS = 4
WAIT = 0.5  # seconds before the second attempt; doubles each time
LONGEST = 1 << 20  # bytes of an answer
FLOAT32_MAX = torch.finfo(torch.float32).max


HEADERS = "DRIFT_REWARD_HEADERS"
# ORIGIN NAME: VALUE, a name and a value as HTTP allows them
HEADER = re.compile(r"(https?://[^\s/?#@]+)/? +([\w!#$%&'*+.^`|~-]+): *([\x21-\x7e][\x20-\x7e]*)")
SHORTEST = 4  # characters of a word that may be a secret


def check_url(url: str) -> None:
    """Refuse what is no URL, or has a secret in it."""
    refuse_credentials(url, field="reward")
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        complete = False
    if not complete or " " in url or not url.isascii():
        raise UserError(f"reward: '{url}' is not a URL: write http://host:port/path")
    secret_headers(url)


def secret_headers(url: str) -> dict[str, str]:
    """The headers that the environment has for the server at `url`, and for no other."""
    headers: dict[str, str] = {}
    for number, line in enumerate(os.environ.get(HEADERS, "").splitlines(), 1):
        found = HEADER.fullmatch(line.strip())
        if found is None and line.strip():  # its text may be the secret
            told = f"line {number} of {HEADERS} is not 'https://host:port NAME: VALUE'"
            raise UserError(f"reward: {told}")
        if found and _origin(found[1]) == _origin(url):
            headers[found[2]] = found[3]
    return headers


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, parts.port or usual
    except ValueError as error:
        raise UserError(f"reward: an address in {HEADERS} has no such port") from error


def to_png(image: Float[Tensor, "3 H W"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(file, format="PNG")
    return file.getvalue()


def _first_line(text: object, url: str) -> str:
    """Of what went wrong, without the secrets that the server may have sent back."""
    line = (str(text).strip().splitlines() or ["no reason given"])[0]
    for value in secret_headers(url).values():
        for word in (value, *value.split()):
            line = line.replace(word, "***") if len(word) >= SHORTEST else line
    return line[:200]


def _exchange(url: str, body: bytes, timeout: float) -> tuple[int, bytes]:
    """Status and body of the answer to one POST, all of it within `timeout` seconds."""
    deadline, content = time.monotonic() + timeout, b""
    headers = {"Content-Type": "application/json"} | secret_headers(url)
    with Connection() as connection:
        answer = connection.ask("POST", url, seconds=timeout, headers=headers, body=body)
        while missing := LONGEST + 1 - len(content):
            part = connection.read(answer, missing, seconds=deadline - time.monotonic())
            content += part
            if not part:
                break
    return answer.status_code, content


def post(url: str, body: bytes, timeout: float, wait: float) -> bytes:
    """The answer's body; after the last attempt, one error that says what went wrong."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            status, content = _exchange(url, body, timeout)
        except OSError as error:  # timeouts are OSErrors
            told = error.strerror or str(error) or type(error).__name__
            reason = f"could not be asked: {_first_line(told, url)}"
            continue
        if 200 <= status < 300:
            if len(content) > LONGEST:
                raise UserError(f"reward: {url} sent over {LONGEST} bytes")
            return content
        reason = f"answered {status}: {_first_line(content[:1000].decode(errors='replace'), url)}"
        if status < 500:
            raise UserError(f"reward: {url} {reason}")
    raise UserError(f"reward: {url} {reason} ({ATTEMPTS} attempts of up to {timeout:g} s)")


def read_scores(url: str, body: bytes, prompts: Sequence[str]) -> list[float]:
    """The scores of an answer; anything but one finite number a prompt is an error."""
    try:
        scores = json.loads(body)["scores"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = _first_line(body[:80].decode(errors="replace"), url)
        raise UserError(f'reward: {url} did not answer {{"scores": [...]}} but: {told}') from error
    if not isinstance(scores, list) or len(scores) != len(prompts):
        found = len(scores) if isinstance(scores, list) else "no list of"
        raise UserError(f"reward: {url} sent {found} scores for {len(prompts)} images")
    for score, prompt in zip(scores, prompts, strict=True):
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or not abs(score) <= FLOAT32_MAX:
            raise UserError(f"reward: {url} scored an image for '{prompt}' as {score!r:.60}")
    return scores


@dataclass(frozen=True)
class RemoteReward:
    """A Reward: what the server at `url` says."""

    url: str
    batch_size: int = BATCH
    timeout: float = TIMEOUT
    wait: float = WAIT
    fields: Fields = field(default_factory=dict)  # without any, requests have no metadata

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        scores: list[float] = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            pngs = [base64.b64encode(to_png(image)).decode() for image in images[part]]
            request: dict[str, Any] = {"images": pngs, "prompts": list(prompts[part])}
            if self.fields:
                request["metadata"] = [self.fields.get(prompt, {}) for prompt in prompts[part]]
            answer = post(self.url, json.dumps(request).encode(), self.timeout, self.wait)
            scores += read_scores(self.url, answer, prompts[part])
        return torch.tensor(scores, dtype=torch.float32, device=images.device)


def load(url: str, device: str, fields: Fields) -> RemoteReward:
    """The reward at `url`, tried out on one grey picture and the first prompt that has `fields`."""
    check_url(url)
    reward = RemoteReward(url, fields=fields if any(fields.values()) else {})
    reward(torch.full((1, 3, 64, 64), 0.5), [next(iter(fields), "a test")])
    return reward
