"""Limits and identities of the losses, what other code does wrong, the batch losses, and equality with TRL's own formulas.

"Invariant" and "trap" numbers are those of the notes on rating losses, "other" those of the notes on other methods.
"""

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit, logit, softmax

from pairwright.core import batch_losses, losses, rating_losses
from pairwright.core.batch_losses import (
    BATCH_LOSSES,
    BATCH_NEEDS,
    dr_dpo,
    effective_pairs,
    shares,
    soft_minimum,
    wpo_weight,
)
from pairwright.core.losses import (
    LOSSES,
    NEEDS,
    alpha_dpo,
    cdpo,
    dpo,
    ipo,
    ipo_norm,
    length_dpo,
    rdpo_robust,
    require,
    rpo_nll,
    sft,
    simpo,
    soft_dpo,
    weighted,
)
from pairwright.core.pair_terms import PairTerms, namespace, sigmoid, softplus
from pairwright.core.rating_losses import (
    distilled_dpo,
    effective_beta,
    mappo,
    margin_dpo,
    ml_rdpo,
    mmpo,
    odpo,
    rating_dpo,
    rating_ipo,
    rebel,
    rpo_bwd_kl,
    rpo_fwd_kl,
    rpo_sq,
    scaled_dpo,
)
from pairwright.errors import ConfigError, DataError

BETA, BETA1 = 0.3, 0.4
C = BETA / BETA1


def terms(n: int = 50, seed: int = 1, **fields) -> PairTerms:
    rng = np.random.default_rng(seed)
    ratios = PairTerms(rng.normal(0, 5, n), rng.normal(0, 5, n), rng.normal(0, 2, n))
    return ratios._replace(**fields)


def at_margin(m, *, beta: float = BETA, **fields) -> PairTerms:
    """Pairs whose implied margin is m."""
    m = np.atleast_1d(np.asarray(m, float))
    return PairTerms(m / beta, np.zeros_like(m), **{key: np.full(len(m), value) for key, value in fields.items()})


def slope(loss, t: PairTerms, step: float = 1e-5, field: str = "chosen", **settings) -> np.ndarray:
    """Central difference in one field; in `chosen` it is beta times that in m."""
    up, down = (loss(t._replace(**{field: getattr(t, field) + by}), **settings) for by in (step, -step))
    return (up - down) / (2 * step)


def same(a, b, tol: float = 1e-12) -> None:
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


class TestLimits:
    def test_distrusted_ratings_leave_dpo_and_ipo(self):  # invariant 1
        t = terms()
        for to in (lambda loss, **s: loss(t, **s), lambda loss, **s: slope(loss, t, **s)):
            same(to(rating_dpo, beta=BETA, beta1=1e9), to(dpo, beta=BETA), 1e-7)
            same(to(rating_ipo, beta=BETA, beta1=1e9), BETA**2 * to(ipo, beta=BETA), 1e-6)
            same(to(ml_rdpo, beta=BETA, variance=1e9), to(dpo, beta=BETA), 1e-6)

    def test_a_gap_known_exactly_leaves_distilled_dpo(self):  # invariant 1
        t, tiny = terms(), 1e-9
        same(2 * tiny * ml_rdpo(t, beta=BETA, variance=tiny), distilled_dpo(t, beta=BETA), 1e-6)

    def test_a_gap_of_0_is_dpo(self):
        t = terms(gap=np.zeros(50), margin=np.zeros(50))
        same(rating_dpo(t, beta=BETA, beta1=BETA1), dpo(t, beta=BETA))
        same(margin_dpo(t, beta=BETA), dpo(t, beta=BETA))
        same(rating_ipo(t, beta=BETA, beta1=BETA1), BETA**2 * ipo(t, beta=BETA))

    def test_rating_dpo_is_odpo_is_margin_dpo(self):  # invariant 2
        t = terms()
        found = rating_dpo(t, beta=BETA, beta1=BETA1)
        same(odpo(t, beta=BETA, alpha=C, transform="identity"), found)
        same(margin_dpo(t._replace(margin=C * t.gap), beta=BETA), found)

    def test_rating_ipo_without_its_half_is_distilled_dpo_on_the_scaled_gap(self):
        t = terms()
        shifted = t._replace(chosen=t.chosen + 0.5 / BETA)
        same(rating_ipo(shifted, beta=BETA, beta1=BETA1), distilled_dpo(t._replace(gap=C * t.gap), beta=BETA))

    def test_rebel_is_distilled_dpo_is_rpo_sq(self):
        t = terms()
        same(rebel(t, eta=1 / BETA), distilled_dpo(t, beta=BETA) / BETA**2)
        same(rpo_sq(t, beta=BETA, eta=1.7), distilled_dpo(t._replace(gap=1.7 * t.gap), beta=BETA))

    def test_soft_labels_end_in_dpo_and_in_no_preference(self):  # invariant 11
        t = terms()
        same(soft_dpo(t._replace(p_chosen=np.ones(50)), beta=BETA), dpo(t, beta=BETA))
        same(soft_dpo(t._replace(p_chosen=np.full(50, 0.8)), beta=BETA), cdpo(t, beta=BETA, flip=0.2))
        same(soft_dpo(t._replace(p_chosen=expit(0.9 * t.gap)), beta=BETA), mmpo(t, beta=BETA, gamma=0.9))
        same(mmpo(t._replace(gap=np.full(50, 1e4)), beta=BETA, gamma=1.0), dpo(t, beta=BETA))
        same(slope(mmpo, at_margin(0, gap=0.0), beta=BETA, gamma=0.9), 0, 1e-9)

    def test_mappo_at_1_is_dpo_and_at_0_only_lifts_the_chosen_side(self):  # invariant 11, trap 10
        t = terms(gap=np.ones(50))
        same(mappo(t, beta=BETA), dpo(t, beta=BETA))
        t = t._replace(gap=np.zeros(50))
        same(mappo(t, beta=BETA), np.logaddexp(0, -BETA * t.chosen))
        same(slope(mappo, t, field="rejected", beta=BETA), 0)
        half = t._replace(gap=np.full(50, 0.5))
        assert (slope(mappo, half, field="chosen", beta=BETA) < 0).all()
        assert (slope(mappo, half, field="rejected", beta=BETA) > 0).all()

    def test_infonca_over_two_answers_is_mmpo(self):  # invariant 11
        t, alpha = terms(), 0.8
        for row in range(50):
            target = softmax(np.array([t.gap[row], 0]) / alpha)
            model = softmax(BETA * np.array([t.chosen[row], t.rejected[row]]))
            one = PairTerms(*(field[row : row + 1] for field in t[:3]))
            same(mmpo(one, beta=BETA, gamma=1 / alpha), -(target * np.log(model)).sum(), 1e-10)

    def test_labels_never_wrong_are_dpo(self):  # other rule 1
        t = terms()
        for loss in (cdpo, rdpo_robust):
            assert np.array_equal(loss(t, beta=BETA, flip=0.0), dpo(t, beta=BETA))

    def test_constant_weights_and_margins(self):
        t = terms(gap=np.full(50, 3.0))
        same(scaled_dpo(t, beta=BETA, mean=3.0), dpo(t, beta=BETA))
        same(weighted(dpo(t, beta=BETA), np.full(50, 2.5)), 2.5 * dpo(t, beta=BETA))
        tied = t._replace(gap=np.zeros(50))
        same(scaled_dpo(tied, beta=BETA, mean=3.0), 0)

    def test_sft_alone_and_beside_dpo(self):
        t = terms(chosen_logps=np.full(50, -30.0), chosen_length=np.full(50, 12))
        same(sft(t), 2.5)
        same(rpo_nll(t, beta=BETA, alpha=0.2), dpo(t, beta=BETA) + 0.5)


