"""Strengths: two routes, gradients by finite differences, closed forms, and the published packages where installed."""

import numpy as np
import pytest
from scipy import optimize

from pairwright.core import newton, orders, ratings
from pairwright.core.comparisons import Comparisons, all_pairs, gather, merged, only, prompt_of, renumbered
from pairwright.errors import NotConverged


def draw(
    seed: int, sizes: list[int], *, votes: float = 6, share: float = 1.0, spread: float = 1.0, gamma: float = 0.0
) -> tuple[Comparisons, np.ndarray]:
    """Complete or thinned graphs, votes from the model, each with a random presentation order."""
    rng = np.random.default_rng(seed)
    start = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    truth = rng.normal(size=start[-1]) * spread
    left, right = all_pairs(start)
    kept = rng.random(len(left)) < share
    left, right = np.repeat(left[kept], int(votes)), np.repeat(right[kept], int(votes))
    swap = rng.random(len(left)) < 0.5
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    won = rng.random(len(left)) < ratings.win_probability(truth[left] - truth[right] + gamma)
    return gather(left, right, won.astype(float), start, ordered=True)[0], truth


def objective(pairs: Comparisons, w: np.ndarray, ridge: float, gamma: float = 0.0, log_tie: float = -np.inf) -> float:
    """The formula of the module, term by term."""
    d = w[pairs.left_I] - w[pairs.right_I] + gamma * pairs.first_I
    total = np.logaddexp(np.logaddexp(d / 2, -d / 2), log_tie)
    ties = pairs.ties_I @ np.full(len(d), log_tie) if np.isfinite(log_tie) else 0.0
    likelihood = (pairs.wins_I - pairs.votes_I / 2) @ d - pairs.votes_I @ total + ties
    shared = gamma**2 + (log_tie**2 if np.isfinite(log_tie) else 0.0)
    return float(-likelihood + ridge / 2 * (w @ w + shared))


@pytest.mark.parametrize("seed", range(20))
class TestRoutesAgree:
    def test_two_routes_give_one_answer(self, seed):
        pairs, _ = draw(seed, [2, 3, 5, 5, 8, 14], votes=12, share=0.9)
        ridge = 0.01 if seed % 2 else 0.3
        one = ratings.fit_newton(pairs, ridge=ridge)
        other = ratings.fit_mm(pairs, ridge=ridge, tol=1e-11, max_iter=200_000)
        np.testing.assert_allclose(one.strength_R, other.strength_R, atol=1e-7)
        assert one.gradient < 1e-8

    def test_a_general_optimiser_finds_nothing_lower(self, seed):
        pairs, _ = draw(seed, [4, 6])
        fit = ratings.fit_newton(pairs, ridge=0.1)
        found = optimize.minimize(lambda w: objective(pairs, w, 0.1), np.zeros(10), method="BFGS", tol=1e-9)
        assert objective(pairs, fit.strength_R, 0.1) <= found.fun + 1e-9

    def test_shared_effects_sit_where_every_slope_is_zero(self, seed):
        pairs, _ = draw(seed, [4, 5, 3], gamma=0.4)
        rng = np.random.default_rng(seed)
        ties = np.floor(pairs.votes_I * rng.random(len(pairs.votes_I)) * 0.5)
        pairs = pairs._replace(ties_I=ties, wins_I=ties / 2 + np.floor((pairs.votes_I - ties) * 0.4))
        fit = ratings.fit_newton(pairs, ridge=0.05, position=True, davidson=True)
        at = np.append(fit.strength_R, [fit.position.value, fit.log_tie.value])
        slope = optimize.approx_fprime(at, lambda x: objective(pairs, x[:-2], 0.05, x[-2], x[-1]), 1e-6)
        np.testing.assert_allclose(slope, 0, atol=1e-4)
        assert fit.gradient < 1e-8


