"""Agreement against textbook values, scipy and other packages where they are installed."""

import warnings
from itertools import combinations, pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.agreement import (
    agreement_within,
    alpha_interval,
    cohen_kappa,
    krippendorff_alpha,
    saturation,
    spearman_within,
    ties_within,
)
from pairwright.errors import ConfigError, DataError

NAN = np.nan
METRICS = ["nominal", "ordinal", "interval", "ratio"]
# Krippendorff 2011, example C: 12 units, 4 observers
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
DISTANCE = {
    "nominal": lambda a, b, pool: float(a != b),
    "interval": lambda a, b, pool: (a - b) ** 2,
    "ratio": lambda a, b, pool: ((a - b) / (a + b)) ** 2 if a + b else 0.0,
    "ordinal": lambda a, b, pool: (
        (sum(min(a, b) <= g <= max(a, b) for g in pool) - (pool.count(a) + pool.count(b)) / 2) ** 2 if a != b else 0.0
    ),
}


def alpha_by_hand(values, metric):
    """Over all pairs of values, one at a time."""
    units = [[x for x in row if not np.isnan(x)] for row in values]
    units = [unit for unit in units if len(unit) > 1]
    pool = [x for unit in units for x in unit]
    d2 = DISTANCE[metric]
    observed = sum(sum(d2(a, b, pool) for a, b in combinations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(d2(a, b, pool) for a, b in combinations(pool, 2))
    return 1 - (len(pool) - 1) * observed / expected if expected else NAN


CELLS = st.one_of(st.integers(0, 5).map(float), st.just(NAN))
TABLES = st.integers(1, 4).flatmap(lambda j: st.lists(st.lists(CELLS, min_size=j, max_size=j), min_size=1, max_size=8))


class TestKrippendorffAlpha:
    @pytest.mark.parametrize(
        ("metric", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
    )
    def test_it_gives_the_published_values(self, metric, value):
        assert krippendorff_alpha(EXAMPLE, metric=metric) == pytest.approx(value, abs=5e-4)

    @pytest.mark.parametrize("metric", METRICS)
    @settings(max_examples=80, deadline=None)
    @given(values=TABLES)
    def test_it_is_the_sum_over_all_pairs_of_values(self, metric, values):
        found = krippendorff_alpha(np.array(values), metric=metric)
        assert found == pytest.approx(alpha_by_hand(values, metric), abs=1e-12, nan_ok=True)

    @pytest.mark.parametrize("metric", METRICS)
    def test_the_package_krippendorff_agrees(self, metric):
        other = pytest.importorskip("krippendorff")
        rng = np.random.default_rng(3)
        values = np.where(rng.random((60, 5)) < 0.3, NAN, rng.integers(1, 6, (60, 5)).astype(float))
        expected = other.alpha(reliability_data=values.T, level_of_measurement=metric)
        assert krippendorff_alpha(values, metric=metric) == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize("metric", METRICS)
    def test_perfect_agreement_is_one_and_no_variation_is_nan(self, metric):
        same = np.repeat(np.arange(1.0, 5.0)[:, None], 3, axis=1)
        assert krippendorff_alpha(same, metric=metric) == 1.0
        assert np.isnan(krippendorff_alpha(np.full((4, 3), 2.0), metric=metric))

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array([[1.0, NAN], [NAN, 2.0]]), np.full((2, 2), NAN)])
    def test_without_two_values_of_a_unit_it_is_nan(self, metric, values):
        assert np.isnan(krippendorff_alpha(values, metric=metric))
        assert np.isnan(alpha_interval(values, metric=metric, rng=np.random.default_rng(0))).all()

    def test_infinities_are_missing(self):
        dirty = EXAMPLE.copy()
        dirty[0, 2], dirty[9, 0] = -np.inf, np.inf
        assert krippendorff_alpha(dirty, metric="interval") == krippendorff_alpha(EXAMPLE, metric="interval")

    def test_interval_keeps_under_shift_and_scale_and_far_from_zero(self):
        alpha = krippendorff_alpha(EXAMPLE, metric="interval")
        assert krippendorff_alpha(1e6 + 3 * EXAMPLE, metric="interval") == pytest.approx(alpha, abs=1e-8)
        assert krippendorff_alpha(1e200 * EXAMPLE, metric="interval") == pytest.approx(alpha, abs=1e-12)

    def test_ordinal_and_nominal_keep_under_a_rising_change_of_scale(self):
        for metric in ("ordinal", "nominal"):
            changed = krippendorff_alpha(np.exp(EXAMPLE), metric=metric)
            assert changed == krippendorff_alpha(EXAMPLE, metric=metric)

    def test_ratio_refuses_negative_values_and_an_unknown_metric_names_the_known(self):
        with pytest.raises(DataError, match="interval"):
            krippendorff_alpha(-EXAMPLE, metric="ratio")
        with pytest.raises(ConfigError, match="nominal, ordinal"):
            krippendorff_alpha(EXAMPLE, metric="cosine")

    def test_ratio_refuses_a_table_of_distances_that_does_not_fit(self):
        with pytest.raises(DataError, match="round"):
            krippendorff_alpha(np.arange(6000.0).reshape(-1, 2), metric="ratio")


class TestAlphaInterval:
    @pytest.mark.parametrize("metric", METRICS)
    def test_it_holds_the_estimate_and_draws_what_resampled_tables_give(self, metric):
        low, high = alpha_interval(EXAMPLE, metric=metric, rng=np.random.default_rng(5), draws=400)
        kept = EXAMPLE[(~np.isnan(EXAMPLE)).sum(axis=1) > 1]
        rng = np.random.default_rng(5)
        slow = [krippendorff_alpha(kept[rng.integers(0, len(kept), len(kept))], metric=metric) for _ in range(400)]
        assert (low, high) == pytest.approx(tuple(np.nanquantile(slow, [0.025, 0.975])), abs=1e-10)
        assert low < krippendorff_alpha(EXAMPLE, metric=metric) < high

    def test_draws_of_one_value_are_left_out_and_not_made_of_rounding(self):
        values = np.full((3, 5), 1.9)
        values[2, 1:] = 1.9 + 0.7  # a draw of the first two units alone has no variation
        low, high = alpha_interval(values, metric="interval", rng=np.random.default_rng(0), draws=200)
        assert (low, high) == pytest.approx((-1 / 6, 15 / 22))

    def test_nine_of_ten_intervals_hold_the_alpha_of_a_large_sample(self):
        rng = np.random.default_rng(8)

        def ratings(units):
            return rng.normal(size=(units, 1)) + rng.normal(size=(units, 3))

        truth = krippendorff_alpha(ratings(200_000), metric="interval")  # 1/2
        held = 0
        for _ in range(100):
            low, high = alpha_interval(ratings(60), metric="interval", rng=rng, level=0.9, draws=200)
            held += low < truth < high
        assert truth == pytest.approx(0.5, abs=0.01)
        assert 78 <= held <= 97


@st.composite
def two_raters(draw):
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    rows = draw(st.lists(st.tuples(CELLS, CELLS), min_size=sum(sizes), max_size=sum(sizes)))
    return np.array(rows), np.concatenate(([0], np.cumsum(sizes)))


class TestSpearmanWithin:
    @settings(max_examples=200, deadline=None)
    @given(two_raters())
    def test_it_is_scipys_rho_prompt_by_prompt(self, table):
        values, start_P = table
        found = spearman_within(values[:, 0], values[:, 1], start_P)
        for at, (begin, end) in enumerate(pairwise(start_P)):
            a, b = values[begin:end][~np.isnan(values[begin:end]).any(axis=1)].T
            if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
                assert np.isnan(found[at])
            else:
                assert found[at] == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)

    @settings(max_examples=100, deadline=None)
    @given(two_raters())
    def test_the_summary_counts_every_prompt_once(self, table):
        values, start_P = table
        a_R, b_R = values.T
        rho_P = spearman_within(a_R, b_R, start_P)
        told = agreement_within(a_R, b_R, start_P)
        shared = np.add.reduceat(~np.isnan(values).any(axis=1), start_P[:-1], dtype=int)
        assert told.used + told.too_few + told.constant == len(rho_P)
        assert told.used == (~np.isnan(rho_P)).sum()
        assert told.too_few == (shared < 3).sum()
        if told.used > 1:
            assert told.se == pytest.approx(scipy.stats.sem(rho_P[~np.isnan(rho_P)]), abs=1e-12)
        with warnings.catch_warnings(action="ignore"):
            assert told.mean == pytest.approx(np.nanmean(rho_P), nan_ok=True)

    def test_the_standard_error_is_that_of_a_sample_of_prompts(self):
        other = np.array([1.0, 2, 3, 3, 2, 1, 1, 3, 2])
        told = agreement_within(np.tile([1.0, 2, 3], 3), other, np.array([0, 3, 6, 9]))
        rho = [1, -1, 0.5]
        assert told == pytest.approx((np.mean(rho), np.std(rho, ddof=1) / 3**0.5, 3, 0, 0))

    def test_a_prompt_without_responses_is_too_few(self):
        told = agreement_within(np.arange(3.0), np.arange(3.0), np.array([0, 0, 3, 3]))
        assert told == pytest.approx((1.0, NAN, 1, 2, 0), nan_ok=True)

    def test_no_prompts_give_nan_and_zeros(self):
        told = agreement_within(np.zeros(0), np.zeros(0), np.zeros(1, np.int64))
        assert told == pytest.approx((NAN, NAN, 0, 0, 0), nan_ok=True)

    def test_inputs_are_untouched_and_lengths_must_match(self):
        a_R, b_R, start_P = np.array([1.0, NAN, 2, 3]), np.array([2.0, 1, NAN, 3]), np.array([0, 4])
        before = a_R.tobytes(), b_R.tobytes()
        spearman_within(a_R, b_R, start_P)
        assert (a_R.tobytes(), b_R.tobytes()) == before
        with pytest.raises(DataError, match="3 and 4"):
            spearman_within(a_R[:3], b_R, start_P)


