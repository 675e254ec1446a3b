"""The parts of `drift.menagerie.pretrain.rewards` that need no artwork."""

import math

import numpy as np
import pytest
import torch

from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain import exhibits, reward_quality, rewards
from drift.menagerie.pretrain.encoder import correlations
from drift.menagerie.taste import PICKSCORE, utility


def attributes(count: int = 900) -> Attributes:
    numbers = np.arange(count)
    zeros, halves = np.zeros(count, int), np.full(count, 0.5)
    return Attributes(
        numbers % 45, numbers % 3, zeros, numbers % 8, zeros, halves + 0.2, halves, halves
    )


def test_humps_are_counted():
    bell = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert reward_quality.humps(bell) == 1
    assert reward_quality.humps(torch.cat([bell, bell + 5])) == 2
    assert reward_quality.humps(torch.cat([bell, bell + 1])) == 1  # too close to be told apart


def test_rank_correlation_by_hand():
    # Ranks 0 1 2 3 against 0 1 3 2: 1 - 6 * 2 / (4 * 15)
    one, other = np.array([0.1, 0.2, 5.0, 9.0]), np.array([1.0, 2.0, 4.0, 3.0])
    assert correlations(one, other)[1] == pytest.approx(0.8)
    # Ties share a rank: 0.5 0.5 2 against 0 1 2
    tied = correlations(np.array([1.0, 1.0, 3.0]), np.array([1.0, 2.0, 3.0]))[1]
    assert tied == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_the_right_scores_are_likelier_than_none_or_the_reverse():
    gold = torch.tensor([[0.0, 3.0, 6.0]])  # ten temperatures apart: the verdicts are certain
    torch.manual_seed(0)
    assert rewards.preference_loss(torch.zeros(1, 3), gold).item() == pytest.approx(math.log(2))
    assert rewards.preference_loss(gold / 0.3, gold) < 1e-4
    assert rewards.preference_loss(-gold / 0.3, gold) > 5


def test_rows_compare_an_animal_with_itself_and_with_others():
    truth = attributes()
    chosen, rows = rewards.draw_comparisons(truth.animal, 12, np.random.default_rng(0))
    animals = truth.animal[chosen][rows]
    assert len(set(chosen)) == len(chosen) == 12 * exhibits.OWN
    assert (animals[:, : exhibits.OWN] == animals[:, :1]).all()
    assert (animals[:, exhibits.OWN :] != animals[:, :1]).all()
    assert len(set(animals[:, 0])) == 12


def test_gold_counts_the_animal_of_the_row_only():
    truth = attributes(60)[np.array([0, 45, 1])]  # the animal of the first two is the same
    shown = exhibits.Exhibits(
        torch.zeros(3, 3, 64, 64),
        truth,
        torch.tensor([1.0, 0.5, 1.0]),
        torch.tensor([1.0, 1.0, 0.0]),
    )
    expected = utility(PICKSCORE, truth, np.array([1.0, 0.5, 0.0]), shown.clean)
    torch.testing.assert_close(shown.gold(PICKSCORE, np.array([[0, 1, 2]]))[0], expected)


@pytest.mark.parametrize("damage", exhibits.DAMAGES)
def test_damage_changes_pictures_and_keeps_their_shape(damage):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spoilt, right = exhibits.spoil(damage, images, images.roll(1, 0), np.random.default_rng(0))
    assert spoilt.shape == images.shape
    assert 0 <= right <= 1
    assert (spoilt - images).abs().flatten(1).mean(1).min() > 0.01