UNIFIED = {  # offset, p, w, a, target of one formula for all: w (p l(u) + (1 - p) l(-u)) + a (m - target)^2
    "dpo": (lambda D: 0, lambda D: 1, 1, 0, lambda D: 0, {}),
    "cdpo": (lambda D: 0, lambda D: 0.9, 1, 0, lambda D: 0, {"flip": 0.1}),
    "rating_dpo": (lambda D: C * D, lambda D: 1, 1, 0, lambda D: 0, {"beta1": BETA1}),
    "odpo": (lambda D: 0.7 * D, lambda D: 1, 1, 0, lambda D: 0, {"alpha": 0.7, "transform": "identity"}),
    "mmpo": (lambda D: 0, lambda D: expit(0.9 * D), 1, 0, lambda D: 0, {"gamma": 0.9}),
    "ml_rdpo": (lambda D: 0, lambda D: 1, 1, 1 / 3.4, lambda D: D, {"variance": 1.7}),
    "distilled_dpo": (lambda D: 0, lambda D: 1, 0, 1, lambda D: D, {}),
    "rpo_sq": (lambda D: 0, lambda D: 1, 0, 1, lambda D: 1.2 * D, {"eta": 1.2}),
    "rating_ipo": (lambda D: 0, lambda D: 1, 0, 1, lambda D: C * D + 0.5, {"beta1": BETA1}),
}


@pytest.mark.parametrize("name", UNIFIED)
def test_one_formula_gives_them_all(name):  # invariant 19
    t = terms()
    offset, p, w, a, target, settings = UNIFIED[name]
    m = BETA * (t.chosen - t.rejected)
    u, p = m - offset(t.gap), p(t.gap)
    whole = w * (p * np.logaddexp(0, -u) + (1 - p) * np.logaddexp(0, u)) + a * (m - target(t.gap)) ** 2
    same(LOSSES[name](t, beta=BETA, **settings), whole)
    grad = w * (expit(u) - p) + 2 * a * (m - target(t.gap))
    same(slope(LOSSES[name], t, beta=BETA, **settings), BETA * grad, 1e-6)


GRADIENTS = {  # dL/dm, invariants 5, 9, 10
    dpo: (lambda m, D: -expit(-m), {}),
    rating_dpo: (lambda m, D: -expit(C * D - m), {"beta1": BETA1}),
    rating_ipo: (lambda m, D: 2 * (m - C * D - 0.5), {"beta1": BETA1}),
    ml_rdpo: (lambda m, D: -expit(-m) - (D - m) / 1.7, {"variance": 1.7}),
    distilled_dpo: (lambda m, D: -2 * (D - m), {}),
    mmpo: (lambda m, D: expit(m) - expit(1.2 * D), {"gamma": 1.2}),
    rpo_bwd_kl: (lambda m, D: expit(m) - expit(1.2 * D), {"eta": 1.2}),
    rpo_fwd_kl: (lambda m, D: expit(m) * expit(-m) * (m - 1.2 * D), {"eta": 1.2}),
    rpo_sq: (lambda m, D: 2 * (m - 1.2 * D), {"eta": 1.2}),
}


@pytest.mark.parametrize("loss", GRADIENTS, ids=lambda loss: loss.__name__)
def test_the_gradient_is_the_one_of_the_paper(loss):
    t, (grad, settings) = terms(), GRADIENTS[loss]
    m = BETA * (t.chosen - t.rejected)
    same(slope(loss, t, beta=BETA, **settings), BETA * grad(m, t.gap), 1e-6)
    same(slope(loss, t, field="rejected", beta=BETA, **settings), -BETA * grad(m, t.gap), 1e-6)


