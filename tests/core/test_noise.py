"""Flip rates, judge accuracies and soft labels: closed forms invert, intervals cover, the undefined says so."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.noise import (
    agreement_of_two,
    flip_of_agreement,
    flip_rate_from_repeats,
    flip_rate_from_two,
    judge_accuracy,
    majority_accuracy,
    noise_rate_of_two_sources,
    soft_labels,
    wilson,
)
from pairwright.errors import DataError, NotIdentifiable

NAN = np.nan
RATES = st.floats(0, 0.4999)


def rng(seed=0):
    return np.random.default_rng(seed)


class TestWilson:
    @given(st.integers(1, 60), st.data())
    def test_its_ends_are_the_shares_that_a_score_test_just_allows(self, n, data):
        hits = data.draw(st.integers(0, n))
        z = scipy.stats.norm.ppf(0.975)
        for p in wilson(hits, n):
            assert (hits / n - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / n, abs=1e-12)

    def test_nothing_seen_leaves_everything_open(self):
        assert wilson(0, 0) == (0.0, 1.0)

    def test_it_is_scipys_and_widens_with_the_level(self):
        other = scipy.stats.binomtest(7, 40).proportion_ci(0.9, method="wilson")
        assert wilson(7, 40, level=0.9) == pytest.approx((other.low, other.high))


class TestTwoLabels:
    @given(RATES)
    def test_the_rate_comes_back_from_the_agreement_it_causes(self, flip):  # invariant 12
        assert flip_of_agreement(agreement_of_two(flip)) == pytest.approx(flip, abs=1e-9 if flip < 0.499 else 1e-7)

    def test_agreement_is_that_of_four_equally_simple_cases(self):
        for e in (0.0, 0.1, 0.5):
            cases = product([(0, 1 - e), (1, e)], repeat=2)
            assert agreement_of_two(e) == pytest.approx(sum(p * q for (a, p), (b, q) in cases if a == b))

    def test_less_than_half_is_undefined_and_not_nan(self):  # invariant 12
        assert flip_of_agreement(0.49) is None
        found = flip_rate_from_two(45, 100)
        assert found.value is None
        assert found.reason == "agreement_below_half"
        assert found.high == 0.5
        assert 0.3 < found.low < 0.5
        assert flip_rate_from_two(10, 100) == (None, None, None, 100, "agreement_below_half")

    def test_no_labels_say_nothing(self):
        assert flip_rate_from_two(0, 0) == (None, None, None, 0, "no_labels")

    def test_the_interval_is_the_mapped_interval_of_the_agreement(self):
        found = flip_rate_from_two(410, 500)
        low, high = wilson(410, 500)
        assert found == (flip_of_agreement(0.82), flip_of_agreement(high), flip_of_agreement(low), 500, "")
        assert found.low < found.value < found.high

    def test_perfect_agreement_is_rate_zero(self):
        found = flip_rate_from_two(50, 50)
        assert found.value == found.low == 0.0
        assert 0 < found.high < 0.05

    @pytest.mark.parametrize("flip", [0.02, 0.1, 0.3])
    def test_nineteen_of_twenty_intervals_hold_the_rate(self, flip):
        agreeing = rng(4).binomial(400, agreement_of_two(flip), 2000)
        held = [found.low <= flip <= found.high for found in (flip_rate_from_two(int(a), 400) for a in agreeing)]
        assert 0.93 < np.mean(held) < 0.98

    def test_impossible_counts_are_refused(self):
        with pytest.raises(DataError, match="11 of 10"):
            flip_rate_from_two(11, 10)
        with pytest.raises(DataError, match=r"1\.2"):
            flip_of_agreement(1.2)


class TestRepeats:
    def test_two_votes_per_item_give_the_formula_of_two_labels(self):
        count = np.repeat([0, 1, 2], [300, 180, 520])
        found = flip_rate_from_repeats(count, np.full(1000, 2), rng=rng())
        assert found.value == pytest.approx(flip_rate_from_two(820, 1000).value, abs=1e-12)
        mapped = flip_rate_from_two(820, 1000)
        assert (found.low, found.high) == pytest.approx((mapped.low, mapped.high), abs=4e-3)

    @given(st.integers(2, 9), st.floats(0.01, 0.4))
    @settings(max_examples=40, deadline=None)
    def test_the_expected_counts_of_any_number_of_votes_give_the_rate_exactly(self, votes, flip):
        # items in the proportions of the binomial distribution: the estimate of agreement is unbiased
        count = np.arange(votes + 1)
        times = np.rint(scipy.stats.binom.pmf(count, votes, flip) * 40_000).astype(int)
        found = flip_rate_from_repeats(np.repeat(count, times), np.full(times.sum(), votes), rng=rng(), draws=2)
        assert found.value == pytest.approx(flip, abs=2e-3)

    def test_ninety_of_a_hundred_intervals_hold_the_rate_with_uneven_votes(self):
        random, held = rng(2), 0
        for _ in range(100):
            votes = random.integers(1, 6, 300)
            truth = random.integers(0, 2, 300)
            count = random.binomial(votes, np.where(truth == 1, 0.85, 0.15))
            found = flip_rate_from_repeats(count, votes, rng=random, draws=300)
            held += found.low <= 0.15 <= found.high
            assert found.n == (votes > 1).sum()
        assert 88 <= held <= 99

    def test_single_votes_say_nothing_and_do_not_enter(self):
        assert flip_rate_from_repeats(np.ones(5, int), np.ones(5, int), rng=rng()).reason == "no_repeated_votes"
        alone = flip_rate_from_repeats(np.array([2, 1, 3, 0]), np.array([3, 3, 3, 3]), rng=rng())
        mixed = flip_rate_from_repeats(np.array([1, 2, 1, 3, 0]), np.array([1, 3, 3, 3, 3]), rng=rng())
        assert mixed == alone

    def test_a_rater_that_differs_from_item_to_item_gives_a_lower_bound(self):
        votes, e = np.full(4000, 5), np.repeat([0.05, 0.35], 2000)
        found = flip_rate_from_repeats(rng(1).binomial(votes, e), votes, rng=rng(), draws=10)
        assert found.value < 0.195 < 0.2

    def test_more_hits_than_votes_name_the_item(self):
        with pytest.raises(DataError, match="item 1: 3 of 2"):
            flip_rate_from_repeats(np.array([1, 3]), np.array([2, 2]), rng=rng())


class TestTwoSources:
    @given(RATES.filter(lambda e: e < 0.45), st.floats(0, 0.49))
    def test_the_second_rate_comes_back_and_the_bounds_hold(self, first, second):
        agreement = (1 - first) * (1 - second) + first * second
        found = noise_rate_of_two_sources(agreement, first=first)
        assert found.second == pytest.approx(second, abs=1e-9)
        assert max(first, second) <= found.most + 1e-12
        assert min(first, second) - 1e-9 <= found.even <= max(first, second) + 1e-9
        assert found.contrast == pytest.approx((1 - 2 * first) * (1 - 2 * second), abs=1e-12)

    def test_more_agreement_than_the_first_allows_is_named(self):
        found = noise_rate_of_two_sources(0.95, first=0.2)
        assert (found.second, found.reason) == (None, "agreement_beyond_first_rate")

    def test_without_the_first_only_bounds_are_left(self):
        found = noise_rate_of_two_sources(0.7)
        assert found.second is None
        assert (found.most, found.reason) == (pytest.approx(0.3), "")
        low = noise_rate_of_two_sources(0.4)
        assert (low.most, low.even, low.reason) == (None, None, "agreement_below_half")
        with pytest.raises(DataError, match=r"0\.5"):
            noise_rate_of_two_sources(0.7, first=0.5)


class TestMajority:
    @pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8])
    @pytest.mark.parametrize("a", [0.0, 0.3, 0.5, 0.8, 1.0])
    def test_it_counts_all_outcomes(self, a, k):
        chance = 0.0
        for votes in product([0, 1], repeat=k):
            right = sum(votes)
            share = 1.0 if 2 * right > k else 0.5 if 2 * right == k else 0.0
            chance += share * a**right * (1 - a) ** (k - right)
        assert majority_accuracy(a, k) == pytest.approx(chance, abs=1e-12)
        assert majority_accuracy(a, 3) == pytest.approx(a**2 * (3 - 2 * a), abs=1e-12)

    def test_no_votes_are_refused(self):
        with pytest.raises(DataError, match="at least one"):
            majority_accuracy(0.7, 0)


def votes_of(accuracy, items, seed=0, missing=0.0):
    random = rng(seed)
    truth = random.integers(0, 2, items)
    right = random.random((items, len(accuracy))) < accuracy
    votes = np.where(right, truth[:, None], 1 - truth[:, None]).astype(float)
    votes[random.random(votes.shape) < missing] = NAN
    return votes, truth


def exact_votes(accuracy, denominator):
    """Rows in exactly the proportions of the model, truth even; accuracies are multiples of 1 / denominator."""
    rows = []
    for truth, right in product([0, 1], product([0, 1], repeat=len(accuracy))):
        times = np.prod([a * denominator if r else (1 - a) * denominator for a, r in zip(accuracy, right, strict=True)])
        rows += [[truth if r else 1 - truth for r in right]] * round(times)
    return np.array(rows, float)


class TestJudgeAccuracy:
    @pytest.mark.parametrize("accuracy", [(0.9, 0.8, 0.6), (0.9, 0.8, 0.7, 0.6), (0.9, 0.8, 0.3), (1.0, 0.7, 0.6, 0.2)])
    def test_agreements_of_the_model_give_the_accuracies_exactly(self, accuracy):  # invariant 12
        found = judge_accuracy(exact_votes(accuracy, 10), rng=rng(), draws=2)
        assert found.accuracy_J == pytest.approx(accuracy, abs=1e-9)
        assert found.identified_J.all()

    def test_three_judges_give_the_closed_form(self):
        votes, _ = votes_of([0.9, 0.75, 0.65], 2000, seed=3)
        c = {(j, k): 2 * (votes[:, j] == votes[:, k]).mean() - 1 for j in range(3) for k in range(3)}
        expected = [(1 + np.sqrt(c[0, 1] * c[0, 2] / c[1, 2])) / 2, (1 + np.sqrt(c[0, 1] * c[1, 2] / c[0, 2])) / 2]
        found = judge_accuracy(votes, rng=rng(), draws=2).accuracy_J
        assert found[:2] == pytest.approx(expected, abs=1e-9)

    def test_the_standard_error_is_the_spread_over_samples(self):
        accuracy, found = [0.85, 0.75, 0.7, 0.65], []
        for seed in range(60):
            votes, _ = votes_of(accuracy, 1500, seed, missing=0.3)
            found.append(judge_accuracy(votes, rng=rng(seed), draws=60))
        estimates = np.array([fit.accuracy_J for fit in found])
        assert estimates.mean(axis=0) == pytest.approx(accuracy, abs=0.02)
        told = np.mean([fit.se_J for fit in found], axis=0)
        assert estimates.std(axis=0) == pytest.approx(told, rel=0.35)

    def test_more_judges_narrow_the_estimate_of_the_first(self):
        accuracy = [0.7] * 9
        errors = []
        for judges in (3, 9):
            fits = [judge_accuracy(votes_of(accuracy, 800, s)[0][:, :judges], rng=rng(), draws=2) for s in range(40)]
            errors.append(np.std([fit.accuracy_J[0] for fit in fits]))
        assert errors[1] < 0.8 * errors[0]

    def test_a_pair_with_eight_shared_items_has_little_say(self):
        errors = []  # measured: sd 0.049 with the weights, 0.078 without
        for seed in range(60):
            votes, _ = votes_of([0.85, 0.8, 0.75, 0.7], 600, seed)
            votes[8::2, 0] = votes[9::2, 3] = NAN
            errors.append(judge_accuracy(votes, rng=rng(), draws=2).accuracy_J[0] - 0.85)
        assert np.sqrt(np.mean(np.square(errors))) < 0.06

    def test_the_answer_does_not_depend_on_which_answer_is_coded_one(self):
        votes, _ = votes_of([0.9, 0.8, 0.7], 500, missing=0.2)
        a, b = (judge_accuracy(v, rng=rng(), draws=2).accuracy_J for v in (votes, 1 - votes))
        assert a == pytest.approx(b, abs=1e-12)

    def test_a_judge_outside_every_triangle_is_not_identified(self):
        votes, _ = votes_of([0.9, 0.8, 0.7, 0.8, 0.8], 3000)
        votes[:1500, 3:] = NAN
        votes[1500:, :3] = NAN  # judges 3 and 4 share items with each other alone
        found = judge_accuracy(votes, rng=rng(), draws=20)
        assert found.identified_J.tolist() == [True, True, True, False, False]
        assert np.isnan(found.accuracy_J[3:]).all()
        assert np.isnan(found.se_J[3:]).all()
        assert found.shared_JJ[0, 3] == 0
        assert found.shared_JJ[3, 4] == 1500
        assert (found.se_J[:3] > 0).all()

    def test_two_judges_are_refused_with_advice(self):
        with pytest.raises(NotIdentifiable, match="third"):
            judge_accuracy(np.ones((5, 2)), rng=rng())

    def test_other_codes_are_refused(self):
        with pytest.raises(DataError, match="0 or 1"):
            judge_accuracy(np.full((4, 3), -1.0), rng=rng())

    def test_no_items_identify_nobody(self):
        found = judge_accuracy(np.full((0, 3), NAN), rng=rng())
        assert not found.identified_J.any()


class TestSoftLabels:
    @given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4), st.floats(0.05, 0.95), st.data())
    @settings(max_examples=60, deadline=None)
    def test_they_are_bayes_rule(self, accuracy, prior, data):
        votes = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=len(accuracy), max_size=4)))
        votes = votes[: len(accuracy)]
        chance = [1 - prior, prior]
        for truth in (0, 1):
            for vote, a in zip(votes, accuracy, strict=True):
                chance[truth] *= 1.0 if np.isnan(vote) else a if vote == truth else 1 - a
        found = soft_labels(votes[None], np.array(accuracy), prior=prior)
        assert found[0] == pytest.approx(chance[1] / sum(chance), abs=1e-9)

    def test_perfect_judges_that_disagree_leave_one_half_and_unknown_judges_have_no_say(self):
        assert soft_labels(np.array([[1.0, 0.0]]), np.array([1.0, 1.0]))[0] == pytest.approx(0.5)
        assert soft_labels(np.array([[1.0, 0.0]]), np.array([0.8, NAN]))[0] == pytest.approx(0.8)

    def test_they_are_calibrated_on_data_of_the_model(self):
        accuracy = np.array([0.9, 0.7, 0.6])
        votes, truth = votes_of(accuracy, 40_000, seed=9, missing=0.3)
        soft = soft_labels(votes, accuracy)
        for low in np.arange(0, 1, 0.2):
            inside = (soft >= low) & (soft < low + 0.2)
            assert truth[inside].mean() == pytest.approx(soft[inside].mean(), abs=0.02)
