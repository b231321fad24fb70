"""Positions in the scores of ragged prompts, each against a loop over lists that does the obvious.

The numbered invariants are those of section 6 of the pairing notes (docs/methods/pairing.md).
"""

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from pairwright.core import positions, segments
from pairwright.core.positions import Candidates

MODEST = settings(max_examples=40, deadline=None)
DDOF = pytest.mark.parametrize("ddof", [0, 1])

COARSE = st.integers(-6, 6).map(float)  # many exact ties
FINE = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)
HUGE = st.floats(allow_nan=False, allow_infinity=False)
K = st.one_of(st.sampled_from([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]), st.floats(-4, 4).filter(lambda k: abs(k) > 1e-3))


@dataclass
class Copy:
    """A distinct text of one prompt, the slow way."""

    score: float
    count: int
    row: int  # within the prompt


def prompts_of(score: st.SearchStrategy[float], *, texts: int = 4, most: int = 12) -> st.SearchStrategy:
    """Prompts as lists of (score, text code)."""
    row = st.tuples(score, st.integers(0, texts))
    return st.lists(st.lists(row, min_size=1, max_size=most), min_size=1, max_size=5)


PROMPTS = st.one_of(prompts_of(COARSE), prompts_of(FINE), prompts_of(FINE, texts=40, most=25))


def offsets(groups) -> np.ndarray:
    return np.concatenate(([0], np.cumsum([len(group) for group in groups]))).astype(np.int64)


def merged(prompts, *, with_texts: bool = True) -> Candidates:
    score_R = np.array([score for prompt in prompts for score, _ in prompt], float)
    text_R = np.array([text for prompt in prompts for _, text in prompt], np.uint64)
    return positions.distinct(score_R, offsets(prompts), text_R if with_texts else None)


def plain(*prompts) -> Candidates:
    """Every row a text of its own."""
    return positions.distinct(np.concatenate(prompts).astype(float), offsets(prompts))


def by_prompt(candidates: Candidates) -> list[list[Copy]]:
    """The candidates as lists, for the slow routes."""
    score, count, row = candidates.score_C.tolist(), candidates.count_C.tolist(), candidates.row_C.tolist()
    ends = candidates.start_P.tolist()
    return [[Copy(score[at], count[at], row[at]) for at in range(start, end)] for start, end in pairwise(ends)]


def expanded(prompt: list[Copy]) -> np.ndarray:
    """All rows of a prompt, each with the mean of its text."""
    return np.repeat([each.score for each in prompt], [each.count for each in prompt])


def within(picked_P, candidates: Candidates) -> list[int]:
    """Picks counted from the first candidate of their prompt; -1 stays."""
    return [int(at - start) if at >= 0 else -1 for at, start in zip(picked_P, candidates.start_P, strict=False)]


def pick(scores, k: float, ddof: int = 0) -> float:
    """The score nearest to mu + k*sigma of one prompt, by the code under test."""
    candidates = plain(scores)
    at = positions.sigma(candidates, positions.moments(candidates, ddof=ddof), k)[0]
    return float(candidates.score_C[at])


def slow_nearest(scores: np.ndarray, target: float, tol: float, side: float) -> int:
    """Rules (1) to (3) of the pseudo-code. Distances that lie on the edge of a tie are no test."""
    distance = np.abs(scores - target)
    beyond = distance - distance.min()
    assume(not np.any((beyond > tol * 0.4) & (beyond < tol * 2.5)))
    near = np.flatnonzero(beyond <= tol)
    if side == 0:
        return int(near[0])
    extreme = scores[near].min() if side < 0 else scores[near].max()
    return int(near[scores[near] == extreme][0])


