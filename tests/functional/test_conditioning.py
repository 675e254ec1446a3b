import pytest
import torch

from drift.functional.conditioning import anneal, perturb_embedding, signal_share

DEFAULTS = {"scale": 0.05, "tau1": 0.4, "tau2": 1.0, "mix": 1.0}


def test_anneal_by_hand():
    t = torch.tensor([0.0, 0.4, 0.7, 0.85, 1.0])  # (1 - 0.7) / 0.6 = 0.5; (1 - 0.85) / 0.6 = 0.25
    expected = torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0])
    torch.testing.assert_close(anneal(t, 0.4, 1.0), expected)


@pytest.mark.parametrize(("tau1", "tau2"), [(0.4, 1.0), (0.1, 0.7), (0.3, 0.9), (0.35, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anneal_is_exact_at_both_ends(tau1, tau2, dtype):
    t = torch.tensor([0.0, tau1, tau2, 1.0], dtype=dtype)
    assert anneal(t, tau1, tau2).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_anneal_over_all_of_time_is_one_minus_t():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert anneal(t, 0.0, 1.0).tolist() == [1.0, 0.75, 0.5, 0.0]


def test_anneal_refuses_an_empty_ramp():
    with pytest.raises(ValueError, match="tau1=0.5, tau2=0.5"):
        anneal(torch.tensor([0.5]), 0.5, 0.5)
    with pytest.raises(ValueError, match="tau1=0.9, tau2=0.4"):
        anneal(torch.tensor([0.5]), 0.9, 0.4)


@pytest.mark.parametrize(
    ("mix", "expected"),
    # gamma = 0, s = 2: noise (1, -1) becomes (2, -2), of mean 0 and std 2. The clean (1, 3) has
    # mean 2 and std 1, so rescaled it is (3, 1). A quarter of that: (0.75 + 1.5, 0.25 - 1.5).
    [(0.0, [2.0, -2.0]), (1.0, [3.0, 1.0]), (0.25, [2.25, -1.25])],
)
def test_perturb_embedding_by_hand(mix, expected):
    embedding, noise = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, -1.0]]])
    got = perturb_embedding(embedding, torch.ones(1), noise, 2.0, 0.4, 1.0, mix)
    torch.testing.assert_close(got, torch.tensor([[expected]]))


def test_rescales_over_tokens_and_channels_together():
    embedding = torch.tensor([[[0.0, 0.0], [2.0, 2.0]]])  # mean 1, std 1, though 0 in each token
    noise = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]])
    got = perturb_embedding(embedding, torch.ones(1), noise, **DEFAULTS)
    torch.testing.assert_close(got, torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]))


def test_halfway_mixes_by_the_square_root():
    embedding, noise = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[4.0, 0.0]]])
    # gamma(0.7) = 0.5: sqrt(0.5)·(1, 3) + 0.5·sqrt(0.5)·(4, 0) = sqrt(0.5)·(3, 3)
    got = perturb_embedding(embedding, torch.tensor([0.7]), noise, 0.5, 0.4, 1.0, 0.0)
    torch.testing.assert_close(got, torch.full((1, 1, 2), 3 * 0.5**0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_clean_late_in_denoising_bit_for_bit(dtype):
    embedding, noise = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    embedding = embedding.to(dtype)
    got = perturb_embedding(embedding, torch.tensor([0.0, 0.39, 0.4]), noise, **DEFAULTS)
    assert got.dtype == dtype
    assert torch.equal(got, embedding)
    assert not torch.equal(
        perturb_embedding(embedding, torch.full((3,), 0.6), noise, **DEFAULTS), embedding
    )


def test_keeps_the_mean_and_std_of_each_sample():
    embedding, noise = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    embedding = embedding * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 0.5
    t = torch.tensor([0.5, 0.8, 1.0])
    got = perturb_embedding(embedding, t, noise, **DEFAULTS)
    torch.testing.assert_close(got.mean((1, 2)), embedding.mean((1, 2)))
    torch.testing.assert_close(got.std((1, 2)), embedding.std((1, 2)))
    alone = perturb_embedding(embedding[1:2], t[1:2], noise[1:2], **DEFAULTS)
    torch.testing.assert_close(got[1:2], alone)


def test_scale_cancels_once_the_prompt_is_gone():
    embedding, noise = torch.randn(2, 1, 7, 5, generator=torch.Generator().manual_seed(0))
    small, large = (
        perturb_embedding(embedding, torch.ones(1), noise, s, 0.4, 1.0, 1.0) for s in (0.05, 5.0)
    )
    torch.testing.assert_close(small, large)


def test_zero_noise_on_a_constant_embedding_is_not_nan():
    embedding = torch.full((1, 2, 2), 3.0)
    got = perturb_embedding(embedding, torch.ones(1), torch.zeros(1, 2, 2), **DEFAULTS)
    assert torch.equal(got, embedding)


@pytest.mark.parametrize(
    ("mix", "expected"),
    # gamma(0.85) = 0.25 halves (1, 3); rescaling to the clean mean 2 and std 1 undoes just that.
    [(0.0, [0.5, 1.5]), (1.0, [1.0, 3.0]), (0.5, [0.75, 2.25])],
)
@pytest.mark.parametrize(("scale", "noise"), [(0.0, 7.0), (1.0, 0.0)])
def test_without_noise_only_the_shrinking_is_left_and_rescaling_undoes_it(
    mix, expected, scale, noise
):
    embedding, noise = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[noise, -noise]]])
    got = perturb_embedding(embedding, torch.tensor([0.85]), noise, scale, 0.4, 1.0, mix)
    torch.testing.assert_close(got, torch.tensor([[expected]]))


