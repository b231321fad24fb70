"""Paired comparisons: means, wins, length, equal KL, and intervals that cover what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairwright.core import paired
from pairwright.errors import DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestMeans:
    def test_a_draw_is_a_mean_over_the_seeds_and_prompts_that_it_holds(self) -> None:
        value_SP = rng().normal(size=(3, 5))
        value_SP[1, 2] = np.nan
        drawn = paired.weights(3, 5, rng=rng(1), draws=20)
        found_D = paired.means(value_SP, drawn)
        for d in range(20):
            seeds = np.repeat(np.arange(3), drawn.seed_DS[d].astype(int))
            prompts = np.repeat(np.arange(5), drawn.prompt_DP[d].astype(int))
            assert found_D[d] == pytest.approx(np.nanmean(value_SP[np.ix_(seeds, prompts)]))

    def test_one_seed_is_never_resampled(self) -> None:
        drawn = paired.weights(1, 4, rng=rng(), draws=10)
        assert (drawn.seed_DS == 1).all()
        assert (drawn.prompt_DP.sum(axis=1) == 4).all()

    def test_nothing_to_compare_is_an_error(self) -> None:
        with pytest.raises(DataError, match="no prompt has a value"):
            paired.mean_interval(np.full((2, 3), np.nan), paired.weights(2, 3, rng=rng()))

    def test_the_interval_covers_other_prompts_and_other_runs(self) -> None:
        """Seed effects of sd 1 and prompt effects of sd 1: an interval over prompts alone would cover far too rarely.

        200 worlds with 8 seeds and 40 prompts. A two-way bootstrap with few seeds covers somewhat less than 95 %; below
        83 % of 200 has a chance under 1e-9 at a true coverage of 95 % and 2e-3 at 90 %.
        """
        hits = alone = 0
        for world in range(200):
            draw = rng(world)
            value_SP = draw.normal(size=(8, 1)) + draw.normal(size=(1, 40)) + 0.3 * draw.normal(size=(8, 40))
            both = paired.mean_interval(value_SP, paired.weights(8, 40, rng=draw, draws=300))
            hits += both.low <= 0 <= both.high
            one = paired.mean_interval(value_SP.mean(axis=0, keepdims=True), paired.weights(1, 40, rng=draw, draws=300))
            alone += one.low <= 0 <= one.high
        assert hits >= 166
        assert alone < 150


class TestWins:
    def test_every_pair_of_draws_counts_and_ties_are_half(self) -> None:
        a_PK = np.array([[1.0, 2.0], [0.0, np.nan], [np.nan, np.nan]])
        b_PK = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
        assert paired.wins(a_PK, b_PK)[:2] == pytest.approx([(0.5 + 0 + 1 + 1 + 0 + 1) / 6, (0.5 + 0.5 + 0) / 3])
        assert np.isnan(paired.wins(a_PK, b_PK)[2])

    @given(st.lists(st.integers(-3, 3), min_size=4, max_size=4))
    def test_what_one_wins_the_other_loses(self, values: list[int]) -> None:
        a, b = np.array([values[:2]], float), np.array([values[2:]], float)
        assert paired.wins(a, b) + paired.wins(b, a) == pytest.approx(1.0)


class TestLength:
    def test_the_slope_is_that_within_groups(self) -> None:
        draw = rng(3)
        group_R = np.repeat(np.arange(30), 6)
        length_R = (
            draw.normal(size=180) * 10 + 50 * group_R
        )  # long prompts are rated low: a slope over all would mislead
        reward_R = 0.02 * length_R - 3.0 * group_R + 0.01 * draw.normal(size=180)
        dummies = np.eye(30)[group_R]
        wanted = np.linalg.lstsq(np.column_stack([length_R, dummies]), reward_R, rcond=None)[0][0]
        assert paired.length_slope(reward_R, length_R, group_R) == pytest.approx(wanted)
        reward_R[5] = np.nan
        assert paired.length_slope(reward_R, length_R, group_R) == pytest.approx(0.02, abs=1e-3)

    def test_answers_of_one_length_have_no_slope(self) -> None:
        assert np.isnan(paired.length_slope(np.arange(4.0), np.ones(4), np.zeros(4, np.int64)))
        assert np.isnan(paired.length_slope(np.full(4, np.nan), np.arange(4.0), np.zeros(4, np.int64)))
        assert paired.at_equal_length(np.ones((1, 2)), np.ones((1, 2)), float("nan")).tolist() == [[1.0, 1.0]]

    def test_a_reward_for_length_alone_is_taken_out(self) -> None:
        length_SP = rng().normal(size=(2, 9))
        assert np.abs(paired.at_equal_length(0.5 * length_SP, length_SP, 0.5)).max() < 1e-12


class TestEqualKL:
    def test_going_further_along_the_same_way_is_no_difference(self) -> None:
        """Both arms gain 0.4 per root nat; one went four times as far. At equal budget it leads, at equal KL it does not."""
        noise = 0.01 * rng().normal(size=(2, 6))
        base_SP = 1 + noise

        def path(*kl: float) -> paired.Path:
            kl_CSP = np.stack([np.full((2, 6), each) for each in kl])
            return paired.Path(kl_CSP, base_SP + 0.4 * np.sqrt(kl_CSP))

        drawn = paired.weights(2, 6, rng=rng(1), draws=200)
        found = paired.at_equal_kl(path(1.0, 16.0), path(1.0, 4.0), base_SP, drawn)
        assert found.kl == 4.0
        assert found.difference.value == pytest.approx(0.0, abs=1e-9)
        better = path(1.0, 4.0)._replace(reward_CSP=path(1.0, 4.0).reward_CSP + 0.3)
        ahead = paired.at_equal_kl(better, path(1.0, 4.0), base_SP, drawn)
        assert ahead.difference.value == pytest.approx(0.3)
        assert ahead.difference.low > 0.29

    def test_exchanging_the_arms_turns_the_sign(self) -> None:
        draw = rng(5)
        paths = [
            paired.Path(draw.random((2, 2, 5)) + np.arange(1, 3)[:, None, None], draw.random((2, 2, 5)))
            for _ in range(2)
        ]
        drawn = paired.weights(2, 5, rng=draw, draws=100)
        one, two = (paired.at_equal_kl(*order, np.zeros((2, 5)), drawn) for order in (paths, paths[::-1]))
        assert one.kl == two.kl
        assert one.difference.value == pytest.approx(-two.difference.value)
        assert one.difference.low == pytest.approx(-two.difference.high)