class TestDistinct:
    @MODEST
    @given(PROMPTS)
    def test_copies_of_a_text_become_one_candidate_with_their_mean(self, prompts):
        candidates = merged(prompts)
        for start, prompt, found in zip(offsets(prompts), prompts, by_prompt(candidates), strict=False):
            texts = list(dict.fromkeys(text for _, text in prompt))  # in the order of their first row
            assert len(found) == len(texts)
            for text, copy in zip(texts, found, strict=True):
                rows = [at for at, (_, other) in enumerate(prompt) if other == text]
                scores = [prompt[at][0] for at in rows]
                assert copy.count == len(rows)
                assert copy.row == start + rows[0]
                assert copy.score == pytest.approx(math.fsum(scores) / len(scores), rel=1e-12, abs=1e-9)

    @MODEST
    @given(PROMPTS)
    def test_every_row_knows_its_candidate(self, prompts):
        candidates = merged(prompts)
        text_R = np.array([text for prompt in prompts for _, text in prompt])
        prompt_R = segments.owner(offsets(prompts))
        assert (text_R[candidates.row_C][candidates.candidate_R] == text_R).all()
        assert (segments.owner(candidates.start_P)[candidates.candidate_R] == prompt_R).all()
        assert np.bincount(candidates.candidate_R).tolist() == candidates.count_C.tolist()

    @settings(max_examples=100, deadline=None)
    @given(HUGE, st.integers(1, 30), HUGE)
    def test_the_mean_of_equal_scores_is_that_score_to_the_last_bit(self, score, copies, other):
        candidates = merged([[(score, 0)] * copies + [(other, 1)]])
        assert candidates.score_C.tolist() == [score, other]

    @MODEST
    @given(PROMPTS)
    def test_without_texts_every_row_is_a_candidate(self, prompts):
        candidates = merged(prompts, with_texts=False)
        assert candidates.score_C.tolist() == [score for prompt in prompts for score, _ in prompt]
        assert set(candidates.count_C.tolist()) == {1}
        assert candidates.start_P.tolist() == offsets(prompts).tolist()

    def test_the_same_text_of_two_prompts_stays_apart(self):
        candidates = merged([[(1.0, 7), (3.0, 7)], [(5.0, 7)]])
        assert candidates.score_C.tolist() == [2.0, 5.0]

    @MODEST
    @given(prompts_of(HUGE))
    def test_means_of_enormous_scores_stay_between_the_extremes(self, prompts):
        for prompt, found in zip(prompts, by_prompt(merged(prompts)), strict=True):
            low, high = min(score for score, _ in prompt), max(score for score, _ in prompt)
            slack = 1e-12 * max(-low, high)
            assert all(low - slack <= copy.score <= high + slack for copy in found)

    def test_no_rows_give_no_candidates(self):
        none = positions.distinct(np.zeros(0), np.array([0]), np.zeros(0, np.uint64))
        assert len(none.score_C) == len(none.candidate_R) == 0
        assert none.start_P.tolist() == [0]
        spread = positions.moments(none)
        for picked in (positions.minimum(none), positions.sigma(none, spread, -2), positions.rank(none, 1)):
            assert len(picked) == 0


class TestMoments:
    @DDOF
    @MODEST
    @given(prompts=PROMPTS)
    def test_they_are_those_of_numpy_and_scipy_on_all_rows(self, ddof, prompts):
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        for at, found in enumerate(by_prompt(candidates)):
            rows = expanded(found)
            size = np.abs(rows).max() + 1
            assert spread.n_P[at] == len(rows)
            assert spread.mean_P[at] == pytest.approx(rows.mean(), rel=1e-12, abs=1e-12 * size)
            if len(rows) == 1 and ddof == 1:
                assert math.isnan(spread.sd_P[at])
                continue
            assert spread.sd_P[at] == pytest.approx(rows.std(ddof=ddof), rel=1e-9, abs=1e-12 * size)
            if rows.std() > 1e-6 * size:
                assert spread.skewness_P[at] == pytest.approx(stats.skew(rows), rel=1e-6, abs=1e-6)

    @MODEST
    @given(HUGE, st.integers(1, 30))
    def test_equal_scores_have_no_spread_and_no_skewness(self, score, n):
        spread = positions.moments(plain([score] * n))
        assert spread.sd_P[0] == 0
        assert spread.mean_P[0] == score
        assert math.isnan(spread.skewness_P[0])

    @pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150, 1e300])
    def test_the_unit_of_the_scores_does_not_matter(self, scale):
        scores = np.array([1.0, 2.0, 4.0, 8.5])
        plainly, scaled = (positions.moments(plain(unit)) for unit in (scores, scores * scale))
        assert scaled.mean_P[0] == pytest.approx(plainly.mean_P[0] * scale)
        assert scaled.sd_P[0] == pytest.approx(plainly.sd_P[0] * scale)
        assert scaled.skewness_P[0] == pytest.approx(plainly.skewness_P[0])

    def test_scores_at_both_ends_of_the_floats_have_finite_moments(self):
        most = np.finfo(float).max
        spread = positions.moments(plain([most, -most, most, -most]))
        assert (spread.mean_P[0], spread.sd_P[0], spread.skewness_P[0]) == (0.0, most, 0.0)

    def test_a_far_offset_does_not_eat_the_spread(self):
        spread = positions.moments(plain(1e9 + np.arange(3)))
        assert spread.sd_P[0] == pytest.approx(np.arange(3).std(), rel=1e-12)


