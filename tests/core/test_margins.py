"""Margins into scores and fusion: the identities of the product rule, bounds by a second route, ranks."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pairwright.core import margins
from pairwright.errors import ConfigError, DataError, NotIdentifiable

inner = st.floats(0.01, 0.99)
sources = st.lists(inner, min_size=2, max_size=6)


def agg(*p: float) -> float:
    return float(margins.aggregate([np.array([x]) for x in p])[0])


@given(sources)
def test_fusion_is_symmetric_and_adds_log_odds(p: list[float]) -> None:
    assert agg(*p) == pytest.approx(agg(*reversed(p)), abs=1e-12)
    total = sum(np.log(x / (1 - x)) for x in p)
    assert np.log(agg(*p) / (1 - agg(*p))) == pytest.approx(total, abs=1e-6)


@given(sources)
def test_fusion_equals_the_product_form(p: list[float]) -> None:
    up, down = np.prod(p), np.prod([1 - x for x in p])
    assert agg(*p) == pytest.approx(up / (up + down), abs=1e-12)


@given(inner, inner, inner)
def test_fusion_is_associative(a: float, b: float, c: float) -> None:
    left = agg(float(np.clip(agg(a, b), 1e-6, 1 - 1e-6)), c)
    assert left == pytest.approx(agg(a, b, c), abs=1e-9)


@given(sources)
def test_a_half_says_nothing_and_opposites_cancel(p: list[float]) -> None:
    assert agg(*p, 0.5) == pytest.approx(agg(*p), abs=1e-12)
    assert agg(p[0], 1 - p[0]) == pytest.approx(0.5, abs=1e-12)
    assert agg(*(1 - x for x in p)) == pytest.approx(1 - agg(*p), abs=1e-12)


@given(inner, inner, st.floats(0.001, 0.5))
def test_fusion_rises_in_every_source(a: float, b: float, step: float) -> None:
    more = min(b + step, 0.995)
    assert agg(a, more) > agg(a, b)


def test_known_values_of_fusion() -> None:
    assert agg(0.8, 0.8) == pytest.approx(16 / 17)
    assert agg(0.9, 0.1) == pytest.approx(0.5)
    assert agg(0.9, 0.9, 0.9) == pytest.approx(729 / 730)
    for p in np.linspace(0.02, 0.98, 49):
        assert bool(agg(p, p) == pytest.approx(p)) == bool(abs(p - 0.5) < 1e-9)
    assert agg(0.0, 0.0) == pytest.approx(0, abs=1e-9)
    assert agg(1.0, 1.0) == pytest.approx(1, abs=1e-9)


def test_corners_and_many_sources_stay_finite() -> None:
    corners = np.array(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 0.5, 1.0])).reshape(3, -1)
    assert np.isfinite(margins.aggregate(list(corners))).all()
    assert agg(0.0, 1.0) == pytest.approx(0.5)
    assert np.prod([0.01] * 500) == 0  # the product form has nothing left
    assert sum(margins.log_odds(np.full(1, 0.01))[0] for _ in range(500)) == pytest.approx(500 * np.log(0.01 / 0.99))
    mixed = [0.01] * 250 + [0.99] * 250
    assert agg(*mixed) == pytest.approx(0.5, abs=1e-9)


def test_clipped_linear_at_its_bounds() -> None:
    m = np.array([-9.0, -2.0, 8.0, 18.0, 40.0])
    assert margins.clipped_linear(m, -2, 18).tolist() == [0, 0, 0.5, 1, 1]
    assert margins.clipped_linear(3 * m, -6, 54) == pytest.approx(margins.clipped_linear(m, -2, 18))
    assert not np.allclose(margins.clipped_linear(3 * m, -2, 18), margins.clipped_linear(m, -2, 18))
    assert margins.clipped_linear(np.zeros(1), -2, 18)[0] == pytest.approx(0.1)  # a margin of 0 is evidence against


def literal_search(m: np.ndarray, divisor: float, few: int = 30) -> float:
    """The published loop, step by step."""
    x = float(np.trunc(m.max() / divisor))
    while not ((m > x).sum() < few or (m > x).sum() < m.max() - x or x > m.max()):
        x += 1
    return min(x, float(m.max()))


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(0.05, 60), st.floats(-5, 20), st.sampled_from([1.5, 2.0])
)
def test_bounds_equal_the_published_loop(seed: int, n: int, spread: float, mean: float, divisor: float) -> None:
    rng = np.random.default_rng(seed)
    m = mean + spread * rng.standard_t(3, n)
    found = margins.upper_bound(m, divisor=divisor)
    assert found == literal_search(m, divisor)
    assert (m > found).sum() < max(30, m.max() - found) or found == m.max()


def test_a_bound_far_below_the_largest_margin_may_leave_many_above_it() -> None:
    m = np.linspace(0, 1000, 200)
    assert margins.upper_bound(m, divisor=1.5) == literal_search(m, 1.5) == 666  # 67 above, fewer than 1000 - 666
    step = np.concatenate([np.linspace(0, 90, 300), [100.0]])
    assert margins.upper_bound(step, divisor=1.5) == literal_search(step, 1.5) > 66


def test_bounds_of_whole_numbers_and_of_huge_ones() -> None:
    m = np.repeat(np.arange(-10.0, 30.0), 40)
    assert margins.upper_bound(m, divisor=1.5) == literal_search(m, 1.5)
    assert margins.upper_bound(m * 1e14, divisor=1.5) <= 29e14  # no walk of 1e14 steps
    with pytest.raises(DataError):
        margins.upper_bound(np.array([1.0, np.nan]), divisor=2)
    with pytest.raises(ConfigError, match="hold nothing"):
        margins.clipped_linear(np.array([-3.0, -2.5]), -2.0, margins.upper_bound(np.array([-3.0, -2.5]), divisor=2))


def test_the_largest_margin_scores_one_though_the_search_ends_above_it() -> None:
    m = np.concatenate([np.linspace(-1, 0.9, 200)])  # the search stays at 0, then 1 > max
    top = margins.upper_bound(m, divisor=1.5)
    assert top <= m.max()
    assert margins.clipped_linear(m, -2, top).max() == 1


def test_rewards_of_unit_scale_are_nearly_flat() -> None:
    m = np.random.default_rng(0).uniform(-1, 1, 5000)
    p = margins.clipped_linear(m, -2, margins.upper_bound(m, divisor=1.5))
    assert p[m >= 0].min() > 0.65


def test_the_fitted_scale_is_the_likeliest() -> None:
    rng = np.random.default_rng(1)
    d = rng.normal(0, 6, 20_000)
    m = np.where(rng.random(20_000) < 1 / (1 + np.exp(-d / 3)), d, -d)  # of the labelled direction, true scale 3
    scale = margins.fit_scale(m)
    again = scipy.optimize.minimize_scalar(lambda s: np.logaddexp(0, -m / s).sum(), bounds=(0.1, 50), method="bounded")
    assert scale == pytest.approx(again.x, rel=1e-4)
    assert scale == pytest.approx(3, rel=0.05)
    assert margins.fit_scale(10 * m) == pytest.approx(10 * scale, rel=1e-9)


def test_a_scale_needs_labels_that_it_contradicts() -> None:
    with pytest.raises(NotIdentifiable, match="contradicts no label"):
        margins.fit_scale(np.array([0.5, 1.0, 2.0]))
    with pytest.raises(NotIdentifiable, match="sign"):
        margins.fit_scale(np.array([-5.0, -1.0, 2.0]))


@given(st.lists(st.integers(-5, 5) | st.just(float("nan")), max_size=40))
def test_midranks_equal_those_of_scipy(values: list[float]) -> None:
    v = np.array(values, float)
    known = ~np.isnan(v)
    share = margins.midrank_share(v)
    assert np.isnan(share[~known]).all()
    if known.any():
        wanted = (scipy.stats.rankdata(v[known], method="average") - 0.5) / known.sum()
        assert share[known] == pytest.approx(wanted)


def test_rank_correlation_equals_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 9, 300).astype(float)
    b = a + rng.normal(0, 3, 300)
    assert margins.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert np.isnan(margins.spearman(a, np.ones(300)))


def test_two_sources_that_share_a_length_bias_lose_their_correlation_given_length() -> None:
    rng = np.random.default_rng(3)
    length = rng.normal(size=4000)
    a, b = length + rng.normal(size=4000), length + rng.normal(size=4000)
    assert margins.spearman(a, b) > 0.4
    assert abs(margins.partial_spearman(a, b, length)) < 0.05


def test_an_ensemble_forgets_offsets_and_scales_of_its_members() -> None:
    rng = np.random.default_rng(4)
    m = rng.normal(size=(3, 500))
    mean, sd, k = margins.ensemble(m)
    again = margins.ensemble(m * np.array([[1], [7], [0.01]]))
    assert again[0] == pytest.approx(mean)
    assert again[1] == pytest.approx(sd)
    assert (k == 3).all()
    assert margins.ensemble(np.stack([m[0], m[0]]))[1] == pytest.approx(0, abs=1e-7)


def test_one_model_has_no_disagreement() -> None:
    m = np.array([[1.0, 2.0, 3.0], [2.0, np.nan, 1.0]])
    _, sd, k = margins.ensemble(m)
    assert k.tolist() == [2, 1, 2]
    assert np.isnan(sd).tolist() == [False, True, False]
    assert np.isnan(margins.ensemble(m[:1])[1]).all()
    with pytest.raises(DataError, match="same margin"):
        margins.ensemble(np.array([[1.0, 1.0], [0.0, 1.0]]))
