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
4xx says that the request is wrong and is not. `examples/reward_server.py` is the other side.
"""

import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from drift.errors import UserError
from drift.pixels import to_pixels
from drift.types import Fields

BATCH = 8  # images in a request
TIMEOUT = 300.0  # seconds for a request
ATTEMPTS = 4
WAIT = 0.5  # seconds before the second attempt; doubles each time
LONGEST = 1 << 20  # bytes of an answer
FLOAT32_MAX = torch.finfo(torch.float32).max


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its images."""

    def redirect_request(self, *args, **kwargs) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


def check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        complete = False
    if not complete or " " in url or not url.isascii():
        raise UserError(f"reward: '{url}' is not a URL: write http://host:port/path")
    if "@" in parts.netloc:
        raise UserError("reward: a URL's password would be written into the run's files")


def to_png(image: Float[Tensor, "3 H W"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(file, format="PNG")
    return file.getvalue()


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or ["no reason given"])[0][:200]


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body; a server that drips it is held to the deadline as well."""
    body, length = b"", answer.length  # None: to the end; read1 does not count for itself
    while length is None or len(body) < length:
        part = answer.read1(1 << 16)
        if not part:
            if length is None:
                break
            raise http.client.IncompleteRead(body, length - len(body))
        body += part
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        if len(body) > LONGEST:
            raise UserError(f"reward: {answer.url} sent over {LONGEST} bytes")
    return body


def _body_of(error: urllib.error.HTTPError) -> str:
    """What the server says of its error, if that can be read."""
    with error, suppress(OSError, http.client.HTTPException):
        return _first_line(error.read(1000).decode(errors="replace"))
    return "no reason given"


def post(url: str, body: bytes, timeout: float, wait: float) -> bytes:
    """The answer's body; after the last attempt, one error that says what went wrong."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        deadline = time.monotonic() + timeout
        try:
            with OPENER.open(request, timeout=timeout) as answer:
                return _read(answer, deadline)
        except urllib.error.HTTPError as error:  # an answer, though not 2xx
            reason = f"answered {error.code}: {_body_of(error)}"
            if error.code < 500:
                raise UserError(f"reward: {url} {reason}") from error
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            told = getattr(error, "reason", None) or str(error) or type(error).__name__
            reason = f"could not be asked: {_first_line(told)}"
    raise UserError(f"reward: {url} {reason} ({ATTEMPTS} attempts of up to {timeout:g} s)")


def read_scores(url: str, body: bytes, prompts: Sequence[str]) -> list[float]:
    """The scores of an answer; anything but one finite number a prompt is an error."""
    try:
        scores = json.loads(body)["scores"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = _first_line(body[:80].decode(errors="replace"))
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