class TestFlags:
    @MODEST
    @given(PROMPTS)
    def test_zero_variance_is_an_sd_of_nothing_beside_the_mean(self, prompts):
        candidates = merged(prompts)
        spread = positions.moments(candidates)
        rows = [expanded(found) for found in by_prompt(candidates)]
        expected = [row.std() <= 1e-9 * max(1.0, abs(row.mean())) for row in rows]
        assert positions.zero_variance(spread).tolist() == expected

    def test_scores_one_bit_apart_are_the_same(self):
        spread = positions.moments(plain([0.1, np.nextafter(0.1, 1)], [0.0, -0.0], [0.1, 0.2]))
        assert positions.zero_variance(spread).tolist() == [True, True, False]

    def test_the_missing_sample_sd_of_a_single_row_is_no_variance(self):
        assert positions.zero_variance(positions.moments(plain([3.0]), ddof=1)).tolist() == [True]

    @MODEST
    @given(prompts_of(st.integers(0, 3).map(float), texts=30))
    def test_two_valued_is_exactly_two_distinct_scores(self, prompts):
        candidates = merged(prompts)
        expected = [len({copy.score for copy in found}) == 2 for found in by_prompt(candidates)]
        assert positions.two_valued(candidates).tolist() == expected

    @MODEST
    @given(PROMPTS)
    def test_z_is_the_distance_from_the_mean_in_sd(self, prompts):
        candidates = merged(prompts)
        spread = positions.moments(candidates)
        owner = segments.owner(candidates.start_P)
        z_C = positions.z(candidates.score_C, spread.mean_P[owner], spread.sd_P[owner])
        assert (np.isnan(z_C) == (spread.sd_P[owner] == 0)).all()
        good = spread.sd_P[owner] > 1e-6
        expected = (candidates.score_C - spread.mean_P[owner])[good] / spread.sd_P[owner][good]
        assert z_C[good] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        bound = np.sqrt(spread.n_P[owner] - 1) + 1e-9
        assert (np.abs(z_C[good]) <= bound[good]).all()


class TestExtremes:
    @MODEST
    @given(PROMPTS)
    def test_they_are_the_earliest_lowest_and_highest(self, prompts):
        candidates = merged(prompts)
        found = by_prompt(candidates)
        lowest = [min(range(len(each)), key=lambda at: each[at].score) for each in found]
        highest = [max(range(len(each)), key=lambda at: each[at].score) for each in found]
        assert within(positions.minimum(candidates), candidates) == lowest
        assert within(positions.maximum(candidates), candidates) == highest

    def test_equal_zeros_of_either_sign_fall_to_the_earlier(self):
        candidates = plain([0.0, -0.0], [-0.0, 0.0])
        assert positions.minimum(candidates).tolist() == positions.maximum(candidates).tolist() == [0, 2]


