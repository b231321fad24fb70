"""Bands by rank, overlaps against chance, orders and caps, mirrored mixtures."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pairwright.core import bands, flips, overlap, ranking
from pairwright.errors import ConfigError, NotIdentifiable

columns = st.lists(st.integers(-6, 6) | st.just(float("nan")), min_size=1, max_size=60)
edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda e: e[1] - e[0] > 1e-6).map(tuple)


@given(columns, edges, st.floats(0, 0.3))
def test_widening_a_band_removes_no_pair(values: list[float], edge: tuple[float, float], more: float) -> None:
    v = np.array(values, float)
    narrow = bands.inside([v], [edge]).keep_I
    wide = bands.inside([v], [(max(0, edge[0] - more), min(1, edge[1] + more))]).keep_I
    assert not (narrow & ~wide).any()
    assert not wide[np.isnan(v)].any()


@given(columns)
def test_the_whole_band_keeps_all_that_have_a_score(values: list[float]) -> None:
    v = np.array(values, float)
    assert (bands.inside([v, v], [(0, 1), (0, 1)]).keep_I == ~np.isnan(v)).all()


@given(columns, edges)
def test_a_band_sees_ranks_only_and_ties_go_one_way(values: list[float], edge: tuple[float, float]) -> None:
    v = np.array(values, float)
    keep = bands.inside([v], [edge]).keep_I
    assert (keep == bands.inside([np.exp(v / 3) - 7], [edge]).keep_I).all()
    for level in np.unique(v[~np.isnan(v)]):
        assert len(set(keep[v == level])) == 1


@given(columns, edges, st.floats(0, 1), st.integers(0, 99))
def test_a_floor_is_reached_and_the_bands_that_reached_it_are_told(
    values: list[float], edge: tuple[float, float], floor: float, seed: int
) -> None:
    v = np.array(values, float)
    w = np.random.default_rng(seed).permutation(v)
    got = bands.inside([v, w], [edge, (0.25, 0.75)], floor=floor)
    able = int((~np.isnan(v) & ~np.isnan(w)).sum())
    assert got.keep_I.sum() >= min(int(np.ceil(floor * len(v))), able)
    if got.widened:
        assert (got.keep_I >= bands.inside([v, w], got.bands).keep_I).all()


def test_both_ends_of_a_widened_band_are_on_one_side() -> None:
    v = np.array([1.0, -1.0, -1.0, 0.0, 1.0])  # ranks 0.2 and 0.8: 0.05 beyond the band on either side
    got = bands.inside([v], [(0.25, 0.75)], floor=0.5)
    assert got.keep_I.all()
    assert got.bands == [pytest.approx((0.2, 0.8))]
    assert bands.inside([v], [(0.2, 0.8)]).keep_I.all()


def test_the_middle_eight_of_ten() -> None:
    v = np.arange(10.0)
    got = bands.inside([v], [(0.1, 0.9)])
    assert got.keep_I.tolist() == [False] + [True] * 8 + [False]
    assert got.off_I.argmin() in (4, 5)
    with pytest.raises(ConfigError, match="low below high"):
        bands.inside([v], [(0.9, 0.1)])


def test_random_sets_overlap_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    n, found, wanted, spread = 2000, [], 0.0, 0.0
    for _ in range(400):
        a, b = np.zeros(n, bool), np.zeros(n, bool)
        a[rng.choice(n, 600, replace=False)] = True
        b[rng.choice(n, 1000, replace=False)] = True
        found.append(overlap.overlap(a, b))
        wanted, spread = overlap.chance_overlap(a, b), overlap.spread_of_chance(a, b)
    assert wanted == 0.5
    assert np.mean(found) == pytest.approx(0.5, abs=4 * spread / 20)
    assert np.std(found) == pytest.approx(spread, rel=0.15)
    assert overlap.beyond_chance(a, a) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=50), st.integers(0, 99))
def test_the_order_is_that_of_a_full_sort_whatever_the_order_of_rows(rows: list[tuple[int, int]], seed: int) -> None:
    first, second = (np.array([row[k] for row in rows], float) for k in (0, 1))
    ids = np.arange(len(rows))
    got = ranking.ordered(first, lambda at: [second[at], ids[at]])
    assert got.tolist() == np.lexsort((ids, second, first)).tolist()
    mixed = np.random.default_rng(seed).permutation(len(rows))
    again = ranking.ordered(first[mixed], lambda at: [second[mixed][at], ids[mixed][at]])
    assert mixed[again].tolist() == got.tolist()


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 40), st.integers(1, 4))
def test_caps_are_a_greedy_walk_nested_in_k(code: list[int], k: int, most: int) -> None:
    a, n = np.array(code, np.int64), len(code)
    one, why = ranking.take(k, [(a, most)], n)
    two, _ = ranking.take(k, [(a, most), (np.arange(n), 1)], n)  # the second cap binds nothing: same answer by the loop
    assert (one == two).all()
    assert one.sum() <= k
    assert all(one[a == c].sum() <= most for c in set(code))
    assert not (one & ~ranking.take(k + 3, [(a, most)], n)[0]).any()
    assert not (one & (why >= 0)).any()


def test_place_within_counts_from_zero() -> None:
    assert ranking.place_within(np.array([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]


def mixture(a: float, mu: float, s: float, n: int = 40_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < a, 1, -1) * mu + s * rng.normal(size=n)


@pytest.mark.parametrize("a", [0.6, 0.8, 0.95])
def test_the_mixture_is_found_and_mirrors_when_every_pair_is_swapped(a: float) -> None:
    x = mixture(a, -1.5, 0.8)
    fit = flips.fit_mirrored(x)
    assert (fit.a, fit.mu, fit.s) == pytest.approx((a, -1.5, 0.8), abs=0.03)
    assert flips.fit_mirrored(-x).a == pytest.approx(1 - fit.a, abs=1e-4)


def test_the_cut_is_where_the_weighted_densities_cross() -> None:
    for a in (0.3, 0.5, 0.7, 0.9):
        fit = flips.Mirrored(a, -1.2, 0.9, 1)
        t = flips.bayes_cut(fit)
        right, wrong = (scipy.stats.norm.pdf(t, m, 0.9) for m in (-1.2, 1.2))
        assert a * right == pytest.approx((1 - a) * wrong)
        assert np.sign(t) == np.sign(a - 0.5)


def test_humps_that_overlap_are_not_separable() -> None:
    assert "not separable" in str(flips.why_not_separable(flips.Mirrored(0.8, -0.5, 1.0, 1)))
    assert "not separable" in str(flips.why_not_separable(flips.Mirrored(0.4, -3.0, 1.0, 1)))
    assert flips.why_not_separable(flips.Mirrored(0.8, -2.0, 1.0, 1)) is None
    with pytest.raises(NotIdentifiable):
        flips.fit_mirrored(np.zeros(50))