class TestCohenKappa:
    def test_it_gives_the_textbook_value(self):
        # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed .7, expected .5
        a = np.repeat([1.0, 1, 0, 0], [20, 5, 10, 15])
        b = np.repeat([1.0, 0, 1, 0], [20, 5, 10, 15])
        assert cohen_kappa(a, b) == pytest.approx(0.4)

    @pytest.mark.parametrize("power", [0, 1, 2])
    @settings(max_examples=60, deadline=None)
    @given(pairs=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20))
    def test_it_is_the_ratio_of_two_means_over_pairs(self, power, pairs):
        values = np.array(pairs)
        a, b = values[~np.isnan(values).any(axis=1)].T
        levels = sorted({*a, *b})
        place = {level: at for at, level in enumerate(levels)}

        def apart(x, y):
            return float(x != y) if power == 0 else float(abs(place[x] - place[y]) ** power)

        found = cohen_kappa(*values.T, power=power)
        if len(levels) < 2:
            assert np.isnan(found)
            return
        observed = np.mean([apart(x, y) for x, y in zip(a, b, strict=True)])
        expected = np.mean([apart(x, y) for x in a for y in b])
        assert found == pytest.approx(1 - observed / expected, abs=1e-12)

    def test_an_unknown_power_and_unequal_lengths_are_refused(self):
        with pytest.raises(ConfigError, match="quadratic"):
            cohen_kappa(np.zeros(2), np.ones(2), power=3)
        with pytest.raises(DataError, match="2 and 3"):
            cohen_kappa(np.zeros(2), np.ones(3))


class TestEndsAndTies:
    def test_saturation_counts_the_known_scores_at_both_ends(self):
        found = saturation(np.array([1, 1, 2, 5, 6, NAN, np.inf]), low=1, high=5)
        assert found == (0.4, 0.4, 5)

    def test_saturation_of_nothing_is_nan_and_a_scale_upside_down_is_refused(self):
        assert saturation(np.full(3, NAN), low=0, high=1) == pytest.approx((NAN, NAN, 0), nan_ok=True)
        with pytest.raises(ConfigError, match="below high"):
            saturation(np.zeros(3), low=1, high=0)

    @settings(max_examples=100, deadline=None)
    @given(two_raters())
    def test_ties_are_counted_over_all_pairs_of_a_prompt(self, table):
        values, start_P = table
        score = values[:, 0]
        tied = compared = 0
        for begin, end in pairwise(start_P):
            for x, y in combinations(score[begin:end][~np.isnan(score[begin:end])], 2):
                tied, compared = tied + (x == y), compared + 1
        assert ties_within(score, start_P) == pytest.approx(tied / compared if compared else NAN, nan_ok=True)