class TestSigma:
    @DDOF
    @settings(max_examples=100, deadline=None)
    @given(prompts=PROMPTS, k=K)
    def test_it_follows_the_three_tie_rules(self, ddof, prompts, k):
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        picked = within(positions.sigma(candidates, spread, k), candidates)
        for at, found in enumerate(by_prompt(candidates)):
            rows, scores = expanded(found), np.array([copy.score for copy in found])
            if len(rows) == 1:
                continue
            sd = rows.std(ddof=ddof)
            assume(sd == 0 or sd > 1e-3 * np.abs(rows).max())
            assert picked[at] == slow_nearest(scores, rows.mean() + k * sd, 1e-9 * sd, k)

    def test_of_two_at_the_same_distance_the_more_extreme_on_the_side_of_k_wins(self):
        scores = [0.0, 4.0, 4.0, 0.0, 2.0, 2.0]  # mean 2
        tied = positions.nearest(plain(scores), np.array([1.0]), side=-1, tol_P=np.array([0.0]))
        assert tied.tolist() == [0]  # 0 rather than 2
        tied = positions.nearest(plain(scores), np.array([1.0]), side=1, tol_P=np.array([0.0]))
        assert tied.tolist() == [4]  # 2 rather than 0, the earlier of both
        tied = positions.nearest(plain(scores), np.array([3.0]), side=0, tol_P=np.array([0.0]))
        assert tied.tolist() == [1]  # the earliest of all

    @DDOF
    @MODEST
    @given(prompts=PROMPTS, k=K)
    def test_no_candidate_is_nearer_to_the_target(self, ddof, prompts, k):  # invariant 6
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        picked = within(positions.sigma(candidates, spread, k), candidates)
        for at, found in enumerate(by_prompt(candidates)):
            if spread.n_P[at] == 1:
                continue
            distance = [abs(copy.score - (spread.mean_P[at] + k * spread.sd_P[at])) for copy in found]
            slack = positions.TIE * spread.sd_P[at] + positions.ROUNDING * abs(spread.mean_P[at])
            assert distance[picked[at]] <= min(distance) + slack

    @DDOF
    @MODEST
    @given(prompts=PROMPTS, k=K, further=st.floats(0, 3))
    def test_a_higher_k_never_picks_a_lower_score(self, ddof, prompts, k, further):  # invariant 5
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        usable = spread.n_P > 1
        low, high = (positions.sigma(candidates, spread, at)[usable] for at in (k, k + further))
        assert (candidates.score_C[low] <= candidates.score_C[high]).all()

    @DDOF
    @MODEST
    @given(prompts=st.one_of(prompts_of(COARSE), prompts_of(FINE)))
    def test_thousand_sigma_is_the_extreme(self, ddof, prompts):  # invariant 2
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        usable = (spread.sd_P > 0) & ~positions.zero_variance(spread)
        low, high = positions.sigma(candidates, spread, -1000), positions.sigma(candidates, spread, 1000)
        assert (low[usable] == positions.minimum(candidates)[usable]).all()
        assert (high[usable] == positions.maximum(candidates)[usable]).all()

    def test_thousand_sigma_is_the_extreme_of_a_million_rows(self):  # |z| <= sqrt(n - 1) < 1000
        scores = np.zeros(10**6)
        scores[[77, 78]] = -1e-3, -1.0
        candidates = plain(scores)
        spread = positions.moments(candidates)
        assert positions.sigma(candidates, spread, -1000).tolist() == [78]
        assert positions.sigma(candidates, spread, 1000).tolist() == [0]
        assert positions.n_same(-1000) > 10**6

    @MODEST
    @given(prompts_of(COARSE), st.sampled_from([0.25, 1.0, 3.0, 1e3]), st.integers(-1000, 1000), K)
    def test_scaling_and_shifting_leave_the_pick_and_turning_over_exchanges_the_sides(self, prompts, a, b, k):
        candidates = merged(prompts, with_texts=False)  # invariant 3
        spread = positions.moments(candidates)
        near_a_tie = []
        for at, found in enumerate(by_prompt(candidates)):
            distance = np.sort([abs(copy.score - spread.mean_P[at] - k * spread.sd_P[at]) for copy in found])
            steps = np.diff(distance)
            near_a_tie.append(bool(np.any((steps > 1e-11 * spread.sd_P[at]) & (steps < 1e-7 * spread.sd_P[at]))))
        assume(not any(near_a_tie))
        before = positions.sigma(candidates, spread, k)
        moved = candidates._replace(score_C=a * candidates.score_C + b)
        assert positions.sigma(moved, positions.moments(moved), k).tolist() == before.tolist()
        turned = candidates._replace(score_C=b - a * candidates.score_C)
        assert positions.sigma(turned, positions.moments(turned), -k).tolist() == before.tolist()

    @MODEST
    @given(st.lists(FINE, min_size=2, max_size=30, unique=True), K, st.randoms(use_true_random=False))
    def test_the_order_of_the_rows_does_not_matter(self, scores, k, shuffler):  # invariant 4
        rows = np.array(scores)
        sd = rows.std()
        assume(sd > 1e-3 * np.abs(rows).max())
        distance = np.sort(np.abs(rows - rows.mean() - k * sd))
        assume(distance[1] - distance[0] > 1e-6 * sd)
        again = list(scores)
        shuffler.shuffle(again)
        assert pick(again, k) == pick(scores, k)

    def test_28_scores_give_seven_positions_and_21_pairs(self):  # invariant 11
        scores = [-3.0, -2, -1, 1, 2, 3] + [0.0] * 22
        for ddof in (0, 1):
            candidates = plain(scores)
            spread = positions.moments(candidates, ddof=ddof)
            picked = [positions.minimum(candidates), positions.maximum(candidates)]
            picked += [positions.sigma(candidates, spread, k) for k in (-2, -1, 0, 1, 2)]
            values = sorted(candidates.score_C[at][0] for at in picked)
            assert values == [-3, -2, -1, 0, 1, 2, 3]
            assert len([pair for pair in combinations(values, 2) if pair[0] < pair[1]]) == 21

    @pytest.mark.parametrize(("n", "ddof", "score"), [(18, 0, 0.0), (19, 0, 1.0), (19, 1, 0.0), (20, 1, 1.0)])
    def test_a_lone_wrong_answer_is_lost_from_19_on(self, n, ddof, score):  # invariant 12
        assert pick([0.0] + [1.0] * (n - 1), -2, ddof) == score

    @pytest.mark.parametrize(("n", "ddof", "score"), [(6, 0, 0.0), (7, 0, 1.0), (7, 1, 0.0), (8, 1, 1.0)])
    def test_at_one_sigma_it_is_lost_from_7_on(self, n, ddof, score):
        assert pick([0.0] + [1.0] * (n - 1), -1, ddof) == score

    def test_the_achieved_position_tends_to_minus_two_while_the_minimum_keeps_falling(self):  # invariant 9
        rng = np.random.default_rng(11)
        achieved, lowest = [], []
        for n in (20, 200, 2000):
            candidates = plain(*rng.normal(size=(200, n)))
            spread = positions.moments(candidates)
            for out, at in (
                (achieved, positions.sigma(candidates, spread, -2)),
                (lowest, positions.minimum(candidates)),
            ):
                out.append(positions.z(candidates.score_C[at], spread.mean_P, spread.sd_P).mean())
        assert abs(achieved[2] + 2) < 0.01
        assert abs(achieved[2] + 2) < abs(achieved[0] + 2)
        assert lowest[0] > lowest[1] + 0.5 > lowest[2] + 0.9


