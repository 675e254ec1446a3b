import pytest
import torch

from drift.functional.intervals import crossed_interval


def interval(rows):
    return crossed_interval(torch.tensor(rows), torch.Generator().manual_seed(0))


def test_equal_values_leave_nothing_open():
    assert interval([[2.0, 2.0, 2.0]] * 3) == (2, 2)


def test_seeds_and_prompts_both_widen_it():
    # Two seeds that differ by 2: one resample in four draws the same seed twice, at either end.
    assert interval([[0.0] * 9, [2.0] * 9]) == (0, 2)
    # Of one seed only the prompts are drawn: with 2 of them, as above.
    assert interval([[0.0, 2.0]]) == (0, 2)
    low, high = interval([[0.0, 1.0] * 50])
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_one_value_has_none():
    with pytest.raises(ValueError, match="at least 2 values"):
        interval([[1.0]])
