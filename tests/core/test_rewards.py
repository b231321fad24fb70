"""Several raters, one reward: never raw scales together, missing stays out, a constant rater has no say."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.positions import distinct, moments
from pairwright.core.rewards import COMBINE, mean_rank, mean_z, midrank, standard, worst_z
from pairwright.core.shape import AD_CRITICAL, anderson_darling, junk_mode


@st.composite
def tables(draw):  # type: ignore[no-untyped-def]
    """Ragged prompts, raters, some missing."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    raters = draw(st.integers(1, 3))
    values = st.one_of(st.integers(-4, 4).map(float), st.just(float("nan")))
    rows = draw(st.lists(st.lists(values, min_size=raters, max_size=raters), min_size=sum(sizes), max_size=sum(sizes)))
    return np.array(rows), np.concatenate(([0], np.cumsum(sizes)))


def by_hand(score_RJ, start_P, one):  # type: ignore[no-untyped-def]
    """One prompt and rater at a time."""
    out = np.full(score_RJ.shape, np.nan)
    for begin, end in pairwise(start_P):
        for j in range(score_RJ.shape[1]):
            known = [r for r in range(begin, end) if not np.isnan(score_RJ[r, j])]
            values = score_RJ[known, j]
            if len(set(values)) > 1:
                out[known, j] = one(values)
    return out


@settings(deadline=None, max_examples=150)
@given(tables())
def test_z_and_ranks_are_those_of_one_prompt_and_rater_at_a_time(table) -> None:  # type: ignore[no-untyped-def]
    score_RJ, start_P = table
    np.testing.assert_allclose(standard(score_RJ, start_P), by_hand(score_RJ, start_P, scipy.stats.zscore), atol=1e-12)
    share = by_hand(score_RJ, start_P, lambda v: (scipy.stats.rankdata(v) - 0.5) / len(v))
    np.testing.assert_allclose(midrank(score_RJ, start_P), share, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(tables(), st.floats(0.1, 50), st.floats(-100, 100))
def test_the_scale_of_a_rater_does_not_matter(table, factor: float, shift: float) -> None:  # type: ignore[no-untyped-def]
    score_RJ, start_P = table
    moved = score_RJ.copy()
    moved[:, 0] = moved[:, 0] * factor + shift
    weight_J = np.arange(1.0, score_RJ.shape[1] + 1)
    for combine in (mean_z, mean_rank, worst_z):  # `mean` is for one scale
        np.testing.assert_allclose(combine(moved, start_P, weight_J), combine(score_RJ, start_P, weight_J), atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(tables())
def test_a_missing_score_stays_out_and_never_becomes_a_number(table) -> None:  # type: ignore[no-untyped-def]
    score_RJ, start_P = table
    z_RJ = standard(score_RJ, start_P)
    assert np.isnan(z_RJ[np.isnan(score_RJ)]).all()
    said = ~np.isnan(z_RJ).all(axis=1)
    for combine in COMBINE.values():
        assert (~np.isnan(combine(score_RJ, start_P, np.ones(score_RJ.shape[1]))) == said).all()
    for r in np.flatnonzero(said):
        assert mean_z(score_RJ, start_P, np.ones(score_RJ.shape[1]))[r] == pytest.approx(np.nanmean(z_RJ[r]))
        assert worst_z(score_RJ, start_P, np.ones(score_RJ.shape[1]))[r] == np.nanmin(z_RJ[r])


def test_the_second_best_of_three_judges_who_disagree_wins() -> None:
    """Votes on the best index are A, C, B; on a common scale B is best by far (catalogue F07)."""
    score_RJ = np.array([[9.0, 2.0, 5.0], [8.8, 8.8, 8.8], [2.0, 9.0, 5.5]])
    reward = mean_z(score_RJ, np.array([0, 3]), np.ones(3))
    assert reward.argmax() == 1
    assert reward.argmin() == 0


def test_a_judge_that_says_the_same_about_everything_has_no_say() -> None:
    score_RJ = np.array([[5.0, 4.0], [5.0, 2.0], [5.0, 1.0], [5.0, 3.0]])
    start_P = np.array([0, 2, 4])
    np.testing.assert_array_equal(mean_z(score_RJ, start_P, np.ones(2)), [1.0, -1.0, -1.0, 1.0])
    np.testing.assert_array_equal(mean_rank(score_RJ, start_P, np.ones(2)), [0.75, 0.25, 0.25, 0.75])


def test_weights_are_weights() -> None:
    score_RJ = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert mean_z(score_RJ, np.array([0, 2]), np.array([3.0, 1.0])).tolist() == [-0.5, 0.5]


def test_anderson_darling_agrees_with_scipy_for_every_prompt() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 40, 30)
    start_P = np.concatenate(([0], np.cumsum(sizes)))
    score_R = np.where(rng.random(start_P[-1]) < 0.5, rng.normal(size=start_P[-1]), rng.exponential(size=start_P[-1]))
    ours = anderson_darling(score_R, start_P)
    for p, n in enumerate(sizes):
        with pytest.warns(FutureWarning):
            theirs = scipy.stats.anderson(score_R[start_P[p] : start_P[p + 1]], "norm").statistic
        assert ours[p] == pytest.approx(theirs * (1 + 0.75 / n + 2.25 / n**2), rel=1e-9)


def test_normal_scores_are_rejected_about_one_time_in_twenty() -> None:
    """4,000 prompts: a share outside 0.05 +- 0.014 would be four standard errors away, if the seed were not fixed."""
    score_R = np.random.default_rng(1).normal(size=4000 * 16)
    share = (anderson_darling(score_R, np.arange(0, 64_001, 16)) > AD_CRITICAL).mean()
    assert share == pytest.approx(0.05, abs=0.014)


def test_few_or_equal_scores_are_not_tested() -> None:
    assert np.isnan(anderson_darling(np.arange(7.0), np.array([0, 7])))[0]
    assert np.isnan(anderson_darling(np.zeros(20), np.array([0, 20])))[0]


def test_a_far_low_cluster_is_junk_and_a_plain_tail_is_not() -> None:
    rng = np.random.default_rng(2)
    clean = rng.normal(size=64)
    dirty = np.concatenate((rng.normal(size=60), rng.normal(size=4) - 40))
    candidates = distinct(np.concatenate((clean, dirty)), np.array([0, 64, 128]))
    assert junk_mode(candidates, moments(candidates)).tolist() == [False, True]