def witness(n: int) -> list[float]:
    return [-1.0, -0.95] + [0.0] * (n - 2)


class TestSameAsTheExtreme:
    """The theorem: up to n_same(k) rows the candidate nearest to mu + k*sigma is the extreme one."""

    @pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 10), (3, 20)])
    def test_the_bounds_are_4_10_and_20_for_either_sd(self, k, n):
        assert {positions.n_same(sign * k, ddof=ddof) for sign in (-1, 1) for ddof in (0, 1)} == {n}

    @DDOF
    @MODEST
    @given(k=st.floats(0.05, 6))
    def test_n_same_is_the_last_n_that_the_condition_forbids(self, ddof, k):
        n = positions.n_same(k, ddof=ddof)
        for size, allowed in ((n, False), (n + 1, True)):
            left = size - 2 * k**2 - 2 if ddof == 0 else size**2 - (3 + 2 * k**2) * size + 2
            assume(abs(left) > 1e-6)
            assert (left > 0) == allowed

    def test_nothing_forces_the_extreme_at_the_mean(self):
        assert positions.n_same(0) == positions.n_same(-0.0, ddof=1) == 0

    @DDOF
    @pytest.mark.parametrize("k", [-3, -2, -1, 1, 2, 3])
    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_up_to_n_same_the_pick_has_the_score_of_the_extreme(self, ddof, k, data):  # invariant 1
        n = data.draw(st.integers(2, positions.n_same(k, ddof=ddof)))
        near = st.sampled_from([-1.0, -0.999, -0.95, -0.9, 0.0, 1e-3, 1.0])  # adversarial: all but the bound
        scores = data.draw(
            st.lists(st.one_of(near, FINE) if data.draw(st.booleans()) else near, min_size=n, max_size=n)
        )
        shift = data.draw(st.sampled_from([0.0, 1.0, 1e3, 1e6]))
        scores = (np.array(scores) * -np.sign(k) + shift).tolist()
        assume(np.std(scores) > 1e-9 * max(1.0, abs(np.mean(scores))))
        assert pick(scores, k, ddof) == (min(scores) if k < 0 else max(scores))

    @DDOF
    @pytest.mark.parametrize("offset", [0.0, 1e3, 1e6, 1e8])
    def test_rounding_does_not_break_it_far_from_zero(self, ddof, offset):
        for step in np.geomspace(1e-9, 0.3, 100):
            scores = np.array([-1.0, -1.0 + step] + [0.0] * 8) + offset
            candidates = plain(scores)
            if not positions.zero_variance(positions.moments(candidates, ddof=ddof))[0]:
                assert pick(scores, -2, ddof) == scores.min()

    @DDOF
    @pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 10), (3, 20)])
    def test_the_bound_is_sharp(self, ddof, k, n):
        assert pick(witness(n), -k, ddof) == -1.0
        assert pick(witness(n + 1), -k, ddof) == -0.95
        assert pick(-np.array(witness(n)), k, ddof) == 1.0
        assert pick(-np.array(witness(n + 1)), k, ddof) == 0.95

    @DDOF
    @pytest.mark.parametrize("k", [0.5, 0.75, 1.3, 1.5, 2.2, 2.5, 4.0, 5.0])
    def test_the_bound_is_sharp_between_the_whole_numbers_too(self, ddof, k):
        n = positions.n_same(k, ddof=ddof)
        close = [-1.0, -1.0 + 1e-4]
        assert pick(close + [0.0] * (n - 2), -k, ddof) == -1.0
        assert pick(close + [0.0] * (n - 1), -k, ddof) == close[1]


def equal_up_to_rounding(found: float, expected: float, rows: np.ndarray) -> bool:
    return abs(found - expected) <= 1e-12 * np.abs(rows).max()