class TestMinimisers:
    @pytest.mark.parametrize(
        ("loss", "settings", "best"),
        [
            (ipo, {}, 0.5),
            (rating_ipo, {"beta1": BETA1}, 0.5 + C * 1.3),
            (distilled_dpo, {}, 1.3),
            (mmpo, {"gamma": 0.9}, 0.9 * 1.3),
            (rpo_sq, {"eta": 0.9}, 0.9 * 1.3),
            (rpo_bwd_kl, {"eta": 0.9}, 0.9 * 1.3),
            (rpo_fwd_kl, {"eta": 0.9}, 0.9 * 1.3),
            (cdpo, {"flip": 0.1}, logit(0.9)),  # other 2
            (soft_dpo, {}, logit(0.7)),
        ],
    )
    def test_a_pair_is_done_where_the_table_says(self, loss, settings, best):
        found = optimize.minimize_scalar(
            lambda m: loss(at_margin(m, gap=1.3, p_chosen=0.7), beta=BETA, **settings)[0], (best - 1, best + 1.5)
        )
        assert abs(found.x - best) < 1e-6

    @pytest.mark.parametrize(("gap", "variance"), [(0.0, 1.0), (2.0, 0.5), (-1.5, 4.0), (0.3, 1e-3)])
    def test_ml_rdpo_is_convex_with_its_root_between_d_and_d_plus_v(self, gap, variance):  # invariant 8
        grid = np.linspace(-30, 30, 4001)
        value = ml_rdpo(at_margin(grid, gap=gap), beta=BETA, variance=variance)
        assert (np.diff(value, 2) > 0).all()

        def push(m):
            return slope(ml_rdpo, at_margin(m, gap=gap), beta=BETA, variance=variance)[0]

        root = optimize.brentq(push, gap - 1, gap + variance + 1, xtol=1e-13)
        assert gap < root < gap + variance
        assert abs(root - gap - variance * expit(-root)) < 1e-6

    def test_a_tie_under_ml_rdpo_has_the_margin_of_the_notes(self):  # invariant 8
        found = optimize.minimize_scalar(lambda m: ml_rdpo(at_margin(m, gap=0.0), beta=BETA, variance=1.0)[0], (0, 1))
        assert abs(found.x - 0.401058) < 1e-6

    def test_the_margin_of_indifference_rises_with_the_gap(self):  # invariants 12, 18; trap 8
        """sigmoid(-(m - c D)) = 1/2 at m = c D: with the offset added it would be at m = -c D."""
        for gap in (0.0, 1.0, 4.0):
            same(slope(rating_dpo, at_margin(C * gap, gap=gap), beta=BETA, beta1=BETA1), -BETA / 2, 1e-8)
        t = terms()
        more = t._replace(gap=t.gap + 1)
        assert (rating_dpo(more, beta=BETA, beta1=BETA1) > rating_dpo(t, beta=BETA, beta1=BETA1)).all()
        assert (np.abs(slope(rating_dpo, t, beta=BETA, beta1=BETA1)) <= BETA + 1e-9).all()

    @pytest.mark.parametrize(("flip", "p"), [(0.05, 0.7), (0.2, 0.7), (0.05, 0.9)])
    def test_the_population_optimum_has_a_closed_form(self, flip, p):  # other 2
        """A share p of the observed labels favours chosen."""

        def population(loss, m):
            return (
                p * loss(at_margin(m), beta=BETA, flip=flip)[0] + (1 - p) * loss(at_margin(-m), beta=BETA, flip=flip)[0]
            )

        best = {cdpo: logit(flip + (1 - 2 * flip) * p), rdpo_robust: logit((p - flip) / (1 - 2 * flip))}
        for loss, m in best.items():
            found = optimize.minimize_scalar(lambda at, loss=loss: population(loss, at), (m - 1, m + 1.5))
            assert abs(found.x - m) < 1e-5

    def test_an_overestimated_flip_rate_sends_rdpo_away_and_not_cdpo(self):  # other 3
        p, flip = 0.9, 0.2
        m = np.array([10.0, 100.0, 1000.0])

        def population(loss):
            return p * loss(at_margin(m), beta=BETA, flip=flip) + (1 - p) * loss(at_margin(-m), beta=BETA, flip=flip)

        assert (np.diff(population(rdpo_robust)) < 0).all()
        assert population(rdpo_robust)[-1] < -100
        q = flip + (1 - 2 * flip) * p
        entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
        assert (population(cdpo) >= entropy).all()

    def test_rdpo_is_unbiased_for_the_true_labels(self):  # other 1
        t, flip = terms(), 0.23
        turned = t._replace(chosen=t.rejected, rejected=t.chosen)
        mean = (1 - flip) * rdpo_robust(t, beta=BETA, flip=flip) + flip * rdpo_robust(turned, beta=BETA, flip=flip)
        same(mean, dpo(t, beta=BETA))