class TestModel:
    def test_two_responses_have_the_log_odds(self):
        pairs, _ = gather(np.zeros(10, int), np.ones(10, int), np.array([1.0] * 7 + [0.0] * 3), np.array([0, 2]))
        fit = ratings.fit_newton(pairs, ridge=1e-12)
        assert fit.strength_R[0] - fit.strength_R[1] == pytest.approx(np.log(7 / 3))

    def test_derivatives_are_those_of_the_formula(self):
        d, step = np.linspace(-8, 8, 33), 1e-5
        for nu in (0.0, 0.7):
            slopes = [newton.terms(d + move, nu).slope for move in (-step, step)]
            numeric = (slopes[1] - slopes[0]) / (2 * step)
            np.testing.assert_allclose(newton.terms(d, nu).curvature, numeric, atol=1e-9)
            total = [np.log(2 * np.cosh((d + move) / 2) + nu) for move in (-step, step)]
            np.testing.assert_allclose(newton.terms(d, nu).slope, (total[1] - total[0]) / (2 * step), atol=1e-9)

    def test_terms_are_finite_far_out(self):
        for nu in (0.0, 2.0):
            told = newton.terms(np.array([-1e5, -700.0, 0.0, 700.0, 1e5]), nu)
            assert all(np.isfinite(part).all() for part in told)
            assert told.curvature[2] > 0

    def test_a_tie_counts_half_a_win_each(self):
        start = np.array([0, 3])
        left, right = np.array([0, 1, 0, 1, 2]), np.array([1, 2, 2, 0, 1])
        tied, _ = gather(left, right, np.array([0.5, 1, 1, 1, 1]), start)
        doubled, _ = gather(
            np.append(left, 0), np.append(right, 1), np.array([1.0, 1, 1, 1, 1, 0]), start,
            weight_V=np.array([0.5, 1, 1, 1, 1, 0.5]),
        )  # fmt: skip
        one, other = ratings.fit_newton(tied), ratings.fit_newton(doubled)
        np.testing.assert_allclose(one.strength_R, other.strength_R, atol=1e-12)

    def test_a_weight_is_worth_that_many_votes(self):
        start = np.array([0, 3])
        left, right, won = np.array([0, 0, 1, 2]), np.array([1, 2, 2, 0]), np.ones(4)
        weighted, _ = gather(left, right, won, start, weight_V=np.array([3.0, 1, 1, 2]))
        times = [3, 1, 1, 2]
        repeated, _ = gather(np.repeat(left, times), np.repeat(right, times), np.repeat(won, times), start)
        one, other = ratings.fit_newton(weighted), ratings.fit_newton(repeated)
        assert (one.strength_R == other.strength_R).all()

    def test_strengths_are_centred_in_each_component(self):
        pairs, _ = gather(np.array([0, 2, 2]), np.array([1, 3, 3]), np.array([1.0, 1.0, 0.0]), np.array([0, 5]))
        w = ratings.fit_newton(pairs, ridge=0.1).strength_R
        assert abs(w[0] + w[1]) < 1e-12
        assert abs(w[2:4]).max() < 1e-12
        assert w[4] == 0

    def test_a_response_that_wins_everything_stays_finite(self):
        pairs, _ = gather(np.array([0, 0, 1, 2]), np.array([1, 2, 2, 1]), np.ones(4), np.array([0, 3]))
        fit = ratings.fit_newton(pairs)
        assert fit.converged_P.all()
        assert 8 < fit.strength_R[0] < 20

    def test_turning_all_outcomes_round_turns_the_strengths_round(self):
        pairs, _ = draw(1, [5, 7])
        turned = pairs._replace(wins_I=pairs.votes_I - pairs.wins_I)
        one, other = ratings.fit_newton(pairs, ridge=0.1), ratings.fit_newton(turned, ridge=0.1)
        np.testing.assert_allclose(one.strength_R, -other.strength_R, atol=1e-10)

    def test_renumbering_items_renumbers_strengths(self):
        pairs, _ = draw(2, [6])
        order = np.random.default_rng(0).permutation(6)
        moved, _ = renumbered(pairs, order, pairs.item_start_P)
        one, other = ratings.fit_newton(pairs, ridge=0.1), ratings.fit_newton(moved, ridge=0.1)
        np.testing.assert_allclose(one.strength_R[order], other.strength_R, atol=1e-10)