class TestRobustPositions:
    @MODEST
    @given(PROMPTS, st.one_of(st.sampled_from([0.0, 0.0228, 0.25, 0.5, 1.0]), st.floats(0, 1)))
    def test_the_quantile_inverts_the_empirical_distribution(self, prompts, q):
        candidates = merged(prompts)
        picked = within(positions.quantile(candidates, q), candidates)
        for at, found in enumerate(by_prompt(candidates)):
            rows = np.sort(expanded(found))
            assume(abs(q * len(rows) - round(q * len(rows))) > 1e-6 or q * len(rows) == round(q * len(rows)))
            value = np.quantile(rows, q, method="inverted_cdf")
            assert found[picked[at]].score == value
            assert picked[at] == next(place for place, copy in enumerate(found) if copy.score == value)

    def test_the_quantile_counts_copies(self):
        candidates = merged([[(0.0, 0), (1.0, 1), (1.0, 1), (1.0, 1)]])
        assert [candidates.score_C[positions.quantile(candidates, q)][0] for q in (0.25, 0.26)] == [0.0, 1.0]

    @MODEST
    @given(PROMPTS)
    def test_median_and_mad_are_those_of_numpy_on_all_rows(self, prompts):
        candidates = merged(prompts)
        median_P, mad_P = positions.median_mad(candidates)
        for at, found in enumerate(by_prompt(candidates)):
            rows = expanded(found)
            assert equal_up_to_rounding(median_P[at], np.median(rows), rows)
            assert equal_up_to_rounding(mad_P[at], 1.4826 * np.median(np.abs(rows - np.median(rows))), rows)

    def test_the_median_of_enormous_scores_is_finite(self):
        assert positions.median_mad(plain([1e308, 1.2e308]))[0][0] == pytest.approx(1.1e308)

    @MODEST
    @given(PROMPTS, K)
    def test_robust_sigma_is_nearest_to_median_plus_k_mad_and_needs_a_mad(self, prompts, k):
        candidates = merged(prompts)
        picked = within(positions.robust_sigma(candidates, k), candidates)
        for at, found in enumerate(by_prompt(candidates)):
            rows, scores = expanded(found), np.array([copy.score for copy in found])
            median = np.median(rows)
            mad = 1.4826 * np.median(np.abs(rows - median))
            if mad == 0 and k != 0:
                assert picked[at] == -1
                continue
            assume(mad == 0 or mad > 1e-3 * np.abs(rows).max())
            assert picked[at] == slow_nearest(scores, median + k * mad, 1e-9 * mad, k)


class TestRank:
    @MODEST
    @given(PROMPTS, st.integers(-14, 14).filter(bool))
    def test_it_is_the_jth_of_a_stable_sort(self, prompts, j):
        candidates = merged(prompts)
        picked = within(positions.rank(candidates, j), candidates)
        for at, found in enumerate(by_prompt(candidates)):
            order = sorted(range(len(found)), key=lambda place: found[place].score * (-1 if j > 0 else 1))
            assert picked[at] == (order[abs(j) - 1] if abs(j) <= len(order) else -1)

    @MODEST
    @given(PROMPTS)
    def test_first_and_last_are_the_extremes(self, prompts):
        candidates = merged(prompts)
        assert positions.rank(candidates, 1).tolist() == positions.maximum(candidates).tolist()
        assert positions.rank(candidates, -1).tolist() == positions.minimum(candidates).tolist()


def keys_of(n: int) -> np.ndarray:
    return segments.mix(np.arange(n, dtype=np.uint64))


def drawn_rows(prompt_keys, size: int, m: int, seed: int = 0) -> np.ndarray:
    """Which of `size` rows each prompt draws: truths of shape (prompts, size). Every row is its own text."""
    count = len(prompt_keys)
    start_P = np.arange(count + 1) * size
    draw_R = segments.draw(seed, prompt_keys, np.tile(keys_of(size), count), start_P)
    candidates = positions.distinct(np.zeros(count * size), start_P)
    return positions.subset(candidates, draw_R, start_P, m).reshape(count, size)


