"""Low rank plus sparse: exact on data of the model, checked by SVD, by convex programming and by other packages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.lowrank import project, split_convex, split_low_rank
from pairwright.errors import ConfigError, DataError, NotConverged, NotIdentifiable

NAN = np.nan


def low_rank(rows, columns, rank, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))


def gross(shape, share, seed=1, size=10.0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, size * rng.choice([-1, 1], shape) * rng.uniform(0.5, 1.5, shape), 0.0)


def off(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


class TestProject:
    @pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12), (1, 5), (4, 1)])
    @pytest.mark.parametrize("rank", [1, 3, 20])
    def test_it_is_the_cut_singular_value_decomposition(self, shape, rank):
        value = np.random.default_rng(0).normal(size=shape)
        left, singular, right = np.linalg.svd(value, full_matrices=False)
        found = project(value, rank)
        assert found.low_PJ == pytest.approx((left[:, :rank] * singular[:rank]) @ right[:rank], abs=1e-12)
        padded = np.append(singular, np.zeros(21))
        assert found.singular_K == pytest.approx(padded[: rank + 1], abs=1e-7)
        assert np.linalg.matrix_rank(found.low_PJ, tol=1e-9) <= rank

    def test_singular_values_of_a_gradient_matrix_come_in_a_pair(self):  # invariant 3
        w = np.random.default_rng(0).normal(size=30)
        w -= w.mean()
        found = project(w[:, None] - w, 2)
        assert found.singular_K[:2] == pytest.approx(np.full(2, np.sqrt(30) * np.linalg.norm(w)), rel=1e-10)
        assert found.singular_K[2] < 1e-6


class TestSplitLowRank:
    @pytest.mark.parametrize(("rows", "columns", "rank"), [(100, 100, 2), (200, 60, 3), (60, 300, 2)])
    @pytest.mark.parametrize("share", [1.0, 0.6])
    def test_it_finds_the_matrix_under_five_percent_of_gross_errors(self, rows, columns, rank, share):
        truth = low_rank(rows, columns, rank)
        errors = gross(truth.shape, 0.05)
        mask = np.random.default_rng(2).random(truth.shape) < share
        fit = split_low_rank(truth + errors, rank=rank, mask_PJ=mask)
        assert fit.status == "exact"
        assert off(fit.low_PJ, truth) < 5e-4
        assert np.linalg.matrix_rank(fit.low_PJ, tol=1e-8 * fit.singular_K[0]) <= rank
        assert (fit.sparse_PJ[~mask] == 0).all()  # invariant 1
        assert off((fit.low_PJ + fit.sparse_PJ)[mask], (truth + errors)[mask]) < 1e-5
        assert ((errors != 0) & mask & (fit.sparse_PJ == 0)).sum() == 0

    def test_no_errors_and_no_noise_give_the_matrix_and_nothing_else(self):  # invariant 6
        truth = low_rank(50, 40, 2)
        fit = split_low_rank(truth, rank=2)
        assert off(fit.low_PJ, truth) < 1e-5
        assert np.abs(fit.sparse_PJ).max() < 1e-3 * np.abs(truth).max()

    @pytest.mark.parametrize("share", [1.0, 0.6])
    def test_with_noise_only_the_gross_cells_are_listed(self, share):
        truth, errors = low_rank(200, 60, 3), gross((200, 60), 0.05)
        noise = 0.3 * np.random.default_rng(5).normal(size=truth.shape)
        mask = np.random.default_rng(2).random(truth.shape) < share
        fit = split_low_rank(truth + errors + noise, rank=3, mask_PJ=mask, sd=0.3)
        assert fit.status == "fixed_point"
        wrong, listed = (errors != 0) & mask, fit.sparse_PJ != 0
        assert listed[wrong].mean() > 0.99
        assert listed[mask & ~wrong].mean() < 2e-3
        assert off(fit.low_PJ, truth) < 0.1
        whole = fit.low_PJ + fit.sparse_PJ
        assert whole[listed] == pytest.approx((truth + errors + noise)[listed])  # kept whole, not shrunk
        with_noise = np.abs((truth + errors + noise - fit.low_PJ)[listed])
        assert with_noise.min() > 4 * 0.3  # rule 6: never below four sd

    def test_the_floor_may_differ_from_cell_to_cell(self):
        truth, errors = low_rank(80, 40, 2), gross((80, 40), 0.03)
        sd = np.where(np.arange(40) < 20, 0.0, 1e6)
        fit = split_low_rank(truth + errors, rank=2, sd=np.broadcast_to(sd, truth.shape))
        assert (fit.sparse_PJ[:, 20:] == 0).all()
        assert (fit.sparse_PJ[:, :20] != 0).any()

    def test_a_full_mask_is_the_unmasked_path_and_missing_cells_never_leak(self):  # invariant 8
        value = low_rank(60, 30, 2) + gross((60, 30), 0.05)
        plain = split_low_rank(value, rank=2)
        masked = split_low_rank(value, rank=2, mask_PJ=np.ones(value.shape, bool))
        assert plain.low_PJ.tobytes() == masked.low_PJ.tobytes()
        mask = np.random.default_rng(2).random(value.shape) < 0.7
        found = [
            split_low_rank(np.where(mask, value, junk), rank=2, mask_PJ=None if np.isnan(junk) else mask)
            for junk in (NAN, 1e300, 0.0)
        ]
        assert np.isfinite(found[0].low_PJ).all()
        assert len({fit.low_PJ.tobytes() for fit in found}) == 1
        assert len({fit.sparse_PJ.tobytes() for fit in found}) == 1

    def test_order_sign_and_transposition_carry_over_and_inputs_are_untouched(self):  # invariants 2, 15
        value = low_rank(50, 30, 2) + gross((50, 30), 0.05)
        before = value.tobytes()
        one = split_low_rank(value, rank=2)
        assert value.tobytes() == before
        rng = np.random.default_rng(0)
        p, j = rng.permutation(50), rng.permutation(30)
        assert split_low_rank(value[p][:, j], rank=2).low_PJ == pytest.approx(one.low_PJ[p][:, j], abs=1e-9)
        assert split_low_rank(-value, rank=2).sparse_PJ == pytest.approx(-one.sparse_PJ, abs=1e-9)
        assert split_low_rank(value.T, rank=2).low_PJ == pytest.approx(one.low_PJ.T, abs=1e-9)
        assert split_low_rank(1e6 * value, rank=2).low_PJ == pytest.approx(1e6 * one.low_PJ, rel=1e-6)

    def test_a_skew_matrix_keeps_its_sign_rule(self):  # invariant 1
        w = np.random.default_rng(0).normal(size=40)
        errors = np.triu(gross((40, 40), 0.05), 1)
        value = w[:, None] - w + errors - errors.T
        fit = split_low_rank(value, rank=2, skew=True)
        assert (fit.low_PJ == -fit.low_PJ.T).all()
        assert fit.sparse_PJ == pytest.approx(-fit.sparse_PJ.T, abs=1e-9)
        assert off(fit.low_PJ, w[:, None] - w) < 1e-4
        drift = np.random.default_rng(1).normal(size=(40, 40))
        crooked = split_low_rank(w[:, None] - w + 0.1 * drift, rank=2, skew=True, sd=0.2)
        assert (crooked.low_PJ == -crooked.low_PJ.T).all()

    @given(st.lists(st.floats(-50, 50), min_size=4, max_size=4), st.sampled_from([1, 2]))
    @settings(max_examples=50, deadline=None)
    def test_a_two_by_two_matrix_never_has_an_error(self, cells, rank):  # invariant 5
        value = np.array(cells).reshape(2, 2)
        for fit in (split_low_rank(value, rank=rank), split_convex(value)):
            assert (fit.sparse_PJ == 0).all()
            assert fit.status == "no_redundancy"

    def test_zeros_are_rank_zero(self):
        fit = split_low_rank(np.zeros((9, 9)), rank=2)
        assert not fit.low_PJ.any()
        assert not fit.sparse_PJ.any()

    def test_it_gives_no_matrix_when_it_stops_early(self):  # rule 7
        with pytest.raises(NotConverged, match="after 2 rounds"):
            split_low_rank(low_rank(50, 30, 2) + gross((50, 30), 0.05), rank=2, most=2)

    def test_where_every_cell_would_be_an_error_it_refuses(self):
        value, mask = low_rank(50, 50, 2), np.random.default_rng(0).random((50, 50)) < 0.15
        with pytest.raises(NotIdentifiable, match="observed cells would be errors"):
            split_low_rank(value + gross((50, 50), 0.2), rank=2, mask_PJ=mask)

    def test_it_says_what_it_cannot_take(self):
        with pytest.raises(ConfigError, match="even rank"):
            split_low_rank(np.zeros((5, 5)), rank=3, skew=True)
        with pytest.raises(ConfigError, match="rank 0"):
            split_low_rank(np.zeros((5, 5)), rank=0)
        with pytest.raises(DataError, match="5 x 4"):
            split_low_rank(np.zeros((5, 4)), rank=2, skew=True)
        with pytest.raises(NotIdentifiable, match="cannot be completed"):
            split_low_rank(np.array([[1.0, NAN, 2.0], [1.0, 2.0, 3.0]]), rank=1)


class TestSplitConvex:
    def test_it_is_exact_in_under_fifty_rounds(self):  # invariant 7
        truth = low_rank(100, 100, 2)
        fit = split_convex(truth + gross(truth.shape, 0.05))
        assert off(fit.low_PJ, truth) < 1e-6
        assert fit.n_iter < 50

    @pytest.mark.parametrize("shape", [(200, 32), (32, 200)])
    def test_it_is_exact_on_tall_and_wide_matrices(self, shape):  # a penalty that grows by 1.5 stops at 8e-3
        truth = low_rank(*shape, 2)
        assert off(split_convex(truth + gross(truth.shape, 0.05)).low_PJ, truth) < 1e-6

    def test_no_other_weight_gives_a_lower_sum(self):
        value, weight = low_rank(60, 40, 2) + 0.3 * np.random.default_rng(5).normal(size=(60, 40)), 1 / 60**0.5

        def total(fit):
            return np.linalg.norm(fit.low_PJ, "nuc") + weight * np.abs(value - fit.low_PJ).sum()

        best = total(split_convex(value))
        assert all(total(split_convex(value, weight=weight * k)) > best for k in (0.7, 0.9, 1.1, 1.3))

    def test_both_routes_agree(self):  # habit 7
        truth = low_rank(120, 80, 2, seed=4)
        value = truth + gross(truth.shape, 0.05)
        mask = np.random.default_rng(2).random(truth.shape) < 0.7
        for seen in (None, mask):
            one, two = split_low_rank(value, rank=2, mask_PJ=seen, tol=1e-9), split_convex(value, mask_PJ=seen)
            assert off(one.low_PJ, two.low_PJ) < 1e-5

    def test_its_singular_values_are_those_of_its_matrix_and_missing_cells_never_leak(self):
        value = low_rank(60, 30, 2) + gross((60, 30), 0.05)
        mask = np.random.default_rng(2).random(value.shape) < 0.7
        one = split_convex(np.where(mask, value, NAN))
        two = split_convex(np.where(mask, value, 1e300), mask_PJ=mask)
        assert one.low_PJ.tobytes() == two.low_PJ.tobytes()
        assert (one.sparse_PJ[~mask] == 0).all()
        singular = np.linalg.svd(one.low_PJ, compute_uv=False)[: len(one.singular_K)]
        assert one.singular_K == pytest.approx(singular, abs=1e-4)

    def test_wide_and_tall_are_alike(self):
        value = low_rank(100, 40, 2) + gross((100, 40), 0.05)
        assert split_convex(value.T).low_PJ == pytest.approx(split_convex(value).low_PJ.T, abs=1e-7)

    def test_it_gives_no_matrix_when_it_stops_early(self):
        with pytest.raises(NotConverged, match="after 3 rounds"):
            split_convex(low_rank(30, 30, 2) + gross((30, 30), 0.05), most=3)

    def test_under_dense_noise_its_sparse_part_is_no_list_of_errors(self):  # rule 12
        truth = low_rank(200, 60, 2)
        noise = 0.3 * np.random.default_rng(5).normal(size=truth.shape)
        assert (split_convex(truth + noise).sparse_PJ != 0).mean() > 0.3

    def test_tensorly_agrees_once_its_weights_are_set_right(self):  # defect 1
        decomposition = pytest.importorskip("tensorly.decomposition")
        truth = low_rank(60, 60, 2)
        value = truth + gross(truth.shape, 0.05)
        right, _ = decomposition.robust_pca(
            value, reg_E=1 / 60**0.5, reg_J=0.5, tol=1e-8, n_iter_max=2000, learning_rate=1.1, verbose=0
        )
        default, _ = decomposition.robust_pca(value, n_iter_max=2000, verbose=0)
        ours = split_convex(value).low_PJ
        assert off(ours, right) < 1e-5
        assert off(default, truth) > 0.1