class TestSymmetries:
    @pytest.mark.parametrize(
        ("loss", "settings"),
        [
            (mmpo, {"gamma": 0.9}),
            (distilled_dpo, {}),
            (rpo_sq, {}),
            (rpo_bwd_kl, {}),
            (rpo_fwd_kl, {}),
            (soft_dpo, {}),
        ],
    )
    def test_the_pair_listed_the_other_way_round_is_the_same_pair(self, loss, settings):  # invariant 3
        t = terms(p_chosen=np.random.default_rng(0).uniform(0, 1, 50))
        turned = t._replace(chosen=t.rejected, rejected=t.chosen, gap=-t.gap, p_chosen=1 - t.p_chosen)
        same(loss(turned, beta=BETA, **settings), loss(t, beta=BETA, **settings))

    def test_a_constant_of_the_prompt_changes_only_what_is_not_a_difference_of_sums(self):  # invariant 4
        from test_every_loss import SETTINGS, drawn

        moved = {}
        for kind in (("chosen", "rejected"), ("chosen_logps", "rejected_logps")):
            moved[kind[0]] = set()
            for name in LOSSES:
                t = drawn(name)
                shifted = {field: getattr(t, field) + 3.0 for field in kind if field in NEEDS[name]}
                before, after = (LOSSES[name](each, **SETTINGS[name]) for each in (t, t._replace(**shifted)))
                if not np.allclose(before, after, rtol=1e-9, atol=1e-9):
                    moved[kind[0]].add(name)
        assert moved["chosen"] == {"mappo", "ipo_norm", "alpha_dpo"}
        assert moved["chosen_logps"] == {"sft", "rpo_nll", "simpo", "alpha_dpo"}

    def test_changing_only_the_scores_changes_the_losses_that_read_them(self):  # invariant 17
        from test_every_loss import SETTINGS, drawn

        for name in LOSSES:
            t = drawn(name)
            other = t._replace(gap=np.full(24, 0.42))
            changed = not np.array_equal(LOSSES[name](t, **SETTINGS[name]), LOSSES[name](other, **SETTINGS[name]))
            assert changed == ("gap" in NEEDS[name])

    def test_the_unit_of_the_ratings_goes_into_beta1_but_not_into_the_variance(self):  # invariant 14
        t = terms()
        scaled = t._replace(gap=7 * t.gap)
        for loss in (rating_dpo, rating_ipo):
            same(loss(scaled, beta=BETA, beta1=7 * BETA1), loss(t, beta=BETA, beta1=BETA1))

        def margin(gap, variance):
            return optimize.minimize_scalar(lambda m: ml_rdpo(at_margin(m, gap=gap), beta=BETA, variance=variance)[0]).x

        def margins(t, variance):
            return [margin(gap, variance) for gap in t.gap[:3]]

        wanted = margins(t, 1.0)
        assert all(not np.allclose(margins(scaled, v), wanted, atol=0.05) for v in (0.1, 1.0, 7.0, 49.0))

    def test_a_rating_tilts_the_reference(self):  # invariant 7
        rng = np.random.default_rng(4)
        policy, ref, rating = rng.normal(-50, 9, (3, 2, 50))
        rating /= 10
        plain = PairTerms(policy[0] - ref[0], policy[1] - ref[1], rating[0] - rating[1])
        tilted = policy - (ref + rating / BETA1)
        same(rating_dpo(plain, beta=BETA, beta1=BETA1), dpo(PairTerms(tilted[0], tilted[1]), beta=BETA), 1e-9)

    def test_over_all_pairs_of_a_table_the_policy_is_dpos_tilted(self):  # invariant 6
        """Four answers, every pair in both orders with its share of the labels: pi_RDPO ~ pi_DPO exp(rating / beta1)."""
        rng = np.random.default_rng(8)
        log_ref, rating = np.log(softmax(rng.normal(size=4))), rng.normal(size=4)
        first, second = (each.ravel() for each in np.meshgrid(range(4), range(4)))
        first, second = first[first != second], second[first != second]
        share = rng.uniform(0.2, 0.8, (4, 4))
        share = (share / (share + share.T))[first, second]
        beta, beta1 = 0.6, 0.9

        def fitted(loss, **settings):
            def objective(theta):
                ratio = theta - np.logaddexp.reduce(theta) - log_ref
                t = PairTerms(ratio[first], ratio[second], rating[first] - rating[second])
                return (share * loss(t, beta=beta, **settings)).sum()

            found = optimize.minimize(objective, np.zeros(4), method="BFGS", jac="3-point", options={"gtol": 1e-8})
            return softmax(found.x)

        tilted = fitted(dpo) * np.exp(rating / beta1)
        same(fitted(rating_dpo, beta1=beta1), tilted / tilted.sum(), 1e-5)
        assert np.abs(fitted(dpo) - tilted / tilted.sum()).max() > 0.1

    def test_mmpo_is_the_backward_kl_and_an_entropy(self):  # invariant 9
        t = terms()
        q = expit(1.2 * t.gap)
        entropy = -q * np.log(q) - (1 - q) * np.log(1 - q)
        same(mmpo(t, beta=BETA, gamma=1.2) - rpo_bwd_kl(t, beta=BETA, eta=1.2), entropy, 1e-10)

    def test_the_forward_kl_pulls_as_the_square_times_half_the_sigmoids_slope(self):  # invariant 10
        t = terms()
        m = BETA * (t.chosen - t.rejected)
        forward, square = (slope(loss, t, beta=BETA, eta=1.2) for loss in (rpo_fwd_kl, rpo_sq))
        same(forward, expit(m) * expit(-m) / 2 * square, 1e-6)
        assert abs(slope(rpo_fwd_kl, at_margin(-40, gap=3.0), beta=BETA)[0]) < 1e-9  # vanishes when very wrong


