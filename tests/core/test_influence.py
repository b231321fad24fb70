"""Influence from slopes and margins: signs, limits and orders of error, against gradients of a model written down here."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pairwright.core.influence import (
    Agreement,
    Step,
    agreement,
    central_slope,
    choose_step,
    forward_slope,
    influence,
    lossdiff,
    losses,
    slope_of_influence,
    steps_for,
    warnings_of,
    weighted,
)
from pairwright.core.margins import spearman
from pairwright.errors import ConfigError, DataError, NotIdentifiable

BETA = 0.7


class Scorer:
    """Log-ratio gap of a pair under one hidden tanh layer: h = f(a) - f(b) - ref, f(x) = v . tanh(U x)."""

    def __init__(self, n: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.a, self.b = rng.normal(size=(2, n, 5))
        self.ref = rng.normal(size=n)
        self.theta = rng.normal(size=4 * 5 + 4)

    def h(self, theta: Any) -> Any:
        u, v = theta[:20].reshape(4, 5), theta[20:]
        return np.tanh(self.a @ u.T) @ v - np.tanh(self.b @ u.T) @ v - self.ref

    def jacobian(self, theta: Any) -> Any:
        """dh/dtheta by the chain rule, (I, 24)."""
        u, v = theta[:20].reshape(4, 5), theta[20:]
        parts = []
        for x in (self.a, self.b):
            t = np.tanh(x @ u.T)
            parts.append(np.concatenate([((1 - t**2) * v)[:, :, None] * x[:, None, :], t[:, :, None]], axis=2))
        du, dv = parts[0][:, :, :5] - parts[1][:, :, :5], parts[0][:, :, 5] - parts[1][:, :, 5]
        return np.concatenate([du.reshape(len(du), -1), dv], axis=1)

    def gradients(self, theta: Any) -> Any:
        """Of the losses, (I, 24), written with the logistic function of scipy."""
        m = BETA * self.h(theta)
        return -BETA * scipy.special.expit(-m)[:, None] * self.jacobian(theta)


@pytest.fixture
def world() -> tuple[Scorer, Any, Any]:
    """Scorer, gradients of its first 6 pairs, and the mean gradient of the others."""
    scorer = Scorer(20)
    g = scorer.gradients(scorer.theta)
    return scorer, g[:6], g[6:].mean(axis=0)


def slope(scorer: Scorer, u: Any, step: float, scheme: str) -> Any:
    here, ahead, behind = (scorer.h(scorer.theta + t * u)[:6] for t in (0.0, step, -step))
    return forward_slope(ahead, here, step) if scheme == "forward" else central_slope(ahead, behind, step)


class TestInfluence:
    def test_is_the_dot_product_of_the_two_gradients(self, world: Any) -> None:
        scorer, g_I, g_V = world
        norm = float(np.linalg.norm(g_V))
        slope_I = (scorer.jacobian(scorer.theta)[:6] @ g_V) / norm
        made_I = influence(slope_I, BETA * scorer.h(scorer.theta)[:6], beta=BETA, norm=norm)
        assert made_I == pytest.approx(g_I @ g_V, rel=1e-12)

    def test_is_above_zero_where_a_step_on_the_pair_lowers_the_validation_loss(self, world: Any) -> None:
        scorer, g_I, g_V = world
        for g, made in zip(g_I, g_I @ g_V, strict=True):
            before, after = (
                losses(BETA * scorer.h(theta))[6:].mean() for theta in (scorer.theta, scorer.theta - 1e-5 * g)
            )
            assert (after < before) == (made > 0)

    @pytest.mark.parametrize(("scheme", "order"), [("central", 4), ("forward", 2)])
    def test_halving_the_step_divides_the_error(self, world: Any, scheme: str, order: int) -> None:
        scorer, g_I, g_V = world
        norm = float(np.linalg.norm(g_V))
        m_I = BETA * scorer.h(scorer.theta)[:6]
        off = [
            np.abs(influence(slope(scorer, g_V / norm, step, scheme), m_I, beta=BETA, norm=norm) - g_I @ g_V).max()
            for step in (0.02, 0.01, 0.005)
        ]
        assert off[0] / off[1] == pytest.approx(order, rel=0.1)
        assert off[1] / off[2] == pytest.approx(order, rel=0.1)

    def test_lossdiff_of_one_plain_step_tends_to_influence_and_its_error_halves(self, world: Any) -> None:
        scorer, g_I, g_V = world
        m_I = BETA * scorer.h(scorer.theta)[:6]
        off = [
            np.abs(lossdiff(m_I, BETA * scorer.h(scorer.theta - eta * g_V)[:6]) / eta - g_I @ g_V).max()
            for eta in (0.02, 0.01, 0.005)
        ]
        assert off[0] / off[1] == pytest.approx(2, rel=0.1)
        assert off[1] / off[2] == pytest.approx(2, rel=0.1)

    @given(st.floats(-30, 30), st.floats(-5, 5))
    def test_turning_a_pair_round_turns_its_sign_and_trades_the_weights(self, m: float, s: float) -> None:
        one, other = (influence(np.array([k * s]), np.array([k * m]), beta=BETA, norm=2.0)[0] for k in (1, -1))
        assert other == pytest.approx(-one * np.exp(m), rel=1e-9)  # -sigmoid(m) / sigmoid(-m)

    @given(st.floats(-20, 20), st.floats(-5, 5))
    def test_its_inverse_gives_the_slope_back(self, m: float, s: float) -> None:
        made = influence(np.array([s]), np.array([m]), beta=BETA, norm=3.0)
        assert slope_of_influence(made, np.array([m]), beta=BETA, norm=3.0)[0] == pytest.approx(s, rel=1e-9, abs=1e-12)

    def test_no_step_and_no_norm_are_refused(self) -> None:
        one = np.ones(1)
        with pytest.raises(ConfigError, match="norm"):
            influence(one, one, beta=0.1, norm=0.0)
        with pytest.raises(ConfigError, match="step"):
            central_slope(one, one, 0.0)

    def test_checkpoints_count_by_their_learning_rates(self) -> None:
        both = np.array([[1.0, 4.0, np.nan], [3.0, 0.0, 1.0]])
        assert weighted(both, np.array([1.0, 3.0]))[:2] == pytest.approx([2.5, 1.0])
        assert np.isnan(weighted(both, np.array([1.0, 3.0]))[2])
        with pytest.raises(ConfigError, match="above 0"):
            weighted(both, np.array([1.0, 0.0]))


class TestMargins:
    @given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
    def test_loss_orders_pairs_as_the_margin_does_backwards(self, m: list[float]) -> None:
        loss = losses(np.array(m))
        order = np.argsort(m)
        assert (np.diff(loss[order]) <= 0).all()

    def test_lossdiff_is_of_the_two_margins_alone_and_finite_far_out(self) -> None:
        m, after = np.array([0.0, 2.0, -800.0]), np.array([1.0, 2.0, 800.0])
        assert lossdiff(m, after) == pytest.approx([np.log(2) - np.log1p(np.exp(-1)), 0.0, 800.0])


class TestAgreement:
    def test_pairs_that_one_does_not_know_are_left_out(self) -> None:
        a, b = np.array([1.0, 2.0, np.nan, 3.0, 4.0]), np.array([2.0, 3.0, 0.0, np.nan, 1.0])
        assert spearman(a, b) == pytest.approx(-0.5)
        assert np.isnan(spearman(a[:3], b[:3]))
        assert agreement(a, b).n == 3

    def test_the_error_of_a_small_value_is_held_against_the_median(self) -> None:
        exact = np.array([0.001, 1.0, -2.0])
        found = agreement(exact + np.array([0.1, 0.0, 0.1]), exact)
        assert found.max_relative == pytest.approx(0.1)
        assert found.n == 3


def tried(*rows: tuple[float, str, float, float]) -> list[Step]:
    return [Step(step, scheme, Agreement(rho, off, 20)) for step, scheme, rho, off in rows]


class TestStep:
    def test_an_accurate_forward_step_saves_a_pass(self) -> None:
        steps = tried((1.0, "forward", 1.0, 0.01), (1.0, "central", 1.0, 1e-4), (0.5, "forward", 1.0, 0.005))
        assert choose_step(steps)[:2] == (0.5, "forward")

    @pytest.mark.parametrize("forward", [(1.0, "forward", 1.0, 0.05), (1.0, "forward", 0.97, 0.01)])
    def test_else_the_most_accurate_of_all(self, forward: tuple[float, str, float, float]) -> None:
        steps = tried(forward, (1.0, "central", 1.0, 1e-4), (9.0, "central", 1.0, 0.3))
        assert choose_step(steps)[:2] == (1.0, "central")

    def test_rounding_is_not_taken_for_influence(self) -> None:
        rng = np.random.default_rng(0)
        exact, here = rng.normal(size=40), rng.normal(size=40) * 100
        steps = []
        for step in (1e-6, 1e-7):
            ahead = (here + step * exact).astype(np.float32).astype(float)
            steps.append(Step(step, "forward", agreement(forward_slope(ahead, here.astype(np.float32), step), exact)))
        with pytest.raises(NotIdentifiable, match=r"no step agrees with the exact sample.*float32"):
            choose_step(steps)
        good = Step(
            1e-1, "forward", agreement(forward_slope((here + 0.1 * exact).astype(np.float32), here, 0.1), exact)
        )
        assert choose_step([*steps, good]).step == 0.1

    def test_one_or_two_pairs_have_no_order_and_are_judged_by_their_error(self) -> None:
        for exact in (np.array([1.0]), np.array([1.0, -2.0]), np.array([1.0, 1.0, 1.0])):
            near, off = (Step(1.0, "forward", agreement(exact * factor, exact)) for factor in (1.01, 1.5))
            assert np.isnan(near.agreement.spearman)
            assert choose_step([off, near]) == near
            with pytest.raises(NotIdentifiable, match="have no order that could speak for it; give more pairs"):
                choose_step([off])

    def test_steps_move_the_median_pair_by_so_many_nats(self) -> None:
        assert steps_for(np.array([-2.0, 0.5, np.nan, 8.0]), (0.1, 1.0)) == pytest.approx([0.05, 0.5])
        with pytest.raises(DataError, match="do not change along the validation gradient"):
            steps_for(np.zeros(4), (0.1,))


class TestWarnings:
    def test_a_theta_val_from_the_reference_is_suspected_and_one_from_theta_is_not(self) -> None:
        rng = np.random.default_rng(0)
        irm, moved = rng.normal(size=200) * 2, rng.normal(size=200) * 0.1
        from_reference, from_theta = lossdiff(irm, moved), lossdiff(irm, irm + moved)
        assert "started at the reference" in warnings_of({"lossdiff": from_reference, "irm": irm})[0]
        assert warnings_of({"lossdiff": from_theta, "irm": irm}) == []

    def test_a_validation_loss_that_did_not_fall_is_told(self) -> None:
        nothing = {"lossdiff": np.full(3, np.nan), "irm": np.arange(3.0)}
        assert warnings_of(nothing, loss_val=(0.5, 0.4)) == []
        assert "did not fall" in warnings_of(nothing, loss_val=(0.5, 0.5))[0]
