"""Serve a reward over HTTP, for instance from a machine with more memory. One request at a time.

    python examples/reward_server.py pickscore-tiny --port 8000
    drift train smoke reward=http://127.0.0.1:8000/score

The wire format is described in `drift/rewards/remote.py`; any server that speaks it will do.
"""

import argparse
import base64
import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import torch
from PIL import Image

from drift.errors import UserError
from drift.rewards import load_reward
from drift.rewards.checks import check_scores


def read_request(body: bytes) -> tuple[torch.Tensor, list[str], dict[str, dict]]:
    """Images "N 3 H W" in [0, 1], all of one size, their prompts, and each prompt's fields."""
    request = json.loads(body)
    files = [io.BytesIO(base64.b64decode(png, validate=True)) for png in request["images"]]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    prompts = request["prompts"]
    if len(pixels) != len(prompts):
        raise ValueError(f"{len(pixels)} images with {len(prompts)} prompts")
    fields = dict(zip(prompts, request.get("metadata") or [{}] * len(prompts), strict=True))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, prompts, fields


class Handler(BaseHTTPRequestHandler):
    timeout = 60  # seconds that a stalled client may hold the server up

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            images, prompts, fields = read_request(body)
        except (ValueError, KeyError, TypeError, OSError) as error:
            return self.answer(400, {"error": f"{type(error).__name__}: {error}"})
        self.server.fields.update(fields)
        try:
            with torch.no_grad():
                scores = check_scores(self.server.reward(images, prompts), prompts)
        except Exception as error:  # noqa: BLE001 - the server goes on; the client hears of it
            return self.answer(500, {"error": f"{type(error).__name__}: {error}"})
        self.answer(200, {"scores": scores.tolist()})

    def answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_server(name: str, host: str, port: int, device: str = "cpu") -> HTTPServer:
    fields: dict[str, dict] = {}  # what the reward looks a prompt up in; requests fill it
    reward = load_reward(name, device, fields)
    if getattr(reward, "per_group", False):
        raise UserError(f"'{name}' sees a prompt's images all at once, but they come in batches")
    server = HTTPServer((host, port), Handler)
    server.reward, server.fields = reward, fields
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a reward over HTTP.")
    parser.add_argument("reward", help="a name as in a recipe: pickscore, my_module:my_reward, ...")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines ask")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with make_server(args.reward, args.host, args.port, args.device) as server:
        print(f"http://{args.host}:{server.server_port}/ serves {args.reward}; Ctrl-C ends it")
        server.serve_forever()


if __name__ == "__main__":
    main()