class TestBatch:
    def test_a_prompt_is_the_same_alone_to_the_last_bit(self):
        pairs, _ = draw(3, [5, 5, 4, 5, 13, 5], votes=4)
        fit = ratings.fit_newton(pairs, covariance=True)
        start = pairs.item_start_P
        for p in range(6):
            own = only(pairs, prompt_of(pairs) == p)
            own = own._replace(
                left_I=own.left_I - start[p], right_I=own.right_I - start[p], item_start_P=start[[p, p + 1]] - start[p]
            )
            alone = ratings.fit_newton(own, covariance=True)
            assert (alone.strength_R == fit.strength_R[start[p] : start[p + 1]]).all()
            at = newton.covariance_start(start)
            assert (alone.covariance == fit.covariance[at[p] : at[p + 1]]).all()

    def test_prompts_without_comparisons_have_no_strengths(self):
        pairs, _ = gather(np.array([2]), np.array([3]), np.ones(1), np.array([0, 2, 4, 5]))
        fit = ratings.fit_newton(pairs, ridge=1.0, covariance=True)
        assert fit.strength_R[[0, 1, 4]].tolist() == [0, 0, 0]
        assert fit.converged_P.all()

    @pytest.mark.parametrize("route", ratings.ROUTES)
    def test_says_when_it_stops_early(self, route):
        pairs, _ = draw(0, [5, 5], spread=3.0)
        with pytest.raises(NotConverged, match="2 of 2 prompts"):
            ratings.ROUTES[route](pairs, max_iter=1)
        assert not ratings.ROUTES[route](pairs, max_iter=1, strict=False).converged_P.any()

    @pytest.mark.parametrize("route", ratings.ROUTES)
    def test_inputs_stay_untouched(self, route):
        pairs, _ = draw(0, [5, 3])
        before = [column.copy() for column in pairs]
        ratings.ROUTES[route](pairs, ridge=0.1)
        assert all((now == then).all() for now, then in zip(pairs, before, strict=True))


class TestCovariance:
    def test_is_the_centred_inverse_of_the_hessian(self):
        pairs, _ = draw(5, [6], share=0.7)
        ridge = 0.2
        fit = ratings.fit_newton(pairs, ridge=ridge, covariance=True)
        hessian = ridge * np.eye(6)
        for i, j, votes in zip(pairs.left_I, pairs.right_I, pairs.votes_I, strict=True):
            p = ratings.win_probability(fit.strength_R[i] - fit.strength_R[j])
            e = np.eye(6)[i] - np.eye(6)[j]
            hessian += votes * p * (1 - p) * np.outer(e, e)
        centre = np.eye(6) - 1 / 6
        np.testing.assert_allclose(fit.covariance.reshape(6, 6), centre @ np.linalg.inv(hessian) @ centre, atol=1e-10)
        var = np.linalg.inv(hessian)
        sd = ratings.difference_sd(fit, np.array([1]), np.array([4]), pairs.item_start_P)
        assert sd[0] == pytest.approx(np.sqrt(var[1, 1] + var[4, 4] - 2 * var[1, 4]))

    def test_covers_the_truth_as_often_as_it_says(self):
        pairs, truth = draw(7, [5] * 2000, votes=20)
        fit = ratings.fit_newton(pairs, covariance=True)
        left, right = all_pairs(pairs.item_start_P)
        sd = ratings.difference_sd(fit, left, right, pairs.item_start_P)
        miss = fit.strength_R[left] - fit.strength_R[right] - (truth[left] - truth[right])
        assert np.mean(np.abs(miss) < 1.96 * sd) == pytest.approx(0.95, abs=0.01)

    def test_shared_effects_widen_it_as_the_whole_inverse_does(self):
        pairs, _ = draw(8, [3, 4], gamma=0.5)
        fit = ratings.fit_newton(pairs, ridge=0.3, position=True, covariance=True)
        at = np.append(fit.strength_R, fit.position.value)

        def slope(x: np.ndarray) -> np.ndarray:
            d = x[pairs.left_I] - x[pairs.right_I] + x[-1] * pairs.first_I
            rest = pairs.votes_I / (1 + np.exp(-d)) - pairs.wins_I
            out = 0.3 * x
            np.add.at(out, pairs.left_I, rest)
            np.add.at(out, pairs.right_I, -rest)
            out[-1] += rest @ pairs.first_I
            return out

        steps = 1e-5 * np.eye(8)
        hessian = np.array([(slope(at + step) - slope(at - step)) / 2e-5 for step in steps])
        whole = np.linalg.inv(hessian)
        centre = np.eye(3) - 1 / 3
        np.testing.assert_allclose(fit.covariance[:9].reshape(3, 3), centre @ whole[:3, :3] @ centre, atol=1e-6)
        assert fit.position.sd == pytest.approx(np.sqrt(whole[-1, -1]), rel=1e-6)


