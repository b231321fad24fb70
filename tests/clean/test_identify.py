"""What can be known about a data set, before anything is repaired: every row of the refusal table, and who is refused."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from pairwright.clean.evidence import RATED, Case, Cleaning, Evidence, no_evidence
from pairwright.clean.identify import OPTIONS, identify
from pairwright.clean.run import clean
from pairwright.errors import ConfigError, DataError, NotIdentifiable
from pairwright.tables import COMPARISONS


def votes(*rows: tuple) -> pl.DataFrame:
    """(prompt, left, right, outcome) or (..., rater) as judgements, each a draw of its own."""
    held = [dict(zip(("prompt_id", "left_id", "right_id", "outcome", "rater"), row, strict=False)) for row in rows]
    full = [{"rater": "label", "draw": at, **row} for at, row in enumerate(held)]
    return pl.DataFrame(full, schema=COMPARISONS.schema)


def compared(*rows: tuple, derived: bool = False) -> Evidence:
    return no_evidence()._replace(comparisons=votes(*rows), derived=derived)


def rated(*rows: tuple) -> Evidence:
    """(prompt, response, rater, score, model)."""
    return no_evidence()._replace(scores=pl.DataFrame(list(rows), schema=RATED, orient="row"))


def complete(n: int, *, prompts: int = 3, times: int = 1) -> list[tuple]:
    """All pairs of n responses, the lower letter better, so many votes each."""
    pairs = list(combinations("abcdefgh"[:n], 2))
    return [(f"p{p}", left, right, "left") for p in range(prompts) for left, right in pairs for _ in range(times)]


def grid(models: int, *, prompts: int = 40, observed: int | None = None, seed: int = 0) -> Evidence:
    """Prompts x models by one rater, `observed` of them drawn per prompt."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(prompts):
        drawn = rng.permutation(models)[: observed or models].tolist()
        rows += [(f"p{p}", f"m{j}", "judge", float(rng.normal() + j), f"m{j}") for j in drawn]
    return rated(*rows)


def judged(raters: int, *, responses: int = 40) -> Evidence:
    rng = np.random.default_rng(1)
    quality = rng.normal(size=responses)
    rows = [
        (f"p{r // 4}", f"r{r % 4}", f"j{j}", float(quality[r] + 0.1 * rng.normal()), None)
        for r in range(responses)
        for j in range(raters)
    ]
    return rated(*rows)


def only(evidence: Evidence, case: str) -> Case:
    (found,) = [each for each in identify(evidence, Cleaning()) if each.case == case]
    return found


SLOTS = rated(*[(f"p{p}", f"r{k}", "judge", float(k * p % 7), None) for p in range(20) for k in range(4)])
DRAWS = rated(
    *[(f"p{p}", f"{m}{k}", "judge", float(k * p % 7), m) for p in range(20) for m in ("m", "n") for k in range(2)]
)
TABLE = {
    "two responses and one label": (compared(*complete(2)), "comparisons", "not_identifiable", None),
    "a tree of single labels": (
        compared(("p", "a", "b", "left"), ("p", "b", "c", "left")),
        "comparisons",
        "not_identifiable",
        None,
    ),
    "several votes on one pair": (compared(*complete(2, times=3)), "comparisons", "rate_only", "lad"),
    "pairs made from scores": (compared(*complete(4), derived=True), "comparisons", "derived_pairs", None),
    "no outcome at all": (compared(("p", "a", "b", None)), "comparisons", "no_outcomes", None),
    "three responses, all pairs": (compared(*complete(3, times=9)), "comparisons", "detect_only", "lad"),
    "four responses, single votes": (compared(*complete(4)), "comparisons", "detect_only", "lad"),
    "four responses, several votes": (compared(*complete(4, times=9)), "comparisons", "correctable", "lad"),
    "slots without a name": (SLOTS, "models", "slot_columns", None),
    "draws of two models": (DRAWS, "models", "slot_columns", None),
    "17 models, 4 observed": (grid(17, observed=4), "models", "correctable", "two_way"),
    "17 models, 2 observed": (grid(17, observed=2), "models", "too_few", None),
    "30 models, complete": (grid(30), "models", "correctable", "low_rank"),
    "30 models, 8 observed": (grid(30, observed=8), "models", "correctable", "two_way"),
    "one rater": (judged(1), "raters", "one_rater", None),
    "two raters": (judged(2), "raters", "detect_only", "columns"),
    "five raters": (judged(5), "raters", "correctable", "columns"),
    "five raters on three responses": (judged(5, responses=3), "raters", "too_few", None),
}