class TestUnknownGaps:
    def test_ml_rdpo_of_unrated_pairs_is_dpo(self):  # invariants 13, 16
        t = terms()
        unrated = t._replace(gap=np.full(50, np.nan))
        assert np.array_equal(ml_rdpo(unrated, beta=BETA, variance=1.7), dpo(t, beta=BETA))
        some = t._replace(gap=np.where(np.arange(50) % 3, t.gap, np.nan))
        found, full = (ml_rdpo(each, beta=BETA, variance=1.7) for each in (some, t))
        rated = np.arange(50) % 3 > 0
        assert np.array_equal(found[rated], full[rated])
        assert np.array_equal(found[~rated], dpo(t, beta=BETA)[~rated])
        require("ml_rdpo", some, beta=BETA, variance=1.7)

    def test_the_gradient_of_an_unrated_pair_is_dpos(self):  # invariant 16
        torch = pytest.importorskip("torch")
        gap = torch.tensor([1.0, math.nan, 2.0], dtype=torch.float64)
        grads = []
        for loss, settings in ((ml_rdpo, {"variance": 1.7}), (dpo, {})):
            chosen = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
            loss(PairTerms(chosen, torch.zeros(3, dtype=torch.float64), gap), beta=BETA, **settings).sum().backward()
            grads.append(chosen.grad)
        assert bool(grads[0].isfinite().all())
        assert float(grads[0][1]) == float(grads[1][1])

    def test_an_infinite_gap_is_not_an_unknown_one(self):
        assert np.isnan(ml_rdpo(terms(gap=np.full(50, np.inf)), beta=BETA, variance=1.0)).all()

    def test_the_rate_weight_makes_the_mean_over_rated_pairs(self):
        t = terms(gap=np.where(np.arange(50) < 20, 1.0, np.nan))
        whole = ml_rdpo(t, beta=BETA, variance=1.7, rate_weight=50 / 20).mean()
        rated = distilled_dpo(t, beta=BETA)[:20].mean() / (2 * 1.7)
        same(whole, dpo(t, beta=BETA).mean() + rated)

    def test_rating_dpo_without_ratings_is_refused_not_turned_into_dpo(self):  # invariant 13
        t = terms(gap=np.full(50, np.nan))
        assert np.isnan(rating_dpo(t, beta=BETA, beta1=BETA1)).all()
        with pytest.raises(DataError, match="50 of 50 pairs have no loss, first row 0"):
            require("rating_dpo", t, beta=BETA, beta1=BETA1)

    @pytest.mark.parametrize(
        ("name", "settings"), [("rpo_sq", {}), ("rpo_bwd_kl", {}), ("rpo_fwd_kl", {}), ("distilled_dpo", {})]
    )
    def test_a_missing_reward_is_not_set_to_1_and_0(self, name, settings):  # trap 2
        t = terms(3, gap=np.array([1.0, np.nan, 2.0]))
        assert np.isnan(LOSSES[name](t, beta=BETA, **settings)).tolist() == [False, True, False]
        with pytest.raises(DataError, match="1 of 3"):
            require(name, t, beta=BETA, **settings)


class TestTraps:
    def test_the_log_of_a_tie_is_loud(self):  # trap 3
        """-log sigmoid(m + infinity) = 0: the pair would be trained on without any effect."""
        t = terms(4, gap=np.array([0.5, 0.0, -1.0, 2.0]))
        assert np.isnan(odpo(t, beta=BETA)).tolist() == [False, True, True, False]
        with pytest.raises(DataError, match=r"2 of 4 .* row 1 "):
            require("odpo", t, beta=BETA)
        assert odpo(t, beta=BETA)[0] < dpo(t, beta=BETA)[0]  # a gap below 1 lowers the margin asked for
        with pytest.raises(ConfigError, match="identity, log"):
            odpo(t, transform="ratio")

    def test_mmpo_has_no_default_gamma(self):  # trap 4
        with pytest.raises(TypeError, match="gamma"):
            mmpo(terms())
        with pytest.raises(ConfigError, match="gamma = None"):
            mmpo(terms(), gamma=None)

    @pytest.mark.parametrize("loss", [rating_dpo, rating_ipo, ml_rdpo])
    def test_trust_in_the_ratings_has_no_default(self, loss):
        with pytest.raises(TypeError, match=r"beta1|variance"):
            loss(terms())

    def test_the_square_on_means_per_token_has_another_target(self):  # trap 6
        """ipo at its own minimum is not at that of ipo_norm: 1 / (2 beta) nats against so many nats per token."""
        t = at_margin(0.5, chosen_length=10.0, rejected_length=10.0)
        same(ipo(t, beta=BETA), 0)
        assert ipo_norm(t, beta=BETA)[0] > 1
        same(ipo_norm(t._replace(chosen=10 * t.chosen), beta=BETA), 0)
        same(rating_ipo(t._replace(gap=np.zeros(1)), beta=BETA, beta1=BETA1), 0)

    def test_names_that_others_use_for_two_losses_are_not_ours(self):  # trap 7
        assert not {"rdpo", "r_dpo", "rpo", "wpo", "ripo"} & set(LOSSES)

    def test_equal_beta_is_not_equal_strength(self):  # trap 9
        found = [effective_beta(0.1, beta1=beta1) for beta1 in (1 / 40, 1 / 20, 1 / 10, 1 / 5, 1)]
        assert [round(each, 3) for each in found] == [0.02, 0.033, 0.05, 0.067, 0.091]
        # with exact ratings rating_dpo at (beta, beta1) is satisfied where dpo at effective_beta is
        m = np.linspace(-3, 3, 7)
        true = PairTerms(m / effective_beta(BETA, beta1=BETA1), np.zeros(7), m)
        same(rating_dpo(true, beta=BETA, beta1=BETA1), dpo(true, beta=effective_beta(BETA, beta1=BETA1)))
        assert not np.allclose(rating_dpo(true, beta=BETA, beta1=BETA1), dpo(true, beta=BETA))

    def test_a_strength_below_0_would_turn_the_label_round(self):
        t = terms(3, gap=np.array([1.0, -0.1, 0.0]))
        assert np.isnan(scaled_dpo(t, beta=BETA, mean=1.0)).tolist() == [False, True, False]
        assert np.isnan(weighted(dpo(t, beta=BETA), np.array([1.0, -0.1, np.nan]))).tolist() == [False, True, True]

    def test_mappo_refuses_gaps_outside_0_to_1(self):  # rule 12
        t = terms(4, gap=np.array([0.0, 1.0, 1.01, -0.01]))
        assert np.isnan(mappo(t, beta=BETA)).tolist() == [False, False, True, True]

    def test_a_probability_is_within_0_to_1(self):
        t = terms(4, p_chosen=np.array([0.0, 1.0, 1.01, -0.01]))
        assert np.isnan(soft_dpo(t, beta=BETA)).tolist() == [False, False, True, True]

    def test_a_longer_chosen_side_pulls_less(self):  # other 12, other trap 3
        longer = at_margin(0.3, chosen_length=200.0, rejected_length=100.0)
        level = at_margin(0.3, chosen_length=150.0, rejected_length=150.0)
        pull = [abs(slope(length_dpo, t, beta=BETA, alpha=0.01)[0]) for t in (longer, level)]
        assert pull[0] < pull[1] == pytest.approx(abs(slope(dpo, level, beta=BETA)[0]))
        same(length_dpo(longer, beta=BETA, alpha=0.0), dpo(longer, beta=BETA))
        with pytest.raises(ConfigError, match=r"alpha = -0\.01"):
            length_dpo(longer, alpha=-0.01)

    def test_flip_rates_that_cannot_be_meant(self):  # other rule 1
        for loss in (cdpo, rdpo_robust):
            for flip in (-0.1, 0.6):
                with pytest.raises(ConfigError, match="flip"):
                    loss(terms(), flip=flip)
        with pytest.raises(ConfigError, match=r"flip = 0\.5"):
            rdpo_robust(terms(), flip=0.5)
        with pytest.warns(UserWarning, match="no preference"):
            even = cdpo(terms(), beta=BETA, flip=0.5)
        turned = terms()
        with pytest.warns(UserWarning, match="no preference"):
            same(cdpo(turned._replace(chosen=turned.rejected, rejected=turned.chosen), beta=BETA, flip=0.5), even)