class TestSubset:
    @MODEST
    @given(PROMPTS, st.integers(1, 8), st.integers(0, 2**64 - 1))
    def test_it_holds_the_texts_of_exactly_m_rows_or_of_all(self, prompts, m, seed):
        candidates, start_R = merged(prompts), offsets(prompts)
        row_keys = np.concatenate([keys_of(len(prompt)) for prompt in prompts])
        draw_R = segments.draw(seed, keys_of(len(prompts)), row_keys, start_R)
        drawn_C = positions.subset(candidates, draw_R, start_R, m)
        for start, end in pairwise(start_R):
            rows = sorted(range(start, end), key=lambda row: draw_R[row])[:m]
            assert len(rows) == min(m, end - start)
            mine = set(candidates.candidate_R[start:end].tolist())
            assert {at for at in mine if drawn_C[at]} == set(candidates.candidate_R[rows].tolist())

    def test_without_copies_the_subset_has_m_candidates(self):
        assert set(drawn_rows(keys_of(50), 9, 4).sum(axis=1).tolist()) == {4}
        assert drawn_rows(keys_of(50), 9, 9).all()
        assert drawn_rows(keys_of(50), 9, 99).all()

    def test_it_does_not_depend_on_the_order_of_rows_nor_on_other_prompts(self):  # invariant 13
        size, m = 12, 5
        together = drawn_rows(keys_of(40), size, m)
        assert (drawn_rows(keys_of(40)[7:8], size, m) == together[7]).all()
        order = np.random.default_rng(3).permutation(size)
        start = np.array([0, size])
        draw_R = segments.draw(0, keys_of(40)[7:8], keys_of(size)[order], start)
        shuffled = positions.subset(positions.distinct(np.zeros(size), start), draw_R, start, m)
        assert set(order[shuffled].tolist()) == set(np.flatnonzero(together[7]).tolist())

    @pytest.mark.parametrize("over", ["prompts", "seeds"])
    def test_every_subset_is_as_likely_as_any_other(self, over):
        # fixed seeds: never flaky. A fair draw would fall below this p for one choice of them in a million
        if over == "prompts":
            drawn = drawn_rows(keys_of(6000), 6, 2)
        else:
            drawn = np.concatenate([drawn_rows(keys_of(1), 6, 2, seed) for seed in range(1500)])
        seen = np.bincount(drawn @ (1 << np.arange(6)), minlength=64)
        counts = [seen[1 << a | 1 << b] for a, b in combinations(range(6), 2)]
        assert sum(counts) == len(drawn)
        assert stats.chisquare(counts).pvalue > 1e-6

    @MODEST
    @given(PROMPTS, st.integers(1, 8))
    def test_min_of_and_max_of_are_the_extremes_of_the_drawn(self, prompts, m):
        candidates, start_R = merged(prompts), offsets(prompts)
        drawn_C = positions.subset(candidates, keys_of(start_R[-1]), start_R, m)
        low, high = positions.min_of(candidates, drawn_C), positions.max_of(candidates, drawn_C)
        for at, (start, end) in enumerate(zip(candidates.start_P, candidates.start_P[1:], strict=False)):
            mine = [place for place in range(start, end) if drawn_C[place]]
            assert low[at] == min(mine, key=lambda place: candidates.score_C[place])
            assert high[at] == max(mine, key=lambda place: candidates.score_C[place])

    @MODEST
    @given(PROMPTS)
    def test_min_of_all_rows_is_the_minimum(self, prompts):  # invariant 9
        candidates, start_R = merged(prompts), offsets(prompts)
        drawn_C = positions.subset(candidates, keys_of(start_R[-1]), start_R, 12_000)
        assert positions.min_of(candidates, drawn_C).tolist() == positions.minimum(candidates).tolist()
        assert positions.max_of(candidates, drawn_C).tolist() == positions.maximum(candidates).tolist()

    @pytest.mark.parametrize("n", [5, 20])
    def test_min_of_5_normal_scores_is_minus_1_163_on_average_and_its_rank_as_in_theory(self, n):  # invariant 9
        # fixed seeds: never flaky; 4.5 standard errors are a false red for one choice of them in 150,000
        count, m = 8000, 5
        scores = np.random.default_rng(20_250_222).normal(size=(count, n))
        candidates = plain(*scores)
        drawn = drawn_rows(keys_of(count), n, m)
        at = positions.min_of(candidates, drawn.ravel())
        assert abs(candidates.score_C[at].mean() + 1.163) < 4.5 * 0.669 / np.sqrt(count)
        rank = (scores <= candidates.score_C[at][:, None]).sum(axis=1)
        sd = np.sqrt(m * (n + 1) * (n - m) / (m + 2)) / (m + 1)  # of the lowest rank of m out of n
        assert abs(rank.mean() - (n + 1) / (m + 1)) <= 4.5 * sd / np.sqrt(count)


class TestUniform:
    def test_it_takes_each_of_the_others_equally_often_and_never_the_chosen(self):  # fault F26
        count, size = 9000, 4
        start = np.arange(count + 1) * size
        candidates = positions.distinct(np.tile([3.0, 9.0, 1.0, 5.0], count), start)
        draw = segments.draw(5, keys_of(count), np.tile(keys_of(size), count), start)
        place = positions.uniform(candidates, draw, positions.maximum(candidates)) % size
        counts = np.bincount(place, minlength=size)
        assert counts[1] == 0
        # fixed seeds: never flaky; a fair draw would fall below this p for one choice of them in a million
        assert stats.chisquare(counts[[0, 2, 3]]).pvalue > 1e-6
        alone = np.bincount(positions.uniform(candidates, draw) % size, minlength=size)
        assert stats.chisquare(alone).pvalue > 1e-6

    def test_the_only_candidate_is_nobody_when_the_other_side_has_it(self):
        candidates = plain([1.0], [1.0, 2.0])
        assert positions.uniform(candidates, keys_of(3), np.array([0, 1])).tolist() == [-1, 2]
        assert positions.uniform(candidates, keys_of(3), np.array([-1, -1]))[0] == 0