@pytest.mark.parametrize("name", TABLE)
class TestEveryRowOfTheTable:
    def test_the_status_and_the_method_are_those_of_the_table(self, name: str) -> None:
        evidence, case, status, method = TABLE[name]
        found = only(evidence, case)
        assert (found.status, found.method) == (status, method)

    def test_a_refusal_is_an_answer_in_words_and_proposes_nothing(self, name: str) -> None:
        evidence, case, status, method = TABLE[name]
        found = only(evidence, case)
        assert len(found.words) > 20
        if method is None:
            assert status in found.words or status == "no_outcomes"
            assert clean(evidence, Cleaning()).proposals.is_empty()

    def test_a_forced_method_is_refused_where_nothing_can_be_known(self, name: str) -> None:
        evidence, case, _, method = TABLE[name]
        forced = {"comparisons": "lad", "models": "two_way", "raters": "columns"}[case]
        others = [each.method for each in identify(evidence, Cleaning()) if each.case == "raters"]
        if method is None and not (forced == "two_way" and any(others)):
            with pytest.raises(NotIdentifiable, match="force=true"):
                clean(evidence, Cleaning(method=forced))


class TestComparisons:
    def test_single_labels_name_the_four_options(self) -> None:
        found = only(TABLE["two responses and one label"][0], "comparisons")
        assert found.options == OPTIONS
        assert len(OPTIONS) == 4
        assert "0 errors detectable, 0 correctable within prompts. Nothing was repaired." in found.words

    @pytest.mark.parametrize(("n", "safe", "seen"), [(2, 0, 0), (3, 0, 1), (4, 1, 2), (5, 1, 3), (6, 2, 4), (8, 3, 6)])
    def test_the_cut_bound_of_a_complete_graph_is_told(self, n: int, safe: int, seen: int) -> None:
        facts = only(compared(*complete(n, times=2)), "comparisons").facts
        assert (facts["cap_safe"], facts["cap_detect"]) == ({str(safe): 3}, {str(seen): 3})

    def test_one_prompt_with_cycles_does_not_speak_for_the_others(self) -> None:
        rows = [*complete(4, prompts=1, times=5), ("q", "a", "b", "left"), ("r", "a", "b", "left")]
        found = only(compared(*rows), "comparisons")
        assert (found.facts["correctable"], found.facts["without_cycle"]) == (1, 2)
        assert "1 of 3 prompts can correct" in found.words
        assert "2 have no cycle" in found.words

    def test_single_votes_in_cycles_are_not_called_correctable(self) -> None:
        """One vote has no gross error: nothing of it is ever flagged."""
        evidence = compared(*complete(4)[:-1], ("p2", "c", "d", "right"))
        assert "rarely which pair" in only(evidence, "comparisons").words
        assert clean(evidence, Cleaning()).proposals.is_empty()

    def test_a_prompt_that_hangs_on_one_pair_still_counts_as_having_a_cycle(self) -> None:
        rows = [*complete(4, prompts=1, times=5), ("p0", "d", "e", "left"), ("p0", "d", "e", "left")]
        found = only(compared(*rows), "comparisons")
        assert found.status == "detect_only"
        assert "1 of 1 prompts can show a contradiction" in found.words

    def test_judgements_without_an_outcome_are_counted(self) -> None:
        facts = only(compared(*complete(4, times=2), ("p0", "a", "b", None)), "comparisons").facts
        assert facts["missing"] + facts["votes"] == 3 * 6 * 2 + 1