class TestReferenceFree:
    def test_simpo_does_not_see_a_doubled_answer(self):  # other 10
        t = PairTerms(chosen_logps=[-20.0], rejected_logps=[-33.0], chosen_length=[10.0], rejected_length=[11.0])
        t = PairTerms(*(None if field is None else np.array(field) for field in t))
        doubled = t._replace(chosen_logps=2 * t.chosen_logps, chosen_length=2 * t.chosen_length)
        same(simpo(doubled, beta=2.0, gamma=0.5), simpo(t, beta=2.0, gamma=0.5))
        same(simpo(t, beta=2.0, gamma=0.5), np.logaddexp(0, 0.5 - 2.0 * (33 / 11 - 2)))

    def test_alpha_dpo_without_alpha_is_simpo_and_asks_more_of_separated_pairs(self):  # other 10
        rng = np.random.default_rng(3)
        t = terms(chosen_logps=-rng.uniform(5, 50, 50), rejected_logps=-rng.uniform(5, 50, 50))
        t = t._replace(chosen_length=np.full(50, 10.0), rejected_length=np.full(50, 20.0))
        rest = {"beta": 2.0, "gamma": 0.5}
        same(alpha_dpo(t, alpha=0.0, mean=0.0, sd=1.0, **rest), simpo(t, **rest))
        g = t.chosen / 10 - t.rejected / 20
        more = alpha_dpo(t, alpha=0.3, mean=g.mean(), sd=g.std(), **rest) > simpo(t, **rest)
        assert np.array_equal(more, g > g.mean())

    def test_an_empty_completion_has_no_mean(self):  # other rules 4, 10
        t = terms(2, chosen_logps=np.zeros(2), chosen_length=np.array([0, 5]))
        assert np.isnan(sft(t)).tolist() == [True, False]
        with pytest.raises(DataError, match="chosen_length 0"):
            require("sft", t)


class TestRequire:
    def test_an_unknown_loss_is_named_with_the_known_ones(self):
        with pytest.raises(ConfigError, match=r"'rdpo'.*rating_dpo"):
            require("rdpo", terms())

    def test_fields_must_be_of_one_length_and_wide_enough(self):
        with pytest.raises(DataError, match="different shapes"):
            require("dpo", PairTerms(np.zeros(3), np.zeros(1)))
        for narrow in (np.float16, np.int64):
            with pytest.raises(DataError, match=f"chosen is {np.dtype(narrow)}"):
                require("dpo", PairTerms(np.zeros(3, narrow), np.zeros(3)))

    def test_bfloat16_is_too_narrow(self):
        torch = pytest.importorskip("torch")
        with pytest.raises(DataError, match="rejected is float16"):
            require("dpo", PairTerms(torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)))


