"""The evidence for cleaning, on toy settings: what must hold by mathematics, whatever the draw.

Seeds are fixed, so a run is red or green for good. Over new seeds a false red has probability 0 for the cut bound, the
oracle, the refusals, the parser and the counts. Measured for the rest: PCP misordered none of 2,000 noise-free problems of
10 and 15 items; the column regression fell below its bars in none of 200 draws.
"""

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "claims"))

import book
import cleaning
import cleaning_data
import planted_comparisons as planted
import planted_scores as scores

from pairwright.core.comparisons import prompt_of, sum_at

SEEDS = 4


def every_order(at: planted.Problem) -> dict[str, planted.Answer]:
    plain, refit = planted.lad_and_refit(at)
    return {
        "Copeland": planted.copeland(at),
        "MLE": planted.mle(at),
        "LAD": plain,
        "refit": refit,
        "AltProj": planted.by_matrix(at, planted.altproj),
        "PCP": planted.by_matrix(at, planted.pcp),
    }


def per_problem(at: planted.Problem, value_I: np.ndarray) -> np.ndarray:
    return sum_at(prompt_of(at.pairs), value_I.astype(float), SEEDS)


class TestComparisons:
    @pytest.mark.parametrize("n", [10, 15])
    def test_without_noise_and_errors_every_method_orders_all_pairs_right(self, n):
        at = planted.draw(n, SEEDS, planted.ENDLESS, 0.0)
        for arm, told in every_order(at).items():
            assert (planted.measures(at, told)["dist"] == 0).all(), arm

    @pytest.mark.parametrize(("n", "share"), [(8, 0.2), (12, 0.4)])
    def test_with_the_wrong_pairs_removed_the_order_is_exact(self, n, share):
        at = planted.draw(n, SEEDS, planted.ENDLESS, share, kind="targeted")
        assert (planted.measures(at, planted.without(at, at.bad_I))["dist"] == 0).all()

    @pytest.mark.parametrize("n", range(4, 10))
    def test_lad_bears_errors_at_one_item_up_to_the_cut_bound_and_no_further(self, n):
        for wrong in range(n):
            exact, unique = planted.lad_exact(planted.at_one_item(n, wrong, SEEDS), n)
            if wrong <= (n - 2) // 2:
                assert exact.all() and unique.all(), wrong
            elif 2 * wrong > n - 1:
                assert not exact.any(), wrong
            else:
                assert not unique.any(), wrong

    @pytest.mark.parametrize("observed", [1.0, 0.5])
    def test_inverted_pairs_are_the_share_asked_for_and_speak_against_the_truth(self, observed):
        at = planted.draw(12, SEEDS, planted.ENDLESS, 0.25, observed=observed)
        assert (per_problem(at, at.bad_I) == np.rint(0.25 * per_problem(at, at.bad_I | True))).all()
        away_I = at.truth_R[at.pairs.left_I] - at.truth_R[at.pairs.right_I]
        assert ((at.m_I * away_I > 0) == ~at.bad_I).all()
        assert np.allclose(np.abs(at.m_I[at.bad_I]), np.log(0.98 / 0.02))

    def test_targeted_pairs_demote_the_top_tenth_alone(self):
        at = planted.draw(20, SEEDS, planted.ENDLESS, 0.5, kind="targeted")
        truth = at.truth_R.reshape(SEEDS, 20)
        top_R = (truth >= np.sort(truth, axis=1)[:, [-2]]).ravel()
        assert (top_R[at.pairs.left_I[at.bad_I]] != top_R[at.pairs.right_I[at.bad_I]]).all()
        assert (per_problem(at, at.bad_I) == 2 * 9).all()  # half of 18 pairs with the others, each

    def test_random_removal_takes_as_many_pairs_of_each_problem_as_were_flagged(self):
        at = planted.draw(9, SEEDS, 20, 0.0)
        rng = np.random.default_rng(0)
        flagged_I = rng.random(len(at.bad_I)) < np.array([0.0, 0.1, 0.5, 1.0])[prompt_of(at.pairs)]
        taken_I = planted.as_many(at, flagged_I, rng)
        assert (per_problem(at, taken_I) == per_problem(at, flagged_I)).all()
        assert (taken_I != flagged_I).any()

    def test_measures_of_flags_agree_with_counting(self):
        at = planted.draw(6, SEEDS, 20, 0.2)
        flagged_I = np.random.default_rng(1).random(len(at.bad_I)) < 0.3
        told = planted.measures(at, planted.Answer(at.truth_R, flagged_I))
        for p in range(SEEDS):
            here = prompt_of(at.pairs) == p
            gap = np.abs(at.truth_R[at.pairs.left_I] - at.truth_R[at.pairs.right_I])[here]
            bad, flag = at.bad_I[here], flagged_I[here]
            assert told["recall"][p] == pytest.approx(gap[bad & flag].sum() / gap[bad].sum())
            assert told["precision"][p] == pytest.approx((bad & flag).sum() / flag.sum())
            assert told["false_flags"][p] == pytest.approx((~bad & flag).sum() / (~bad).sum())
        assert (told["dist"] == 0).all()

    def test_a_matrix_fit_that_refuses_is_counted_and_orders_as_copeland(self):
        def refuse(*_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise planted.NotIdentifiable("no")

        at = planted.draw(7, SEEDS, 20, 0.2)
        told = planted.by_matrix(at, refuse)
        assert (told.failed_P == 1).all() and not told.flagged_I.any()
        assert (told.score_R == planted.copeland(at).score_R).all()

    def test_two_responses_and_two_by_two_matrices_hold_no_error(self, capsys):
        told = book.Book()
        planted.e6(told, small=True, seeds=2)
        assert [verdict["holds"] for verdict in told.verdicts] == [True]


class TestScores:
    @pytest.mark.parametrize(
        ("text", "value"), [("1", 10), ("10/10", 10), ("8/10", 8), ("7.5", 7), ("1/10", 1), ("2", 2), ("8.5/10", 8)]
    )
    def test_the_faulty_parser_reads_one_as_ten(self, text, value):
        assert scores.faulty_parse(text) == pytest.approx(value)

    def test_one_in_a_hundred_is_a_one_recorded_as_ten_and_nothing_else_is_wrong_by_more_than_rounding(self):
        at = scores.completions(3000, np.random.default_rng(0))
        assert at.wrong_R.sum() == 30
        assert (at.value_RJ[at.wrong_R, 4] == 10).all()

    def test_column_regression_lists_the_ones_and_not_the_honest_tens(self):
        at = scores.completions(3000, np.random.default_rng(1))
        listed_R = scores.columns(at.value_RJ).listed_PJ[:, 4]
        whole_R = np.isfinite(at.value_RJ).all(axis=1)
        assert listed_R[at.wrong_R & whole_R].mean() > 0.9
        assert at.wrong_R[listed_R].mean() > 0.9
        assert ((at.value_RJ[:, 4] == 10) & ~at.wrong_R).sum() > 30  # honest tens are there to be told apart

    def test_the_additive_fits_recover_additive_scores_without_noise(self):
        truth = np.add.outer(np.arange(30.0) % 7, np.array([0.0, 1.0, -2.0, 0.5, 0.25]))
        seen = np.where(np.eye(30, 5) == 1, np.nan, truth)
        clean = scores.Scores(seen, truth, np.zeros(truth.shape, bool))
        assert scores.measures(clean, scores.two_means)["error"] < 1e-12
        gross = np.zeros(truth.shape, bool)
        gross[[3, 11, 20], [0, 2, 4]] = True  # one a row, far less than half of a column
        dirty = scores.Scores(truth + 5.0 * gross, truth, gross)
        assert scores.measures(dirty, scores.two_way_residual)["error"] < 1e-12
        assert scores.measures(dirty, scores.two_means)["error"] > 0.01
        assert scores.measures(dirty, scores.two_way_residual)["auc"] == 1

    def test_a_flip_that_changes_nothing_is_no_error_and_four_models_are_seen(self):
        at = scores.rated(200, 0.3, np.random.default_rng(2))
        known = np.isfinite(at.value_PJ)
        assert (known.sum(axis=1) == 4).all()
        assert not (at.gross_PJ & ~known).any()
        assert (at.value_PJ[at.gross_PJ] != 3).all()


class TestReal:
    def test_raters_that_agree_predict_the_one_left_out(self):
        rng = np.random.default_rng(3)
        start_P = np.arange(5) * 6
        score_RJ = np.tile(rng.permuted(np.tile(np.arange(6.0), (4, 1)), axis=1).ravel()[:, None], 4)
        slots = np.tile(np.arange(3), (24, 1))
        told = cleaning_data.left_out(score_RJ, start_P, slots)
        assert len(told) == 10
        for arm, rho_P in told.items():
            if not arm.startswith("LAD"):  # unanimous votes are all equally far apart: L1 leaves responses level
                assert rho_P == pytest.approx(1), arm

    def test_the_share_of_cycles_is_that_of_random_tournaments_at_one_half(self):
        assert cleaning_data.cyclic_share(0.0) == 0
        orders = 24  # of 64 tournaments on four responses
        assert cleaning_data.cyclic_share(0.5) == pytest.approx(1 - orders / 64)
        most = cleaning_data.most_flips(100)
        assert (1 - cleaning_data.cyclic_share(most)) ** 100 == pytest.approx(0.05)

    def test_a_split_vote_is_a_tie_and_no_vote_is_none(self):
        label_IJ = np.array([[1, 1, 0], [1, 0, -1], [-1, -1, -1], [2, 2, 1], [1, 0, 2]])
        assert cleaning_data.majority(label_IJ).tolist() == [1, 2, -1, 2, 2]

    def test_an_absent_folder_is_a_sentence_and_no_result(self, tmp_path, capsys):
        told = book.Book()
        cleaning.real_sets(told, tmp_path / "none", small=True)
        assert "not run, no folder" in capsys.readouterr().out
        assert told.values == {}


class TestBook:
    def test_auc_and_precision_agree_with_counting_pairs(self):
        rng = np.random.default_rng(4)
        score, hit = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.3
        wins = [(a > b) + (a == b) / 2 for a, b in product(score[hit], score[~hit])]
        assert book.auc(score, hit) == pytest.approx(np.mean(wins))
        drawn = []
        for _ in range(4000):  # ties at the edge: the mean over random orders
            top = np.lexsort((rng.random(40), -score))[: hit.sum()]
            drawn.append(hit[top].mean())
        assert book.precision_at(score, hit) == pytest.approx(np.mean(drawn), abs=0.01)

    def test_an_interval_is_students_and_leaves_nan_out(self):
        told = book.interval(np.array([1.0, 2.0, 3.0, np.nan]))
        assert (told.mean, told.n) == (2.0, 3)
        assert told.half == pytest.approx(4.302653 / 3**0.5)

    def test_a_verdict_over_cells_holds_only_where_all_do_and_names_the_others(self, capsys):
        told = book.Book()
        told.verdict_cells("E", "both", ["a", "b"], lambda cell: (cell == "a", f"number of {cell}"))
        assert told.verdicts[0]["holds"] is False
        assert "in 1 of 2 cells; not in b (number of b)" in told.verdicts[0]["numbers"]
        told.verdict_cells("E", "none", [], lambda cell: (True, ""))
        assert told.verdicts[1]["holds"] is False

    def test_nothing_beats_it_only_if_no_paired_interval_clears_zero(self, capsys):
        told = book.Book()
        base = np.linspace(0, 1, 20)
        for arm, value in (("simple", base), ("better", base + 0.1 + 0.01 * base), ("same", base[::-1])):
            told.add("x", "c", arm, hit=value)
        cleaning_data.against(told, "x", "c", "simple", "hit")
        cleaning_data.against(told, "x", "c", "simple", "hit", less=True)
        assert [verdict["holds"] for verdict in told.verdicts] == [False, True]
        assert told.verdicts[0]["numbers"].count("+") == 1
        assert "worse: better" in told.verdicts[1]["numbers"]

    def test_the_file_is_json_with_null_for_what_is_not_known(self, tmp_path):
        told = book.Book()
        told.add("E", "c", "arm", dist=np.array([np.nan]), one=np.array([2.0]))
        told.write(tmp_path / "out.json", small=True)
        read = json.loads((tmp_path / "out.json").read_text())
        assert read["results"][0]["mean"] is None
        assert read["results"][1]["mean"] == 2.0 and read["results"][1]["half"] is None
