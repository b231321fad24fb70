"""Robust comparisons: LAD by three routes, the cut bound, flags and refusals.

The numbered invariants are those of the cleaning notes (docs/cleaning.md).
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq, linprog

from pairwright.core import lad, orders, ratings, robust
from pairwright.core.comparisons import Comparisons, all_pairs, gather, merged, only, renumbered
from pairwright.core.robust import STATUSES, Flagging, repair
from pairwright.errors import ConfigError, NotConverged, NotIdentifiable

MODEST = settings(max_examples=40, deadline=None)


def graph(sizes: list[int], share: float = 1.0, seed: int = 0) -> Comparisons:
    start = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    left, right = all_pairs(start)
    kept = np.random.default_rng(seed).random(len(left)) < share
    zero = np.zeros(int(kept.sum()))
    return Comparisons(left[kept], right[kept], zero, zero + 1, zero, zero, start)


def differences(pairs: Comparisons, w: np.ndarray) -> np.ndarray:
    return w[pairs.left_I] - w[pairs.right_I]


def voted(
    sizes: list[int], *, votes: int = 20, flipped: float = 0.0, share: float = 1.0, spread: float = 1.0, seed: int = 0
) -> tuple[Comparisons, np.ndarray, np.ndarray]:
    """Votes of the model; a share of pairs has its favourite lose with 0.98: (pairs, truth, which are flipped)."""
    rng = np.random.default_rng(seed)
    pairs = graph(sizes, share, seed)
    truth = rng.normal(size=int(pairs.item_start_P[-1])) * spread
    p = ratings.win_probability(differences(pairs, truth))
    bad = rng.random(len(p)) < flipped
    p = np.where(bad, np.where(p > 0.5, 0.02, 0.98), p)
    full = np.full(len(p), float(votes))
    return pairs._replace(wins_I=rng.binomial(votes, p).astype(float), votes_I=full), truth, bad


def status(told: robust.Repair) -> list[str]:
    return [STATUSES[code] for code in told.status_C]


def primal(pairs: Comparisons, m: np.ndarray, weight: np.ndarray) -> float:
    """Least objective by the linear program in w and |residual|, dense: the slow way."""
    n, e = int(pairs.item_start_P[-1]), len(m)
    b = np.zeros((e, n))
    b[np.arange(e), pairs.left_I], b[np.arange(e), pairs.right_I] = 1, -1
    sides = np.block([[b, -np.eye(e)], [-b, -np.eye(e)]])
    bounds = [(None, None)] * n + [(0, None)] * e
    return linprog(np.append(np.zeros(n), weight), A_ub=sides, b_ub=np.append(m, -m), bounds=bounds).fun


class TestLeastAbsoluteDeviations:
    @given(seed=st.integers(0, 10**6), n=st.integers(2, 8), share=st.floats(0.3, 1.0), coarse=st.booleans())
    @MODEST
    def test_exact_routes_reach_the_primal_optimum(self, seed, n, share, coarse):
        rng = np.random.default_rng(seed)
        pairs = graph([n], share, seed)
        m, weight = rng.normal(size=len(pairs.left_I)), rng.uniform(0.5, 2, len(pairs.left_I))
        if coarse:
            m, weight = np.round(m), np.ones(len(m))
        best = primal(pairs, m, weight) if len(m) else 0.0
        for route in (lad.lad_cuts, lad.lad_program):
            told = route(pairs, m, weight)
            assert told.converged_P.all()
            assert lad.objective(pairs, told, weight)[0] == pytest.approx(best, abs=1e-8)

    def test_exact_routes_agree_on_twenty_random_problems(self):
        pairs = graph([3, 4, 5, 6, 7] * 4)
        rng = np.random.default_rng(1)
        m, weight = rng.normal(size=len(pairs.left_I)), rng.uniform(0.5, 2, len(pairs.left_I))
        one, other = lad.lad_cuts(pairs, m, weight), lad.lad_program(pairs, m, weight)
        assert one.unique_P.all()
        assert other.unique_P.all()
        np.testing.assert_allclose(one.strength_R, other.strength_R, atol=1e-7)

    def test_routes_agree_on_which_answers_are_unique(self):
        pairs, *_ = voted([5, 4, 6] * 20, votes=2, flipped=0.2)
        m, weight = pairs.wins_I - 1, np.ones(len(pairs.left_I))
        one, other = lad.lad_cuts(pairs, m, weight).unique_P, lad.lad_program(pairs, m, weight).unique_P
        assert 5 < one.sum() < 55
        assert np.mean(one == other) > 0.96  # a nudge may miss a tie

    def test_reweighting_says_how_far_off_it_is(self):
        pairs, *_ = voted([12, 30, 60], flipped=0.1)
        p = robust.smoothed(pairs.wins_I, pairs.votes_I)
        m, weight = np.log(p / (1 - p)), robust.omega(p, pairs.votes_I)
        rough, exact = lad.lad_irls(pairs, m, weight), lad.lad_program(pairs, m, weight)
        assert rough.converged_P.all()
        zero = np.array([(weight * np.abs(m))[k].sum() for k in np.split(np.arange(len(m)), [66, 66 + 435])])
        loss = lad.objective(pairs, rough, weight) - lad.objective(pairs, exact, weight)
        assert (loss >= -1e-9).all()
        assert (loss <= rough.gap_P * zero).all()
        assert np.abs(rough.strength_R - exact.strength_R).max() < 0.1

    def test_reweighting_that_stops_early_says_so(self):
        pairs, *_ = voted([12], flipped=0.1)
        told = lad.lad_irls(pairs, pairs.wins_I - 10, np.ones(len(pairs.left_I)), max_iter=2)
        assert not told.converged_P[0]
        assert told.gap_P[0] > 1e-3

    def test_mixed_sizes_go_to_both_routes(self):
        pairs = graph([4, 11, 8, 9, 1])
        w = np.random.default_rng(0).normal(size=33)
        told = lad.lad(pairs, differences(pairs, w), np.ones(len(pairs.left_I)))
        assert np.abs(told.residual_I).max() < 1e-9
        assert told.unique_P.all()

    def test_parts_without_a_pair_between_them_leave_nothing_open(self):
        full = graph([6])
        pairs = only(full, (full.left_I >= 3) == (full.right_I >= 3))
        told = lad.lad_cuts(pairs, differences(pairs, np.arange(6.0) ** 2), np.ones(6))
        assert told.unique_P[0]
        np.testing.assert_allclose(told.strength_R, [-5 / 3, -2 / 3, 7 / 3, -23 / 3, -2 / 3, 25 / 3])

    def test_cuts_refuse_what_is_too_large(self):
        pairs = graph([9])
        with pytest.raises(ConfigError, match="lad_program"):
            lad.lad_cuts(pairs, np.zeros(36), np.ones(36))


@pytest.mark.parametrize("n", [4, 5, 6, 8, 12, 20])
class TestCutBound:  # invariant 4
    def at_one_item(self, n: int, wrong: int, shift: float) -> tuple[lad.Lad, np.ndarray]:
        pairs = graph([n])
        w = np.random.default_rng(n).normal(size=n)
        m = differences(pairs, w)
        m[:wrong] += shift  # the first n - 1 pairs are those of item 0
        return lad.lad(pairs, m, np.ones(len(m))), w - w.mean()

    def test_up_to_the_bound_any_error_is_undone(self, n):
        for shift in (5.0, 50.0, -5e6):
            told, w = self.at_one_item(n, (n - 2) // 2, shift)
            np.testing.assert_allclose(told.strength_R, w, atol=1e-7)
            assert told.unique_P[0]

    def test_half_of_the_cut_leaves_it_open(self, n):
        if n % 2:
            assert not self.at_one_item(n, (n - 1) // 2, 5.0)[0].unique_P[0]

    def test_beyond_the_bound_the_error_wins(self, n):
        told, w = self.at_one_item(n, n // 2 + (n % 2), 5.0)
        assert np.abs(told.strength_R - w).max() > 1


class TestSymmetry:  # invariant 2
    @pytest.mark.parametrize("n", [6, 12])
    def test_permuting_negating_and_shifting(self, n):
        pairs, truth, _ = voted([n], flipped=0.1, seed=n)
        order = np.random.default_rng(0).permutation(n)
        told = repair(pairs)
        moved = repair(renumbered(pairs, order, pairs.item_start_P)[0])
        turned = repair(pairs._replace(wins_I=pairs.votes_I - pairs.wins_I))
        np.testing.assert_allclose(moved.strength_R, told.strength_R[order], atol=1e-9)
        np.testing.assert_allclose(turned.strength_R, -told.strength_R, atol=1e-9)
        assert moved.flagged_I.sum() == told.flagged_I.sum()
        weight = np.ones(len(pairs.left_I))
        shifted = lad.lad(pairs, differences(pairs, truth + 7), weight)
        np.testing.assert_allclose(shifted.strength_R, truth - truth.mean(), atol=1e-9)

    def test_more_votes_of_the_same_keep_the_order(self):
        pairs, truth, _ = voted([8], votes=1)
        p = ratings.win_probability(differences(pairs, truth))
        for votes in (10.0, 10_000.0):
            told = repair(pairs._replace(wins_I=votes * p, votes_I=np.full(len(p), votes)))
            assert orders.order_error(told.strength_R, truth, pairs.item_start_P)[0] == 0


class TestStatistic:
    @given(votes=st.integers(1, 500), wins=st.floats(0, 1))
    @MODEST
    def test_smoothing_keeps_log_odds_finite(self, votes, wins):  # invariant 11
        p = robust.smoothed(np.array([wins * votes, (1 - wins) * votes]), np.full(2, float(votes)))
        assert p.sum() == pytest.approx(1)
        assert np.abs(np.log(p / (1 - p))).max() <= np.log(2 * votes + 1) + 1e-9

    @pytest.mark.parametrize(("votes", "value"), [(1, 0.967), (5, 0.80), (20, 0.47)])
    def test_least_testable_favourite_as_tabulated(self, votes, value):
        assert robust.least_testable(np.array([float(votes)]))[0] == pytest.approx(value, abs=0.005)

    @pytest.mark.parametrize("votes", [1.0, 2.0, 3.0, 5.0, 20.0, 100.0])
    def test_least_testable_favourite_is_where_the_statistic_crosses(self, votes):  # invariant 9
        against = robust.smoothed(np.array([0.0]), np.array([votes]))

        def excess(p: float) -> float:
            return float(robust.flag_statistic(against, np.array([p]), np.array([votes]))[0]) + 4

        found = brentq(excess, against[0], 1 - 1e-12)
        assert robust.least_testable(np.array([votes]))[0] == pytest.approx(found, rel=1e-6)

    def test_least_testable_falls_with_votes(self):
        assert (np.diff(robust.least_testable(np.arange(1.0, 200))) < 0).all()

    @pytest.mark.parametrize("link", robust.LINKS)
    def test_weights_are_one_over_the_simulated_sd(self, link):
        rng = np.random.default_rng(0)
        for p in (0.3, 0.5, 0.8):
            drawn = robust.smoothed(rng.binomial(400, p, 20_000).astype(float), np.full(20_000, 400.0))
            weight = robust.omega(np.array([p]), np.array([400.0]), link)[0]
            assert robust.LINKS[link].forward(drawn).std() * weight == pytest.approx(1, rel=0.03)

    @pytest.mark.parametrize("link", robust.LINKS)
    def test_links_invert_and_are_odd(self, link):
        law, p = robust.LINKS[link], np.linspace(0.01, 0.99, 21)
        np.testing.assert_allclose(law.inverse(law.forward(p)), p, atol=1e-12)
        np.testing.assert_allclose(law.forward(1 - p), -law.forward(p), atol=1e-12)

    def test_noise_free_outliers_are_the_planted_ones(self):
        pairs = graph([10])
        w = np.random.default_rng(0).normal(size=10)
        m = differences(pairs, w)
        m[[3, 30]] += 2.0
        told = lad.lad(pairs, m, np.ones(len(m)))
        assert np.flatnonzero(robust.outliers(pairs, m, told.strength_R)).tolist() == [3, 30]


class TestRepair:
    @pytest.mark.parametrize("sizes", [[6] * 30, [12, 20]])
    def test_with_nothing_flagged_it_is_the_plain_fit_to_the_bit(self, sizes):  # invariant 6
        pairs, *_ = voted(sizes, spread=0.7)
        told = repair(pairs)
        plain = ratings.fit_newton(pairs).strength_R
        assert (told.plain_R == plain).all()
        fitted = np.isin(told.status_C, [STATUSES.index("ok"), STATUSES.index("separated")])[told.problem_R]
        fitted &= (np.bincount(told.problem_R[pairs.left_I], told.flagged_I, len(sizes)) == 0)[told.problem_R]
        assert fitted.mean() > 0.6
        assert (told.strength_R == plain)[fitted].all()

    def test_flipped_pairs_are_found_and_the_rest_fits_better(self):
        errors = []
        for seed in range(5):
            pairs, truth, bad = voted([30], flipped=0.1, seed=seed)
            told = repair(pairs)
            stake = np.abs(differences(pairs, truth))
            assert stake[told.flagged_I & bad].sum() > 0.7 * stake[bad].sum()  # recall by what is at stake
            assert (told.flagged_I & ~bad).sum() <= 0.1 * told.flagged_I.sum() + 1
            clean = ratings.fit_newton(only(pairs, ~bad)).strength_R
            errors.append([np.abs(w - clean).mean() for w in (told.plain_R, told.lad_R, told.strength_R)])
        plain, rough, again = np.mean(errors, axis=0)
        assert again < rough < plain

    def test_refit_is_the_fit_without_the_flagged(self):
        pairs, *_ = voted([10, 5, 12], flipped=0.08, seed=2)
        told = repair(pairs)
        assert told.flagged_I.any()
        assert status(told) == ["ok"] * 3
        without = ratings.fit_newton(only(pairs, ~told.flagged_I)).strength_R
        np.testing.assert_allclose(told.strength_R, without, atol=1e-12)
        np.testing.assert_allclose(told.proposed_I, ratings.win_probability(differences(pairs, told.strength_R)))
        np.testing.assert_allclose(told.margin_I, np.abs(differences(pairs, told.strength_R)))

    def test_safe_never_exceeds_the_cap(self):
        pairs, *_ = voted([5] * 60, votes=40, flipped=0.15, spread=1.5)
        told = repair(pairs)
        count = np.bincount(told.problem_R[pairs.left_I], told.flagged_I, 60)
        safe = np.bincount(told.problem_R[pairs.left_I], told.safe_I, 60)
        assert (safe <= told.redundancy.cap_safe_P).all()
        assert (safe[count > told.redundancy.cap_safe_P] == 0).all()
        assert (count > told.redundancy.cap_safe_P).any()
        assert safe.any()

    def test_flags_fall_with_the_threshold(self):  # invariant 9
        pairs, *_ = voted([10] * 5, flipped=0.1, votes=40)
        flagged = [repair(pairs, Flagging(z0=z0, min_testable=1e-9)).flagged_I for z0 in (2.0, 3.0, 4.0, 6.0)]
        assert all((more | ~less).all() for more, less in pairwise(flagged))
        assert flagged[0].sum() > flagged[-1].sum() > 0

    def test_data_of_the_model_is_hardly_ever_flagged(self):
        pairs, truth, _ = voted([30] * 20, votes=60, spread=0.5, seed=9)
        p = ratings.win_probability(differences(pairs, truth))
        moderate = (p > 0.1) & (p < 0.9)
        assert repair(pairs).flagged_I[moderate].mean() < 5e-4

    def test_thurstone_votes_are_read_by_their_own_link(self):
        rng = np.random.default_rng(0)
        pairs = graph([12])
        truth = rng.normal(size=12)
        p = stats.norm.cdf(differences(pairs, truth))
        full = np.full(len(p), 2000.0)
        wins = rng.binomial(2000, p).astype(float)
        told = repair(pairs._replace(wins_I=wins, votes_I=full), Flagging(link="probit", z0=6))
        np.testing.assert_allclose(told.lad_R, truth - truth.mean(), atol=0.15)
        np.testing.assert_allclose(told.proposed_I, ratings.win_probability(differences(pairs, told.strength_R)))
        flat, *_ = voted([10], votes=2, spread=0.3, seed=4)
        weak = repair(flat, Flagging(link="probit"))
        assert status(weak) == ["no_power"]
        np.testing.assert_allclose(weak.proposed_I, ratings.win_probability(differences(flat, weak.plain_R)))

    def test_inputs_stay_untouched(self):  # invariant 15
        pairs, *_ = voted([6, 12], flipped=0.2)
        before = [column.copy() for column in pairs]
        repair(pairs)
        assert all((now == then).all() for now, then in zip(pairs, before, strict=True))

    def test_prompts_do_not_talk_to_each_other(self):
        pairs, *_ = voted([5, 7, 5, 4], flipped=0.2, seed=5)
        whole = repair(pairs)
        start = pairs.item_start_P
        own = only(pairs, (pairs.left_I >= start[1]) & (pairs.left_I < start[2]))
        alone = repair(own._replace(left_I=own.left_I - 5, right_I=own.right_I - 5, item_start_P=np.array([0, 7])))
        rows = (pairs.left_I >= 5) & (pairs.left_I < 12)
        np.testing.assert_allclose(alone.strength_R, whole.strength_R[5:12], atol=1e-12)
        assert (alone.flagged_I == whole.flagged_I[rows]).all()


class TestStatus:
    def test_two_responses_cannot_be_questioned(self):  # invariant 5
        pairs, _ = gather(np.array([0, 1]), np.array([1, 0]), np.ones(2), np.array([0, 2]))
        told = repair(pairs)
        assert status(told) == ["not_identifiable"]
        assert not told.flagged_I.any()
        assert (told.strength_R == ratings.fit_newton(pairs).strength_R).all()

    def test_a_cycle_of_three_is_detected_and_not_located(self):
        left, right = np.array([0, 1, 2]), np.array([1, 2, 0])
        pairs, _ = gather(left, right, np.ones(3), np.array([0, 3]), weight_V=np.full(3, 50.0))
        told = repair(pairs)
        assert status(told) == ["detect_only"]
        assert told.tension_C[0] > 1
        assert not told.safe_I.any()
        np.testing.assert_allclose(told.strength_R, 0, atol=1e-9)

    def test_few_votes_have_no_power(self):
        pairs, *_ = voted([10], votes=2, spread=0.3, seed=4)
        told = repair(pairs)
        assert status(told) == ["no_power"]
        assert (told.strength_R == told.plain_R).all()

    def test_one_vote_is_never_flagged(self):
        pairs = graph([15])
        votes = np.random.default_rng(0).integers(180, 220, 105).astype(float)
        wins = np.round(votes * ratings.win_probability(differences(pairs, np.linspace(2.5, -2.5, 15) ** 3 / 6)))
        wins[13] = 0.0  # first against last
        for count, flagged in ((1.0, False), (2.0, True)):
            votes[13] = count
            told = repair(pairs._replace(wins_I=wins, votes_I=votes))
            assert status(told) == ["ok"]
            assert abs(told.z_I[13]) > 4
            assert told.flagged_I[13] == flagged

    def test_half_a_cut_is_ambiguous(self):
        pairs = graph([5])
        wins = np.full(10, 10.0)  # all equal
        wins[:2] = 18.0  # two of the four pairs of item 0, at the same weight as the other two
        wins[2:4] = 2.0
        told = repair(pairs._replace(wins_I=wins, votes_I=np.full(10, 20.0)))
        assert status(told) == ["ambiguous"]
        assert not told.flagged_I.any()

    def test_a_winner_of_everything_is_separated(self):
        pairs, *_ = voted([6], votes=40, spread=0.3)
        wins = pairs.wins_I.copy()
        wins[pairs.left_I == 0] = 40.0
        told = repair(pairs._replace(wins_I=wins))
        assert status(told) == ["separated"]
        assert np.isfinite(told.strength_R).all()

    def test_when_the_rest_falls_apart_it_is_contested(self, monkeypatch):
        pairs, *_ = voted([6], votes=50)
        off = np.zeros(6)
        off[0] = 30.0  # a fit that goes through no pair of item 0

        def elsewhere(pairs: Comparisons, m: np.ndarray, weight: np.ndarray) -> lad.Lad:
            told = lad.lad_cuts(pairs, m, weight)
            return told._replace(strength_R=told.strength_R + off)

        monkeypatch.setattr(robust, "lad", elsewhere)
        told = repair(pairs)
        assert status(told) == ["contested"]
        assert (told.strength_R == told.lad_R).all()
        assert told.flagged_I.sum() == 5
        assert not told.safe_I.any()

    def test_what_has_not_settled_is_not_given_out(self, monkeypatch):  # rule 7
        pairs, *_ = voted([6, 5], flipped=0.2)
        monkeypatch.setattr(robust, "lad", lambda *of: lad.lad_cuts(*of, max_iter=1))
        with pytest.raises(NotConverged, match="prompt 0"):
            repair(pairs)
        told = repair(pairs, strict=False)
        assert status(told) == ["not_converged"] * 2
        assert np.isnan(told.strength_R).all()
        assert np.isnan(told.proposed_I).all()
        assert not told.flagged_I.any()

    def test_a_refit_that_has_not_settled_is_not_given_out(self, monkeypatch):
        pairs, *_ = voted([10, 9], flipped=0.1, seed=2)
        assert repair(pairs).flagged_I.any()

        def stuck(pairs: Comparisons, **how) -> ratings.Fit:
            fit = ratings.fit_newton(pairs, **how)
            return fit if len(pairs.left_I) == 45 + 36 else replace(fit, converged_P=fit.converged_P & False)

        monkeypatch.setattr(robust, "fit_newton", stuck)
        told = repair(pairs, strict=False)
        lost_R = (told.status_C == STATUSES.index("not_converged"))[told.problem_R]
        assert lost_R.any()
        assert np.isnan(told.strength_R[lost_R]).all()
        assert not told.flagged_I[lost_R[pairs.left_I]].any()

    def test_pairs_derived_from_scores_are_refused(self):  # invariant 10
        with pytest.raises(NotIdentifiable, match="derived_pairs"):
            repair(graph([4]), derived=True)

    def test_parts_of_a_prompt_are_problems_of_their_own(self):  # rule 2
        full, *_ = voted([5, 5, 3], seed=3)
        order = np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9, 10, 11, 12])
        mixed, row_I = renumbered(full, np.argsort(order), np.array([0, 10, 13]))
        told, apart = repair(mixed), repair(full)
        assert told.prompt_C.tolist() == [0, 0, 1]
        assert told.redundancy.cap_safe_P.tolist() == [1, 1, 0]
        np.testing.assert_allclose(told.strength_R[order], apart.strength_R, atol=1e-9)
        np.testing.assert_allclose(np.abs(told.z_I), np.abs(apart.z_I[row_I]), atol=1e-9)
        assert status(told) == status(apart)

    def test_settings_that_cannot_be_meant(self):
        with pytest.raises(ConfigError, match="logit, probit"):
            Flagging(link="cauchy")
        with pytest.raises(ConfigError, match="z0"):
            Flagging(z0=0)


class TestPositions:  # rule 5
    def draw(self, gamma: float, votes: int, share: float = 1.0) -> tuple[Comparisons, np.ndarray]:
        rng = np.random.default_rng(0)
        left, right = all_pairs(np.array([0, 8]))
        truth = rng.normal(size=8)
        turned = rng.random(len(left)) < share
        shown = np.repeat(np.append(left, right[turned]), votes), np.repeat(np.append(right, left[turned]), votes)
        won = rng.random(len(shown[0])) < ratings.win_probability(truth[shown[0]] - truth[shown[1]] + gamma)
        return gather(*shown, won.astype(float), np.array([0, 8]), ordered=True)[0], truth

    def test_the_symmetric_part_is_the_bias(self):
        pairs, truth = self.draw(0.8, 400)
        told = robust.split_positions(pairs)
        assert abs(told.bias - 0.8) < 4 * told.sd
        assert told.sd < 0.05
        both = merged(pairs)
        np.testing.assert_allclose(told.skew_I, differences(both, truth)[told.row_I], atol=0.5)

    def test_the_error_of_the_bias_is_that_of_its_two_halves(self):
        left, right = np.tile([0, 1], 400), np.tile([1, 0], 400)
        pairs, _ = gather(left, right, np.repeat([1.0, 0.0], 400), np.array([0, 2]), ordered=True)
        told = robust.split_positions(pairs)
        assert told.bias == pytest.approx(0)
        assert told.sd == pytest.approx(np.sqrt(0.01 + 0.01) / 2)

    def test_pairs_in_one_order_have_no_split(self):
        pairs, _ = self.draw(0.8, 50, share=0.5)
        told = robust.split_positions(pairs)
        both = merged(pairs)
        turned = {(a, b) for a, b, f in zip(pairs.left_I, pairs.right_I, pairs.first_I, strict=True) if f == -1}
        named = set(zip(both.left_I[told.row_I], both.right_I[told.row_I], strict=True))
        assert named == turned
        assert np.isnan(robust.split_positions(both).bias)