class TestPieces:
    def test_softplus_and_sigmoid_far_out(self):
        z = np.array([-1e4, -800.0, 0.0, 800.0, 1e4, np.nan])
        assert softplus(z)[:5].tolist() == [0, 0, math.log(2), 800, 1e4]
        assert sigmoid(z)[:5].tolist() == [0, 0, 0.5, 1, 1]
        assert np.isnan(softplus(z)[5])
        z = np.linspace(-700, 700, 999)
        np.testing.assert_allclose(sigmoid(z), expit(z), rtol=1e-12)

    def test_the_namespace_is_the_arrays_own(self):
        assert namespace(np.zeros(1)) is np
        torch = pytest.importorskip("torch")
        assert namespace(torch.zeros(1)) is torch


class TestSoftMinimum:
    def test_it_lies_between_the_minimum_and_the_mean(self):  # other 4
        for seed in range(20):
            loss = np.random.default_rng(seed).exponential(2, 30)
            for b in (1e-3, 0.3, 1.0, 10.0):
                found = soft_minimum(loss, temperature=b)
                assert loss.min() - 1e-12 <= found <= min(loss.mean(), loss.min() + b * math.log(30)) + 1e-12
                same(found, -b * (np.logaddexp.reduce(-loss / b) - math.log(30)), 1e-10)

    def test_its_ends_are_the_mean_and_the_minimum(self):  # other 4
        loss = np.random.default_rng(0).exponential(2, 30)
        assert abs(soft_minimum(loss, temperature=1e6) - loss.mean()) < 1e-5
        assert (
            abs(soft_minimum(loss, temperature=1e12) - loss.mean()) < 1e-9
        )  # log of a mean of exp has no digits left here
        assert abs(soft_minimum(loss, temperature=1e-6) - loss.min()) < 1e-5

    def test_shards_combine_to_the_whole_batch(self):  # other 4, other trap 4
        loss = np.random.default_rng(1).exponential(2, 30)
        parts = np.split(loss, [7, 11])
        of_parts = np.array([soft_minimum(part, temperature=0.5) for part in parts])
        whole = soft_minimum(loss, temperature=0.5)
        same(soft_minimum(of_parts, temperature=0.5, count_I=np.array([7, 4, 19])), whole)
        assert abs(np.average(of_parts, weights=[7, 4, 19]) - whole) > 1e-3

    def test_its_gradient_is_the_share_of_each_pair(self):  # other 4
        torch = pytest.importorskip("torch")
        loss = torch.tensor(np.random.default_rng(2).exponential(2, 30), requires_grad=True)
        soft_minimum(loss, temperature=0.7).backward()
        share = shares(loss.detach().numpy(), temperature=0.7)
        same(loss.grad.numpy(), share)
        same(share, softmax(-loss.detach().numpy() / 0.7))
        same(share.sum(), 1)
        same(shares(loss, temperature=0.7).numpy(), share)
        assert effective_pairs(np.full(8, 1 / 8)) == pytest.approx(8)
        assert 1 < effective_pairs(share) < 30

    def test_one_pair_is_dpo_for_every_temperature(self):  # other rule 3
        t = terms(1)
        for b in (1e-3, 1.0, 1e3):
            same(dr_dpo(t, beta=BETA, temperature=b), dpo(t, beta=BETA)[0])

    def test_torch_gives_the_same_number(self):
        torch = pytest.importorskip("torch")
        t = terms()
        made = PairTerms(*(None if field is None else torch.tensor(field) for field in t))
        same(dr_dpo(made, beta=BETA, temperature=0.4).numpy(), dr_dpo(t, beta=BETA, temperature=0.4))

    def test_nothing_has_no_soft_minimum(self):
        with pytest.raises(DataError, match="empty batch"):
            soft_minimum(np.zeros(0))

    def test_batch_losses_are_kept_apart(self):
        assert not set(BATCH_LOSSES) & set(LOSSES)
        assert set(BATCH_LOSSES) == set(BATCH_NEEDS)
        assert all(BATCH_LOSSES[name].__name__ == name for name in BATCH_LOSSES)
        t = terms()
        apart = dr_dpo(t._replace(chosen=np.concatenate([t.chosen[:-1], [99.0]])), beta=BETA)
        assert apart != dr_dpo(t, beta=BETA)


class TestWpo:
    def test_a_greedy_answer_weighs_at_least_1_and_a_uniform_policy_exactly(self):  # other 5
        probability = softmax(np.random.default_rng(0).normal(0, 2, (40, 12)), axis=1)
        aligned = np.log(probability.max(axis=1)) - np.log((probability**2).sum(axis=1))
        greedy = np.array([aligned.mean()])
        assert wpo_weight(greedy, greedy, clamp=False)[0] > 1
        assert wpo_weight(greedy, greedy)[0] == 1  # trap 11: the authors' clamp
        even = np.array([math.log(1 / 12) - math.log(12 / 144)])
        same(wpo_weight(even, even, clamp=False), 1)
        same(wpo_weight(np.array([-0.2]), np.array([-0.5])), math.exp(-0.7))

    def test_no_gradient_passes_through_a_weight(self):  # other 5, trap 11
        torch = pytest.importorskip("torch")
        leaf = torch.tensor([0.3], requires_grad=True)
        assert not wpo_weight(leaf, leaf).requires_grad
        loss = torch.tensor([2.0], requires_grad=True)
        weighted(loss, leaf).sum().backward()
        assert leaf.grad is None
        assert float(loss.grad) == pytest.approx(0.3)


