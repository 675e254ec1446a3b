import io

import numpy as np
import torch
from PIL import Image

from drift.rewards import load_reward


def reference(pixels: np.ndarray) -> float:
    """kB, as DDPO's own code has it: save at quality 95, length over 1000."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def test_the_size_in_kilobytes_and_its_negative():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    grey = np.full((48, 64, 3), 128, dtype=np.uint8)
    images = torch.from_numpy(np.stack([noise, grey])).permute(0, 3, 1, 2) / 255
    sizes = load_reward("jpeg-incompressibility")(images, ["a fox", "a cat"])
    torch.testing.assert_close(sizes, torch.tensor([reference(noise), reference(grey)]))
    assert sizes[0] > 5 * sizes[1] > 0
    assert torch.equal(load_reward("jpeg-compressibility")(images, ["", ""]), -sizes)


def test_values_outside_the_range_do_not_wrap_round():
    bright = torch.full((1, 3, 16, 16), 1.004)
    reward = load_reward("jpeg-compressibility")
    assert torch.equal(reward(bright, [""]), reward(torch.ones(1, 3, 16, 16), [""]))
