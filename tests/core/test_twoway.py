"""Two-way fits, column regressions and what stands out, against exact solutions and planted faults."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pairwright.core.twoway import (
    TwoWay,
    fit_columns,
    fit_two_way,
    fit_two_way_exact,
    noise_floor,
    robust_scale,
    row_capacity,
    standardised,
    standing_out,
)
from pairwright.errors import DataError, NotIdentifiable

NAN = np.nan
FITS = [fit_two_way, fit_two_way_exact]


def additive(rows, columns, *, seed=0, sd=0.0, observed=None):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(rows, 1)) + rng.normal(size=columns) + sd * rng.normal(size=(rows, columns))
    if observed:
        score[rng.random((rows, columns)).argsort(axis=1).argsort(axis=1) >= observed] = NAN
    return score


def loss(fit):
    return np.nansum(np.abs(fit.residual_PJ))


TABLES = arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(-4, 4).map(float)).flatmap(
    lambda x: arrays(bool, x.shape).map(lambda gone: np.where(gone, NAN, x))
)


@pytest.mark.parametrize("fit", FITS)
class TestEveryTwoWayFit:
    @given(score=TABLES)
    @settings(max_examples=60, deadline=None)
    def test_row_column_and_residual_add_up_to_the_score(self, fit, score):  # invariant 1
        found = fit(score)
        total = found.row_P[:, None] + found.column_J + found.residual_PJ
        known = ~np.isnan(score)
        assert total[known] == pytest.approx(score[known], abs=1e-9)
        assert np.isnan(found.residual_PJ[~known]).all()
        assert np.isnan(found.row_P).tolist() == (~known.any(axis=1)).tolist()
        assert np.isnan(found.column_J).tolist() == (~known.any(axis=0)).tolist()
        for part in range(found.parts):
            assert np.median(found.column_J[found.part_J == part]) == pytest.approx(0, abs=1e-9)

    def test_an_additive_matrix_is_found_exactly_with_missing_cells(self, fit):
        score = additive(40, 9, observed=5)
        found = fit(score)
        assert found.converged
        assert np.nanmax(np.abs(found.residual_PJ)) < 1e-7

    @pytest.mark.parametrize("size", [30.0, 3e4])
    def test_few_gross_cells_of_any_size_move_nothing(self, fit, size):
        score = additive(60, 12)
        truth = fit(score)
        rng = np.random.default_rng(1)
        bad = rng.random(score.shape) < 0.05
        found = fit(np.where(bad, score + size, score))
        assert found.residual_PJ[bad] == pytest.approx(np.full(bad.sum(), size), rel=1e-6)
        assert found.row_P == pytest.approx(truth.row_P, abs=1e-6)

    def test_blocks_that_share_nothing_are_parts_and_a_shift_of_one_stays_in_its_rows(self, fit):
        score = np.full((8, 6), NAN)
        score[:4, :3], score[4:7, 3:5] = additive(4, 3, seed=1), additive(3, 2, seed=2)
        found = fit(score)
        assert found.parts == 2
        assert found.part_P.tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
        assert found.part_J.tolist() == [0, 0, 0, 1, 1, -1]
        shifted = score.copy()
        shifted[4:7] += 100
        again = fit(shifted)
        assert again.column_J == pytest.approx(found.column_J, abs=1e-7, nan_ok=True)
        assert again.row_P[4:7] == pytest.approx(found.row_P[4:7] + 100, abs=1e-7)

    def test_numbers_in_missing_cells_do_not_exist(self, fit):  # invariant 8
        score = additive(12, 5, sd=0.1, observed=3)
        other = np.where(np.isnan(score), -np.inf, score)
        one, two = fit(score), fit(other)
        assert two.row_P.tobytes() == one.row_P.tobytes()
        assert two.residual_PJ.tobytes() == one.residual_PJ.tobytes()

    def test_order_of_rows_and_columns_does_not_matter_and_inputs_are_untouched(self, fit):  # invariants 2, 15
        score = additive(30, 7, sd=0.2, observed=4)
        before = score.tobytes()
        one = fit(score)
        assert score.tobytes() == before
        rng = np.random.default_rng(0)
        p, j = rng.permutation(30), rng.permutation(7)
        two = fit(score[p][:, j])
        assert loss(two) == pytest.approx(loss(one), rel=1e-6)
        if fit is fit_two_way:
            assert two.row_P == pytest.approx(one.row_P[p], abs=1e-5)

    def test_a_matrix_of_one_cell_or_none_is_fitted(self, fit):
        assert fit(np.array([[3.0]])).row_P.tolist() == [3.0]
        empty = fit(np.full((2, 3), NAN))
        assert (empty.parts, empty.part_P.tolist()) == (0, [-1, -1])


class TestAgainstEachOther:
    @given(score=TABLES)
    @settings(max_examples=60, deadline=None)
    def test_the_linear_program_is_never_worse_than_the_polish(self, score):
        exact, polish = fit_two_way_exact(score), fit_two_way(score)
        assert exact.converged
        assert loss(exact) <= loss(polish) + 1e-9

    def test_the_polish_comes_within_five_percent_of_the_least_sum(self):
        for seed in range(10):
            score = additive(80, 12, seed=seed, sd=0.3, observed=[4, 5, 8, 12][seed % 4])
            assert loss(fit_two_way(score)) <= 1.05 * loss(fit_two_way_exact(score))

    def test_the_linear_program_is_the_least_sum_by_another_search(self):
        score = additive(4, 3, sd=1.0)

        def total(offset):
            return np.abs(score - offset[:4, None] - np.append(offset[4:], 0.0)).sum()

        starts = np.random.default_rng(0).normal(size=(20, 6))
        options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-9}
        best = min(scipy.optimize.minimize(total, s, method="Nelder-Mead", options=options).fun for s in starts)
        assert loss(fit_two_way_exact(score)) == pytest.approx(best, rel=2e-3)
        assert loss(fit_two_way_exact(score)) <= best + 1e-9

    def test_the_linear_program_refuses_what_it_cannot_hold(self):
        with pytest.raises(DataError, match="fit_two_way"):
            fit_two_way_exact(np.zeros((1000, 60)))

    def test_the_polish_says_when_it_stops_early(self):
        assert not fit_two_way(additive(60, 9, sd=0.3, observed=4), most=1).converged


class TestScales:
    def test_the_scale_is_the_sd_of_normal_residuals(self):
        residual = np.random.default_rng(0).normal(size=(40_000, 2)) * [1.0, 5.0]
        assert robust_scale(residual) == pytest.approx([1, 5], rel=0.02)
        assert robust_scale(residual)[0] == pytest.approx(
            scipy.stats.median_abs_deviation(residual[:, 0], scale=1 / 1.4826)
        )

    def test_missing_residuals_do_not_enter_and_an_empty_column_has_no_scale(self):
        residual = np.array([[1.0, NAN], [-1.0, NAN], [NAN, NAN], [2.0, NAN], [-2.0, NAN]])
        assert robust_scale(residual) == pytest.approx([1.4826 * 1.5, NAN], nan_ok=True)

    def test_coarse_ratings_fall_back_on_the_mean_and_equal_ones_on_nothing(self):
        residual = np.zeros((10, 3))
        residual[:3, 0] = [1, -1, 1]
        residual[:, 2] = np.arange(10)
        scale = robust_scale(residual)
        assert scale[:2] == pytest.approx([1.2533 * 0.3, 0.0])
        z = standardised(residual, scale)
        assert z[0, 0] == pytest.approx(1 / (1.2533 * 0.3))
        assert (z[:, 1] == 0).all()

    def test_rounding_is_no_scale(self):
        fit = fit_two_way(additive(50, 6) + 100.0)
        residual = fit.residual_PJ.copy()
        residual[3, 2] = 5.0
        assert robust_scale(residual)[[0, 1, 3]].tolist() == [0, 0, 0]
        z = standardised(residual, robust_scale(residual))
        assert [at.tolist() for at in standing_out(z)] == [[3], [2]]

    @pytest.mark.parametrize(("columns", "observed"), [(200, None), (17, 4), (4, None), (17, 8)])
    def test_the_noise_floor_is_the_sd_of_a_cell_however_few_are_observed(self, columns, observed):
        fit = fit_two_way(additive(2000, columns, sd=0.3, observed=observed))
        assert noise_floor(fit) == pytest.approx(0.3, rel=0.05)

    def test_no_cell_to_spare_means_no_noise_floor(self):
        assert np.isnan(noise_floor(fit_two_way(additive(5, 1))))
        assert noise_floor(fit_two_way(additive(30, 6))) == pytest.approx(0, abs=1e-9)


class TestRowCapacity:
    def test_it_is_the_row_rule(self):
        score = np.ones((6, 6))
        for row in range(6):
            score[row, 6 - row :] = NAN  # 6, 5, .. 1 observed
        assert row_capacity(score).correctable_P.tolist() == [2, 2, 1, 1, 0, 0]
        assert row_capacity(score).detectable_P.tolist() == [5, 4, 3, 2, 1, 0]
        assert row_capacity(score, rank=3).correctable_P.tolist() == [1, 1, 0, 0, 0, 0]

    def test_four_observed_cells_correct_one_error_and_not_always_two(self):
        assert row_capacity(np.ones((1, 4))).correctable_P[0] == 1
        columns = np.array([0.0, 1.0, 2.0, 3.0])
        for bad in range(4):
            row = columns.copy()
            row[bad] += 50
            assert np.median(row - columns) == 0  # one error: the row median stands
        row = np.where(columns < 2, columns + 50, columns)
        assert np.median(row - columns) != 0


def faulty_parser(text: str) -> float:
    """The recorded number of the first release: cut at the first dot, evaluated, times ten unless above 1."""
    head = text.split(".")[0]
    value = float(head.split("/")[0]) / float(head.split("/")[1]) if "/" in head else float(head)
    return value if value > 1 else 10 * value


def ratings(rows, seed=0):
    """Four aspects 1 .. 5 and an overall score 1 .. 10 that follows them, rounded."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(rows, 1))
    aspects = np.clip(np.rint(3 + 1.1 * quality + 0.6 * rng.normal(size=(rows, 4))), 1, 5)
    overall = np.clip(np.rint(2 * aspects.mean(axis=1) + 0.5 * rng.normal(size=rows)), 1, 10)
    return aspects, overall