def test_rescaled_halfway_by_hand():
    embedding = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])  # mean 1, std 1
    noise = torch.tensor([[[-3.0, -1.0, -1.0, 1.0]]])
    # gamma(0.7) = 0.5, s = 1: sqrt(0.5)·(-3, -1, 1, 3), of mean 0 and std sqrt(0.5)·sqrt(5).
    got = perturb_embedding(embedding, torch.tensor([0.7]), noise, 1.0, 0.4, 1.0, 1.0)
    expected = 1 + torch.tensor([[[-3.0, -1.0, 1.0, 3.0]]]) / 5**0.5
    torch.testing.assert_close(got, expected)


def test_from_tau2_on_nothing_of_the_prompt_but_its_mean_and_std_is_left():
    prompts = torch.tensor([[[1.0, 3.0, 1.0, 3.0]], [[3.0, 3.0, 1.0, 1.0]]])  # both mean 2, std 1
    noise = torch.tensor([[[1.0, -1.0, -1.0, 1.0]]]).expand(2, 1, 4)
    got = perturb_embedding(prompts, torch.tensor([0.9, 0.95]), noise, 0.05, 0.4, 0.9, 1.0)
    torch.testing.assert_close(got, torch.tensor([[[3.0, 1.0, 1.0, 3.0]]]).expand(2, 1, 4))


def test_signal_share_by_hand():
    embedding = torch.tensor([[[1.0, 3.0]], [[0.0, 4.0]]])  # variances 1 and 4
    # s = 1, so the noise weighs 1 - gamma. t = 0.4: gamma 1, all prompt. t = 0.7: gamma 1/2 gives
    # 1/(1 + 1) and 4/(4 + 1), on average 0.65. t = 1: none.
    got = signal_share(embedding, torch.tensor([0.4, 0.7, 1.0]), 1.0, 0.4, 1.0)
    torch.testing.assert_close(got, torch.tensor([1.0, 0.65, 0.0]))


def test_at_the_papers_scale_the_prompt_is_nearly_all_until_it_is_gone():
    embedding = torch.tensor([[[1.0, 3.0]]])
    # t = 0.94: gamma 0.1, so 0.1 / (0.1 + 0.0025·0.9) = 0.978. At tau2 nothing is left, any s.
    got = signal_share(embedding, torch.tensor([0.94, 1.0]), 0.05, 0.4, 1.0)
    torch.testing.assert_close(got, torch.tensor([0.1 / 0.10225, 0.0]))
    assert signal_share(embedding, torch.ones(1), 0.0, 0.4, 1.0).item() == 0
    assert signal_share(embedding, torch.tensor([0.94]), 0.0, 0.4, 1.0).item() == 1