class TestScores:
    @pytest.mark.parametrize(("raters", "corrected"), [(2, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
    def test_the_row_rule_counts_what_a_row_can_bear(self, raters: int, corrected: int) -> None:
        facts = only(judged(raters), "raters").facts
        assert (facts["correctable"], facts["detectable"]) == (corrected, raters - 1)

    def test_two_raters_are_asked_for_a_third(self) -> None:
        assert any("three or more" in each for each in only(judged(2), "raters").options)

    def test_a_missing_score_is_no_score(self) -> None:
        evidence = judged(3)
        gone = evidence.scores.with_columns(score=pl.when(pl.col("rater") != "j2").then("score"))
        found = only(Evidence(gone, evidence.comparisons), "raters")
        assert (found.status, found.facts["raters"]) == ("detect_only", ["j0", "j1"])

    def test_many_raters_with_some_on_each_response_are_one_scale(self) -> None:
        whole = judged(8).scores
        some = whole.filter(
            (pl.int_range(pl.len()).over("prompt_id", "response_id") + pl.int_range(pl.len()) // 8) % 2 == 0
        )
        found = only(no_evidence()._replace(scores=some), "raters")
        assert (found.method, found.facts["observed_in_a_row"]) == ("two_way", 4)


class TestForced:
    def test_force_runs_it_and_nothing_is_safe(self) -> None:
        strength = {name: at**1.2 / 2 for at, name in enumerate("fedcba")}
        rows = []
        for left, right in combinations("abcdef", 2):
            p = 1 / (1 + np.exp(strength[right] - strength[left]))
            wins = round(40 * (0.05 if left + right == "af" else p))
            rows += [("p", left, right, "left")] * wins + [("p", left, right, "right")] * (40 - wins)
        assert clean(compared(*rows), Cleaning()).facts["safe"] == 1
        done = clean(compared(*rows, derived=True), Cleaning(method="lad", force=True))
        (case,) = done.facts["cases"]
        assert "derived_pairs" in case["forced"]
        assert (case["ran"], done.facts["safe"]) == ("lad", 0)
        assert set(done.proposals["status"]) == {"contested"}

    def test_force_does_not_make_up_a_matrix(self) -> None:
        for evidence in (SLOTS, judged(1)):
            done = clean(evidence, Cleaning(method="two_way", force=True))
            assert {case["outcome"] for case in done.facts["cases"] if "outcome" in case} <= {
                "not_identifiable",
                "done",
            }
            assert done.facts["safe"] == 0

    def test_low_rank_of_a_few_models_is_refused_unless_forced(self) -> None:
        evidence = grid(17, observed=4)
        with pytest.raises(NotIdentifiable, match="needs 20 models and 50% of the cells"):
            clean(evidence, Cleaning(method="low_rank"))
        done = clean(evidence, Cleaning(method="low_rank", force=True, z0=2.0))
        (case,) = [each for each in done.facts["cases"] if each["case"] == "models"]
        assert "needs 20 models" in case["forced"]
        assert (case["ran"], done.facts["safe"]) == ("low_rank", 0)

    def test_what_ran_is_what_was_asked_for(self) -> None:
        done = clean(judged(4), Cleaning(method="two_way"))
        assert [each["ran"] for each in done.facts["cases"] if each["case"] == "raters"] == ["two_way"]

    def test_a_method_for_what_is_not_there_says_what_is(self) -> None:
        with pytest.raises(NotIdentifiable, match="lad works on comparisons, and the data has raters"):
            clean(judged(3), Cleaning(method="lad"))


class TestSettings:
    @pytest.mark.parametrize("wrong", [{"method": "magic"}, {"z0": 0.0}, {"z0": float("nan")}, {"rank": 0}])
    def test_a_setting_that_cannot_be_meant_is_refused(self, wrong: dict) -> None:
        with pytest.raises(ConfigError, match=str(next(iter(wrong)))):
            Cleaning(**wrong)

    def test_a_rater_that_does_not_exist_is_named_with_those_that_do(self) -> None:
        for evidence in (judged(3), compared(*[(*row, "x") for row in complete(4)])):
            with pytest.raises(DataError, match=r"no rater 'j9'; there are (j0, j1, j2|x)"):
                clean(evidence, Cleaning(raters=["j9"]))

    def test_named_raters_are_the_only_ones_that_are_heard(self) -> None:
        rows = [(*row, rater) for row in complete(4, times=2) for rater in ("x", "y")]
        done = clean(compared(*rows), Cleaning(raters=["y"]))
        assert list(done.facts["judges"]["raters"]) == ["y"]
        assert set(done.scores["rater"]) == {"y.bt"}

    def test_nothing_at_all_is_no_crash(self) -> None:
        done = clean(no_evidence(), Cleaning())
        assert (done.facts["cases"], done.proposals.height, done.scores.height) == ([], 0, 0)
