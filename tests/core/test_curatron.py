"""Repair and ranking of one comparison matrix: exact without noise, silent with few votes, refused without redundancy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from pairwright.core.curatron import LINK, link_matrix, rank_repaired, skew_split
from pairwright.errors import DataError, NotIdentifiable

NAN = np.nan


def strengths(n, seed=0):
    w = np.random.default_rng(seed).normal(size=n)
    return w - w.mean()


def compared(n, *, seed=0, wrong=0.0, seen=1.0, link="logit"):
    """psi(P) without sampling noise; a share of the pairs set to 0.98 against the truth; nan where not seen."""
    rng = np.random.default_rng(seed + 100)
    w = strengths(n, seed)
    i, j = np.triu_indices(n, 1)
    against = LINK[link][0](np.where(w[i] > w[j], 0.02, 0.98))
    bad = rng.random(len(i)) < wrong
    upper = np.where(bad, against, w[i] - w[j])
    upper[rng.random(len(i)) >= seen] = NAN
    value, planted = np.zeros((n, n)), np.zeros((n, n), bool)
    value[i, j], value[j, i] = upper, -upper
    planted[i, j] = planted[j, i] = bad
    return w, value, planted


def distance(strength, w):
    i, j = np.triu_indices(len(w), 1)
    return ((strength[i] > strength[j]) != (w[i] > w[j])).mean()


class TestRankRepaired:
    @pytest.mark.parametrize("link", list(LINK))
    @pytest.mark.parametrize("seen", [1.0, 0.8])
    def test_without_corruption_it_gives_the_strengths(self, link, seen):  # invariant 6
        w, value, _ = compared(40, seen=seen, link=link)
        found = rank_repaired(value, link=link)
        assert found.order_N.tolist() == np.argsort(-w).tolist()
        assert found.copeland_N.tolist() == found.order_N.tolist()
        assert found.strength_N == pytest.approx(w, abs=1e-2)
        assert found.prob_NN == pytest.approx(LINK[link][1](w[:, None] - w), abs=1e-2)

    @pytest.mark.parametrize("seen", [1.0, 0.8, 0.5])
    def test_one_pair_in_ten_against_the_truth_does_not_change_the_order(self, seen):
        errors = []
        for seed in range(10):
            w, value, planted = compared(50, seed=seed, wrong=0.1, seen=seen)
            found = rank_repaired(value)
            errors.append(distance(found.strength_N, w))
            large = planted & np.isfinite(value) & (np.abs(w[:, None] - w) > 1)
            assert seen < 0.8 or (found.sparse_NN != 0)[large].all()
            assert distance(np.nan_to_num(value).sum(axis=1), w) > 0
        assert np.mean(errors) < (0.001 if seen >= 0.8 else 0.02)

    def test_probabilities_of_both_sides_add_to_one_and_the_negative_reverses_the_order(self):  # invariants 2, 11
        _, value, _ = compared(30, wrong=0.05)
        found = rank_repaired(value)
        assert found.prob_NN + found.prob_NN.T == pytest.approx(np.ones((30, 30)), abs=1e-12)
        assert (found.fit.low_PJ == -found.fit.low_PJ.T).all()
        assert rank_repaired(-value).order_N.tolist() == found.order_N[::-1].tolist()
        p = np.random.default_rng(1).permutation(30)
        assert p[rank_repaired(value[p][:, p]).order_N].tolist() == found.order_N.tolist()

    def test_two_or_three_responses_are_ranked_and_nothing_is_suspected(self):  # invariant 5
        for n in (2, 3):
            w, value, _ = compared(n)
            found = rank_repaired(value)
            assert found.fit.status == "no_redundancy"
            assert (found.sparse_NN == 0).all()
            assert distance(found.strength_N, w) == 0
        cycle = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0.0]])
        assert (rank_repaired(cycle).sparse_NN == 0).all()

    def test_equal_strengths_are_ties(self):  # rule 3
        found = rank_repaired(np.zeros((6, 6)))
        assert (found.prob_NN == 0.5).all()
        assert found.order_N.tolist() == list(range(6))

    def test_it_refuses_what_it_cannot_rank(self):
        _, value, _ = compared(8)
        value[:4, 4:] = value[4:, :4] = NAN
        with pytest.raises(NotIdentifiable, match="2 groups"):
            rank_repaired(value)
        with pytest.raises(DataError, match="position bias"):
            rank_repaired(compared(8)[1] + 0.2)

    def test_presentation_order_comes_apart_into_strength_and_bias(self):  # rule 5
        _, value, _ = compared(12)
        skew, symmetric = skew_split(value + 0.3)
        assert skew == pytest.approx(value, abs=1e-12)
        assert symmetric == pytest.approx(np.full((12, 12), 0.3))


class TestLinkMatrix:
    def wins(self, n, votes, seed=0):
        rng = np.random.default_rng(seed)
        w = strengths(n, seed)
        upper = np.triu(rng.binomial(votes, scipy.special.expit(w[:, None] - w)), 1)
        return w, upper + np.tril((votes - upper.T) * (votes > 0), -1).astype(float)

    @pytest.mark.parametrize("votes", [1, 5, 40])
    def test_it_is_skew_and_bounded(self, votes):  # invariant 11
        _, wins = self.wins(12, votes)
        found = link_matrix(wins)
        assert (found.link_NN == -found.link_NN.T).all()
        assert np.abs(found.link_NN).max() <= np.log(2 * votes + 1) + 1e-12
        assert found.mask_NN.all()

    @pytest.mark.parametrize("link", list(LINK))
    def test_the_sd_is_that_of_many_samples(self, link):
        rng, k, p = np.random.default_rng(0), 400, 0.7
        drawn = rng.binomial(k, p, 20_000)
        values = LINK[link][0]((drawn + 0.5) / (k + 1))
        found = link_matrix(np.array([[0, p * k], [(1 - p) * k, 0]]), link=link)
        assert found.sd_NN[0, 1] == pytest.approx(values.std(), rel=0.03)
        assert found.sd_NN[0, 1] == pytest.approx(found.sd_NN[1, 0])
        assert found.sd_NN[0, 0] == 0

    def test_one_vote_per_pair_is_never_suspected(self):  # rule 1
        w, wins = self.wins(40, 1)
        linked = link_matrix(wins)
        found = rank_repaired(linked.link_NN, mask_NN=linked.mask_NN, sd=linked.sd_NN)
        assert (found.sparse_NN == 0).all()
        assert scipy.stats.spearmanr(found.strength_N, w).statistic > 0.8

    def test_pairs_without_votes_are_not_observed(self):
        _, wins = self.wins(6, 3)
        wins[0, 1] = wins[1, 0] = 0
        found = link_matrix(wins)
        assert not found.mask_NN[0, 1]
        assert found.link_NN[0, 1] == 0
        assert found.mask_NN.sum() == 34

    def test_it_says_what_it_cannot_take(self):
        with pytest.raises(DataError, match="positive"):
            link_matrix(np.ones((3, 3)), smooth=0)
        with pytest.raises(DataError, match="at least 0"):
            link_matrix(np.full((3, 3), NAN))