def trl_loss(logps, ref, lengths, kinds, *, weights=(1.0,), smoothing=0.0, weighting=False):
    """TRL's own formula for one pair: its `_compute_loss` on a model that answers with the log-probabilities given.

    logps: two lists of log-probabilities of tokens; ref: two sums. Returns the loss, and its gradient in the two sums.
    """
    torch = pytest.importorskip("torch")
    trainer = pytest.importorskip("trl").DPOTrainer
    width = max(lengths)
    leaf = torch.zeros(2, width, dtype=torch.float64)
    mask = torch.zeros(2, width + 1, dtype=torch.long)  # one token of prompt
    for side in range(2):
        leaf[side, : lengths[side]] = torch.tensor(logps[side])
        mask[side, 1 : lengths[side] + 1] = 1
    leaf.requires_grad_()
    outputs = SimpleNamespace(log_probs=leaf, log_sum_sq_probs=torch.full_like(leaf, -1.1).detach())
    for extra in ("entropy", "mean_logits"):
        setattr(outputs, extra, torch.zeros_like(leaf))
    outputs.is_top1 = torch.zeros_like(leaf, dtype=torch.bool)
    itself = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=kinds,
        loss_weights=weights,
        beta=BETA,
        label_smoothing=smoothing,
        use_weighting=weighting,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    inputs = {"completion_mask": mask, "input_ids": mask, "attention_mask": mask}
    for side, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        inputs[name] = torch.tensor([ref[side]], dtype=torch.float64)
    loss = trainer._compute_loss(itself, lambda **_: outputs, inputs, return_outputs=False)
    loss.backward()
    return float(loss.detach()), leaf.grad[:, 0].numpy()


@pytest.mark.trl
class TestTrl:
    """Equality with TRL 1.16, pair by pair, value and gradient; and where its option of that name is another loss."""

    @pytest.fixture(params=range(4))
    def pair(self, request):
        rng = np.random.default_rng(request.param)
        lengths = rng.integers(2, 9, 2).tolist()
        logps = [-rng.uniform(0.1, 4, length) for length in lengths]
        sums = np.array([each.sum() for each in logps])
        ref = (sums + rng.normal(0, 3, 2)).tolist()
        t = PairTerms(*(np.array([each]) for each in sums - ref))
        t = t._replace(chosen_logps=sums[:1], rejected_logps=sums[1:])
        return t._replace(chosen_length=np.array(lengths[:1]), rejected_length=np.array(lengths[1:])), (
            logps,
            ref,
            lengths,
        )

    def equal(self, loss, pair, kinds, *, smoothing=0.0, weights=(1.0,), **settings):
        torch = pytest.importorskip("torch")
        t, given = pair
        value, grad = trl_loss(*given, kinds, smoothing=smoothing, weights=weights)
        sums = torch.stack([torch.tensor(t.chosen_logps), torch.tensor(t.rejected_logps)])[:, 0].requires_grad_()
        made = t._replace(chosen_logps=sums[:1], rejected_logps=sums[1:])
        made = made._replace(chosen=sums[:1] - given[1][0], rejected=sums[1:] - given[1][1])
        made = made._replace(
            chosen_length=torch.tensor(t.chosen_length), rejected_length=torch.tensor(t.rejected_length)
        )
        found = loss(made, **settings).sum()
        found.backward()
        same(float(found.detach()), value)
        same(sums.grad.numpy(), grad)
        same(loss(t, **settings)[0], value)

    def test_sigmoid_is_dpo(self, pair):
        self.equal(dpo, pair, ["sigmoid"], beta=BETA)

    def test_ipo_is_ipo_norm(self, pair):  # trap 6
        self.equal(ipo_norm, pair, ["ipo"], beta=BETA)
        assert abs(ipo(pair[0], beta=BETA)[0] - trl_loss(*pair[1], ["ipo"])[0]) > 0.1

    def test_robust_is_rdpo_robust(self, pair):
        self.equal(rdpo_robust, pair, ["robust"], smoothing=0.2, beta=BETA, flip=0.2)

    def test_cdpo_is_in_trl_only_as_aot_of_a_single_pair(self, pair):
        self.equal(cdpo, pair, ["aot"], smoothing=0.2, beta=BETA, flip=0.2)

    def test_sigmoid_ignores_label_smoothing(self, pair):  # trap 5, other trap 1
        value, _ = trl_loss(*pair[1], ["sigmoid"], smoothing=0.2)
        same(value, dpo(pair[0], beta=BETA)[0])
        assert abs(value - cdpo(pair[0], beta=BETA, flip=0.2)[0]) > 1e-3
        same(slope(cdpo, at_margin(0), beta=BETA, flip=0.2), -BETA * (0.5 - 0.2), 1e-8)
        same(slope(dpo, at_margin(0), beta=BETA), -BETA * 0.5, 1e-8)

    def test_sft_and_its_sum_with_dpo(self, pair):
        self.equal(sft, pair, ["sft"])
        self.equal(rpo_nll, pair, ["sigmoid", "sft"], weights=(1.0, 0.7), beta=BETA, alpha=0.7)

    def test_weighting_is_wpo_without_the_clamp(self, pair):  # trap 11, other trap 2
        t, (logps, ref, lengths) = pair
        weight = wpo_weight(*(np.array([np.mean(each) + 1.1]) for each in logps), clamp=False)
        same(weighted(dpo(t, beta=BETA), weight)[0], trl_loss(logps, ref, lengths, ["sigmoid"], weighting=True)[0])


def test_the_modules_hold_what_the_dicts_name():
    assert all(getattr(losses, name) is loss for name, loss in LOSSES.items())
    public = {
        name
        for name in vars(rating_losses)
        if getattr(vars(rating_losses)[name], "__module__", "").endswith("rating_losses")
    }
    assert {name for name in public if not name.startswith("_")} - {"effective_beta"} <= set(LOSSES)
    assert batch_losses.BATCH_LOSSES is BATCH_LOSSES