class TestRelativeToTheChosen:
    @MODEST
    @given(prompts_of(COARSE, texts=40), st.sampled_from([0.5, 1.0, 2.0, 7.0]), st.booleans())
    def test_threshold_is_the_best_that_stands_the_gap_below(self, prompts, gap, best):
        candidates = merged(prompts)
        chosen = positions.maximum(candidates) if best else positions.rank(candidates, 2)
        found = positions.threshold(candidates, chosen, gap)
        for at, (start, end) in enumerate(zip(candidates.start_P, candidates.start_P[1:], strict=False)):
            scores = candidates.score_C
            passing = (
                [] if chosen[at] < 0 else [c for c in range(start, end) if scores[c] - scores[chosen[at]] <= 1e-9 - gap]
            )
            assert found[at] == max(passing, key=lambda c: scores[c], default=-1)

    def test_threshold_never_gives_the_chosen_score_however_small_the_gap(self):
        candidates = plain([1.0, 1.0, 0.5])
        assert positions.threshold(candidates, np.array([0]), 1e-12).tolist() == [2]

    def test_threshold_lets_rounding_pass(self):
        candidates = plain([0.3, 0.2, 0.0])  # 0.3 - 0.2 < 0.1 in floats
        assert positions.threshold(candidates, np.array([0]), 0.1).tolist() == [1]

    @MODEST
    @given(prompts_of(COARSE, texts=40), st.lists(st.integers(0, 9), min_size=60, max_size=60), st.booleans())
    @example([[(3.0, 0)]], [0] * 60, False)
    def test_length_matched_is_the_nearest_in_length_within_the_band(self, prompts, lengths, best):
        candidates = merged(prompts)
        spread = positions.moments(candidates)
        chosen = positions.maximum(candidates) if best else positions.rank(candidates, 2)
        length = np.array(lengths, float)[: len(candidates.score_C)]
        found = positions.length_matched(candidates, spread, chosen, length, low=-1.51, high=0.53)
        for at, (start, end) in enumerate(zip(candidates.start_P, candidates.start_P[1:], strict=False)):
            scores, fits = candidates.score_C, []
            if chosen[at] >= 0 and spread.sd_P[at] > 0:
                z = (scores - spread.mean_P[at]) / spread.sd_P[at]
                assume(np.all(np.abs(z[start:end] + 1.51) > 1e-9) and np.all(np.abs(z[start:end] - 0.53) > 1e-9))
                fits = [c for c in range(start, end) if -1.51 <= z[c] <= 0.53 and scores[c] < scores[chosen[at]]]
            assert found[at] == min(fits, key=lambda c: abs(length[c] - length[chosen[at]]), default=-1)


class TestAnyFiniteScore:
    """Scores up to the largest float: no warning (warnings are errors here), and every pick is a row of its prompt."""

    @DDOF
    @settings(max_examples=100, deadline=None)
    @given(prompts=prompts_of(HUGE), k=K)
    @example(prompts=[[(1e308, 0), (-1e308, 1)], [(1.7e308, 0), (-1.7e308, 1), (0.0, 2)]], k=-2.0)
    @example(prompts=[[(5e-324, 0), (0.0, 1)], [(1e-308, 0), (-1e-308, 1), (1e308, 2)]], k=2.0)
    def test_every_rule_gives_a_row_of_the_prompt(self, ddof, prompts, k):
        candidates = merged(prompts)
        spread = positions.moments(candidates, ddof=ddof)
        best = positions.maximum(candidates)
        drawn_C = positions.subset(candidates, keys_of(offsets(prompts)[-1]), offsets(prompts), 3)
        picks = {
            "min": positions.minimum(candidates),
            "sigma": positions.sigma(candidates, spread, k),
            "quantile": positions.quantile(candidates, 0.3),
            "rank": positions.rank(candidates, 1),
            "min_of": positions.min_of(candidates, drawn_C),
            "mad": positions.robust_sigma(candidates, k),
            "threshold": positions.threshold(candidates, best, 0.5),
            "length": positions.length_matched(candidates, spread, best, candidates.score_C * 0, low=-3, high=0),
        }
        allowed_to_miss = {"mad", "threshold", "length"} | ({"sigma"} if ddof else set())
        for name, picked_P in picks.items():
            inside = (picked_P >= candidates.start_P[:-1]) & (picked_P < candidates.start_P[1:])
            missing = (picked_P == -1) & (name in allowed_to_miss)
            assert (inside | missing).all(), name
        positions.two_valued(candidates)
        positions.zero_variance(spread)