class TestFitColumns:
    def test_residuals_meet_the_condition_of_hubers_estimate(self):
        rng = np.random.default_rng(0)
        score = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + rng.standard_t(2, (300, 4))
        fit = fit_columns(score)
        assert fit.converged_J.all()
        for j in range(4):
            design = score.copy()
            design[:, j] = 1
            bound = 1.345 * fit.scale_J[j]
            gradient = design.T @ np.clip(fit.residual_PJ[:, j], -bound, bound)
            assert np.abs(gradient).max() < 1e-5
            assert score[:, j] - design @ fit.weight_JK[j] == pytest.approx(fit.residual_PJ[:, j], abs=1e-10)

    def test_a_huge_delta_gives_least_squares(self):
        score = np.random.default_rng(0).normal(size=(50, 3))
        design = score.copy()
        design[:, 0] = 1
        expected = np.linalg.lstsq(design, score[:, 0], rcond=None)[0]
        assert fit_columns(score, delta=1e9).weight_JK[0] == pytest.approx(expected, abs=1e-10)

    def test_rows_with_a_missing_cell_are_dropped_whole(self):
        score = np.random.default_rng(0).normal(size=(60, 3))
        dirty = np.concatenate([score, [[NAN, 1e9, 1.0], [1.0, -np.inf, 5.0]]])
        fit, plain = fit_columns(dirty), fit_columns(score)
        assert fit.used_P.tolist() == [True] * 60 + [False] * 2
        assert np.isnan(fit.z_PJ[60:]).all()
        assert fit.z_PJ[:60].tobytes() == plain.z_PJ.tobytes()

    def test_the_faulty_parser_is_the_published_one(self):  # invariant 14
        assert [faulty_parser(text) for text in ("1", "10/10", "8/10", "7.5")] == [10, 10, 8, 7]

    def test_ones_recorded_as_tens_are_listed_and_true_tens_are_not(self):  # invariant 14, E7
        aspects, overall = ratings(20_000)
        recorded = np.array([faulty_parser(f"{score:.0f}") for score in overall])
        wrong = overall == 1
        assert 50 < wrong.sum() < 1000
        assert (recorded[wrong] == 10).all()
        fit = fit_columns(np.column_stack([aspects, recorded]))
        row, column = standing_out(fit.z_PJ)
        listed = np.zeros(len(overall), bool)
        listed[row[column == 4]] = True
        assert listed[wrong].mean() > 0.99
        assert not listed[overall == 10].any()
        assert listed[~wrong].sum() == 0

    def test_it_says_when_it_stops_early_and_then_lists_nothing(self):
        fit = fit_columns(np.random.default_rng(0).standard_t(2, (80, 3)), most=1)
        assert not fit.converged_J.any()
        assert np.isnan(fit.z_PJ).all()
        assert len(standing_out(fit.z_PJ, z0=0)[0]) == 0

    def test_a_copied_column_leaves_nothing_to_explain_and_no_flag(self):
        score = np.random.default_rng(0).normal(size=(40, 2))
        fit = fit_columns(score[:, [0, 1, 0]])
        assert fit.converged_J.all()
        assert (fit.z_PJ[:, [0, 2]] == 0).all()

    def test_too_few_rows_are_refused(self):
        with pytest.raises(NotIdentifiable, match="3 complete rows for 3 columns"):
            fit_columns(np.eye(3))
        with pytest.raises(NotIdentifiable, match="two columns"):
            fit_columns(np.ones((9, 1)))


class TestStandingOut:
    def test_the_largest_come_first_and_missing_never(self):
        z = np.array([[1.0, 6.0, NAN], [-9.0, 5.0, -np.inf]])
        assert [at.tolist() for at in standing_out(z)] == [[1, 0], [0, 1]]

    def test_a_higher_bar_lists_fewer(self):  # invariant 9
        z = np.random.default_rng(0).normal(size=(200, 5)) * 4
        counts = [len(standing_out(z, z0=bar)[0]) for bar in np.arange(0, 20, 0.5)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == 1000

    def test_additive_scores_with_scale_flips_are_found(self):
        score = additive(805, 20, sd=0.3)
        bad = np.random.default_rng(2).random(score.shape) < 0.05
        fit: TwoWay = fit_two_way(np.where(bad, score + 4, score))
        p, j = standing_out(standardised(fit.residual_PJ, robust_scale(fit.residual_PJ)))
        listed = np.zeros(score.shape, bool)
        listed[p, j] = True
        assert listed[bad].mean() > 0.99
        assert listed[~bad].mean() < 1e-4