class TestEffects:
    def test_presentation_order_is_found(self):
        pairs, truth = draw(11, [6] * 200, gamma=0.6)
        fit = ratings.fit_newton(pairs, ridge=0.5, position=True)
        assert abs(fit.position.value - 0.6) < 4 * fit.position.sd
        assert np.corrcoef(fit.strength_R, truth)[0, 1] > 0.8

    def test_tie_rate_is_found(self):
        rng = np.random.default_rng(4)
        start = np.arange(301) * 5
        left, right = all_pairs(start)
        left, right = np.repeat(left, 5), np.repeat(right, 5)
        truth, nu = rng.normal(size=start[-1]), 0.8
        d = truth[left] - truth[right]
        chance = np.stack([np.exp(d / 2), np.full(len(d), nu), np.exp(-d / 2)])
        edges = np.cumsum(chance / chance.sum(0), axis=0)
        outcome = np.array([1.0, 0.5, 0.0])[(rng.random(len(d)) > edges[:2]).sum(0)]
        fit = ratings.fit_newton(gather(left, right, outcome, start)[0], ridge=1.0, davidson=True)
        assert abs(fit.log_tie.value - np.log(nu)) < 0.1
        assert np.isnan(fit.position.sd)

    def test_without_a_bias_the_strengths_hardly_move(self):
        pairs, _ = draw(12, [5] * 100)
        plain, biased = (
            ratings.fit_newton(merged(pairs), ridge=0.5),
            ratings.fit_newton(pairs, ridge=0.5, position=True),
        )
        assert abs(biased.position.value) < 4 * biased.position.sd
        assert np.abs(plain.strength_R - biased.strength_R).max() < 0.1


class TestOrders:
    def test_error_is_the_share_of_pairs_against_the_truth(self):
        start = np.array([0, 3, 5, 6])
        error = orders.order_error(np.array([3.0, 2, 1, 0, 0, 9]), np.array([3.0, 1, 2, 1, 2, 0]), start)
        np.testing.assert_allclose(error, [1 / 3, 1 / 2, np.nan])

    def test_copeland_puts_equals_by_row_sum(self):
        left, right = np.array([0, 1, 2]), np.array([1, 2, 0])
        pairs, _ = gather(left, right, np.ones(3), np.array([0, 3]), weight_V=np.array([1.0, 5.0, 2.0]))
        assert orders.copeland(pairs).tolist() == [1, 1, 1]
        assert orders.copeland_order(pairs).tolist() == [1, 0, 2]

    def test_without_noise_all_orders_are_the_true_one(self):
        pairs, truth = draw(1, [6, 9], votes=1, spread=500.0)
        for score in (orders.copeland(pairs), orders.row_sum(pairs), ratings.fit_newton(pairs).strength_R):
            assert (orders.order_error(score, truth, pairs.item_start_P) == 0).all()


def judgements(pairs: Comparisons) -> list[tuple[int, int]]:
    """(winner, loser) of every vote."""
    rows = []
    for left, right, wins, votes in zip(pairs.left_I, pairs.right_I, pairs.wins_I, pairs.votes_I, strict=True):
        rows += [(int(left), int(right))] * int(wins) + [(int(right), int(left))] * int(votes - wins)
    return rows


class TestAgainstOthers:
    def test_choix_finds_the_same_maximum(self):
        choix = pytest.importorskip("choix")
        for seed in range(5):
            pairs, _ = draw(seed, [8], votes=20)
            theirs = choix.opt_pairwise(8, judgements(pairs), alpha=0.1, tol=1e-9)
            ours = ratings.fit_newton(merged(pairs), ridge=0.2)  # their penalty is alpha * ||w||^2
            np.testing.assert_allclose(ours.strength_R, theirs - theirs.mean(), atol=1e-5)

    def test_evalica_finds_the_same_maximum(self):
        evalica = pytest.importorskip("evalica")
        pairs, _ = draw(3, [8], votes=30)
        votes = judgements(pairs)
        winners, losers = [str(a) for a, _ in votes], [str(b) for _, b in votes]
        told = evalica.bradley_terry(winners, losers, [evalica.Winner.X] * len(votes), tolerance=1e-12, limit=10_000)
        theirs = np.log([told.scores[str(i)] for i in range(8)])
        ours = ratings.fit_newton(merged(pairs)).strength_R
        np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-4)
