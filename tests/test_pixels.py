import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from drift.pixels import crop, in_chunks, normalise, resize, squash
from tests.golden.pictures import picture


@pytest.mark.parametrize("size", [(37, 53), (251, 334), (512, 384), (224, 224)])
def test_resizing_is_within_a_grey_level_of_pils(size):
    image = picture(*size, kind=0)
    theirs = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    theirs = np.asarray(theirs.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    ours = (squash(image[None] / 255, 224)[0] * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert abs(ours - theirs).max() <= 1
    # a filter without antialiasing, or another one, would be seen
    other = interpolate(image[None] / 255, (224, 224), mode="bilinear", antialias=True)[0]
    other = (other * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert size == (224, 224) or abs(other - theirs).max() > 1


def test_overshoot_is_clamped_and_the_right_size_untouched():
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1.0
    larger = resize(edge, 32, 32)
    assert larger.min() == 0 and larger.max() == 1
    assert resize(edge, 16, 16) is edge


@pytest.mark.parametrize(
    ("side", "first"),
    [(8, 0), (9, 0), (10, 1), (11, 2), (12, 2), (13, 2), (15, 4)],  # margin 1.5 is 2, 2.5 is 2
)
def test_the_margin_is_halved_to_even(side, first):
    columns = torch.arange(16.0)[:side].expand(1, 3, 8, side)
    assert crop(columns, 8)[0, 0, 0].tolist() == list(range(first, first + 8))
    assert crop(columns.mT, 8)[0, 0, :, 0].tolist() == list(range(first, first + 8))


def test_the_longer_side_is_rounded_down():
    assert resize(torch.zeros(1, 3, 100, 199), 50, 99).shape == (1, 3, 50, 99)
    tall = torch.linspace(0, 1, 199)[:, None].expand(1, 3, 199, 100)
    # 199 x 100 to 99 x 50: the middle 50 rows are 24 ... 73, half to even of 24.5
    expected = resize(tall, 99, 50)[..., 24:74, :]
    torch.testing.assert_close(crop(tall, 50), expected, rtol=0, atol=0)


def test_shortest_side_and_crop_differ():
    image = torch.rand(1, 3, 64, 64)
    expected = resize(image, 32, 32)[..., 2:30, 2:30]
    torch.testing.assert_close(crop(image, 28, shortest=32), expected, rtol=0, atol=0)


def test_normalise_by_hand():
    image = torch.tensor([0.5, 0.6, 0.7])[None, :, None, None]
    got = normalise(image, (0.5, 0.5, 0.5), (0.5, 0.1, 0.2))
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 1.0, 1.0]))


def test_chunks_are_bounded_and_in_order():
    seen = []

    def encode(part):
        seen.append(len(part))
        return part.flatten(1)[:, :2].double()

    images = torch.arange(7 * 12.0).view(7, 3, 2, 2).half()
    features = in_chunks(encode, images, torch.device("cpu"), size=3)
    assert seen == [3, 3, 1]
    assert features.dtype == torch.float32
    assert features[:, 0].tolist() == [0, 12, 24, 36, 48, 60, 72]
