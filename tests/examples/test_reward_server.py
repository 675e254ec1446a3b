import json
import threading
import urllib.error
import urllib.request

import pytest
import torch

from drift.errors import UserError
from drift.rewards import load_reward
from drift.rewards.remote import RemoteReward
from examples.reward_server import make_server

NAME = "pickscore-tiny + 0.1*jpeg-compressibility"


@pytest.fixture(scope="module")
def url():
    with make_server(NAME, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/score"
        server.shutdown()


def test_a_served_reward_is_the_reward_itself(url):
    """Of pictures in 8 bits, and up to a network's rounding in batches of another size."""
    images = torch.randint(256, (11, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 255
    prompts = [f"a {animal}" for animal in ("fox", "cat", "bee")] * 4
    ours = load_reward(NAME)(images, prompts[:11])
    torch.testing.assert_close(load_reward(url)(images, prompts[:11]), ours, rtol=0, atol=1e-4)
    assert len(ours.unique()) > 3


def test_a_wrong_request_is_refused_and_the_server_goes_on(url):
    for body, told in [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b'{"images": ["????"], "prompts": ["a"]}', "Error"),
        (b'{"images": ["aGVsbG8="], "prompts": ["a"]}', "UnidentifiedImageError"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(url, body, timeout=10)
        assert refusal.value.code == 400
        assert told in json.loads(refusal.value.read())["error"]
    assert RemoteReward(url)(torch.rand(1, 3, 64, 64), ["a fox"]).isfinite().all()


def broken(images, prompts):
    raise ArithmeticError("no idea")


def test_a_reward_that_fails_says_so_to_the_client():
    with make_server("jpeg-compressibility", "127.0.0.1", 0) as server:
        server.reward = broken
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        reward = RemoteReward(f"http://127.0.0.1:{server.server_port}/", wait=0.01)
        with pytest.raises(UserError, match="answered 500: .*ArithmeticError: no idea"):
            reward(torch.rand(1, 3, 64, 64), ["a fox"])
        server.shutdown()


def counts(images, prompts, metadata):
    return [each.get("count", 0) for each in metadata]


def test_a_served_reward_gets_the_fields_of_each_prompt():
    with make_server("tests.examples.test_reward_server:counts", "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        for count in (2, 3):  # of two clients
            reward = load_reward(url, fields={"a fox": {"count": count}, "a cat": {}})
            scores = reward(torch.rand(3, 3, 8, 8), ["a cat", "a fox", "a fox"])
            assert scores.tolist() == [0, count, count]
        server.shutdown()


def test_a_per_group_reward_is_not_served():
    with pytest.raises(UserError, match="in batches"):
        make_server("examples.custom_reward:unlike", "127.0.0.1", 0)
