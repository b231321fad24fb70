"""Completion and rank by held-out cells: coverage on fresh scores, the true rank, nothing from too little."""

import numpy as np
import pytest

from pairwright.core import completion
from pairwright.core.completion import choose_rank, complete
from pairwright.core.lowrank import split_low_rank
from pairwright.errors import ConfigError, NotIdentifiable

NAN = np.nan


def scores(rows=200, columns=60, rank=3, seed=0, sd=0.3, share=0.5, bad=0.05):
    """True matrix, fresh honest scores of every cell, what was recorded, where."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    recorded = truth + sd * rng.normal(size=truth.shape) + np.where(rng.random(truth.shape) < bad, 8.0, 0.0)
    fresh = truth + sd * rng.normal(size=truth.shape)
    return truth, fresh, recorded, rng.random(truth.shape) < share


class TestComplete:
    @pytest.mark.parametrize(("share", "bad", "sd"), [(0.5, 0.05, 0.3), (0.5, 0.0, 0.3), (0.7, 0.05, 0.6)])
    def test_two_of_three_fresh_scores_of_missing_cells_lie_within_the_error_bar(self, share, bad, sd):
        _, fresh, recorded, mask = scores(share=share, bad=bad, sd=sd)
        found = complete(recorded, rank=3, mask_PJ=mask, rng=np.random.default_rng(1), sd=sd)
        within = np.abs(fresh - found.value_PJ) < found.sd_PJ
        assert 0.64 < within[~mask].mean() < 0.76
        assert found.noise == pytest.approx(sd, rel=0.15)
        assert found.factor == pytest.approx(1, abs=0.1)

    def test_bars_are_wider_where_less_is_known(self):
        _, _, recorded, mask = scores(share=0.8)
        mask[:40, 12:] = False  # the first rows have a fifth of the others' cells
        found = complete(recorded, rank=3, mask_PJ=mask, rng=np.random.default_rng(1), sd=0.3)
        assert np.nanmedian(found.sd_PJ[:40, 12:]) > 1.1 * np.nanmedian(found.sd_PJ[40:])

    def test_a_row_with_no_more_cells_than_the_rank_is_not_completed(self):
        _, _, recorded, mask = scores()
        mask[0] = False
        mask[0, :3] = True
        found = complete(recorded, rank=3, mask_PJ=mask, rng=np.random.default_rng(1), sd=0.3)
        assert np.isnan(found.value_PJ[0]).all()
        assert np.isnan(found.sd_PJ[0]).all()
        assert np.isfinite(found.value_PJ[1:]).all()

    def test_junk_in_missing_cells_never_leaks_and_the_same_seed_gives_the_same(self):
        _, _, recorded, mask = scores(rows=80, columns=40)
        one, two = (
            complete(np.where(mask, recorded, junk), rank=3, mask_PJ=mask, rng=np.random.default_rng(3), sd=0.3)
            for junk in (NAN, 1e300)
        )
        assert one.value_PJ.tobytes() == two.value_PJ.tobytes()
        assert one.sd_PJ.tobytes() == two.sd_PJ.tobytes()

    def test_exact_data_have_no_noise_and_tight_bars(self):
        truth, _, _, mask = scores(sd=0.0, bad=0.0, share=0.7)
        found = complete(np.where(mask, truth, NAN), rank=3, rng=np.random.default_rng(0))
        assert found.value_PJ == pytest.approx(truth, abs=0.01)
        assert np.median(found.sd_PJ) < 1e-3

    def test_settings_without_sense_are_refused(self):
        with pytest.raises(ConfigError, match="rank 0"):
            complete(np.ones((9, 9)), rank=0, rng=np.random.default_rng(0))


class TestChooseRank:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_it_finds_the_rank_of_the_data(self, rank):
        _, _, recorded, mask = scores(rank=rank)
        found = choose_rank(recorded, range(6), mask_PJ=mask, rng=np.random.default_rng(0), sd=0.3)
        assert found.rank == rank
        assert found.rank_K.tolist() == [0, 1, 2, 3, 4, 5]

    def test_noise_alone_is_rank_zero(self):
        noise = np.random.default_rng(0).normal(size=(80, 40))
        assert choose_rank(noise, range(4), rng=np.random.default_rng(0), sd=1.0).rank == 0

    def test_held_out_cells_were_not_seen(self):
        noise = np.random.default_rng(0).normal(size=(80, 40))
        found = choose_rank(noise, [0, 20], rng=np.random.default_rng(0), sd=1.0)
        assert not found.error_K[1] <= 0.9 * found.error_K[0]  # a fit of what it has seen would halve it

    def test_a_comparison_matrix_has_rank_two(self):
        w = np.random.default_rng(0).normal(size=40)
        noise = np.triu(0.3 * np.random.default_rng(1).normal(size=(40, 40)), 1)
        value = w[:, None] - w + noise - noise.T
        found = choose_rank(value, [0, 2, 4], rng=np.random.default_rng(0), sd=0.3, skew=True)
        assert found.rank == 2

    def test_every_fit_of_a_comparison_matrix_sees_both_sides_of_a_pair_or_none(self, monkeypatch):
        masks = []

        def spy(value, **settings):
            masks.append(settings["mask_PJ"])
            return split_low_rank(value, **settings)

        monkeypatch.setattr(completion, "split_low_rank", spy)
        w = np.random.default_rng(0).normal(size=20)
        choose_rank(w[:, None] - w, [2], rng=np.random.default_rng(0), skew=True)
        assert len(masks) == 5
        assert all((mask == mask.T).all() and not mask[~np.eye(20, dtype=bool)].all() for mask in masks)

    def test_no_fit_at_any_rank_is_refused(self):
        value = np.random.default_rng(0).normal(size=(4, 4))
        with pytest.raises(NotIdentifiable, match="no rank"):
            choose_rank(value, [3], rng=np.random.default_rng(0))

    def test_one_fold_is_refused(self):
        with pytest.raises(ConfigError, match="1 folds"):
            choose_rank(np.ones((9, 9)), [1], rng=np.random.default_rng(0), folds=1)
