import torch

from drift.functional.noise import derive_seed, step_noise, trajectory_noise


def test_seeds_are_fixed_by_their_counters_alone():
    assert derive_seed(42, 1, 2) == derive_seed(42, 1, 2)
    assert len({derive_seed(42, 1, 2), derive_seed(42, 2, 1), derive_seed(42, 12)}) == 3
    assert 0 <= derive_seed(0) < 2**63


def test_a_seed_by_hand():
    # printf 42 | sha256sum: 73475cb40a568e8d...; little end first, and a bit less.
    assert derive_seed(42) == 0x8D8E560AB45C4773 >> 1


def test_a_trajectory_draws_what_plain_diffusers_draws():
    # diffusers: latents first, then the noise of each step, from one generator per image.
    generator = torch.Generator().manual_seed(7)
    expected = [torch.randn((1, 4, 8, 8), generator=generator)[0] for _ in range(4)]
    noise = trajectory_noise([3, 7], (4, 8, 8), steps=3)
    assert noise.shape == (4, 2, 4, 8, 8)
    torch.testing.assert_close(noise[:, 1], torch.stack(expected), rtol=0, atol=0)


def test_noise_does_not_depend_on_the_batch():
    together = trajectory_noise([1, 2, 3], (4, 2, 2), steps=2)
    alone = trajectory_noise([2], (4, 2, 2), steps=2)
    assert torch.equal(together[:, 1], alone[:, 0])


def test_step_noise_is_fresh_for_each_step_and_sample_and_repeats():
    noise = step_noise([5, 5, 6], [0, 1, 0], (3, 8))
    assert noise.shape == (3, 3, 8)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(noise, step_noise([5, 5, 6], [0, 1, 0], (3, 8)))
