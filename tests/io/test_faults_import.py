"""Faults seen in the field, as small inputs: what import must make of them, and what it must not."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pytest
from layout_samples import talk

from pairwright.io.layouts import LAYOUTS, CandidateRow, Lost, Options, PairRow, best_worst, read_row, to_pair
from pairwright.io.layouts.files import fold
from pairwright.io.layouts.model import Refused
from pairwright.io.layouts.ratings import by_aspect, means, parse_rating

Row = dict[str, Any]
PLAIN = Options()


class Imported(NamedTuple):
    """The rows that came through and the ledger, both by id."""

    rows: dict[str, Any]
    ledger: dict[str, str]


def bring_in(layout: str, rows: Mapping[str, Row], options: Options = PLAIN, *, pair: bool = False) -> Imported:
    """Every row read, and paired where the layout holds candidates and `pair` asks for it; the two add up."""
    done = Imported({}, {})
    for name, row in rows.items():
        read = read_row(LAYOUTS[layout], row, options)
        if pair and isinstance(read, CandidateRow):
            try:
                read = to_pair(read)
            except Refused as refused:
                read = refused.lost
        if isinstance(read, Lost):
            done.ledger[name] = read.reason
        else:
            done.rows[name] = read
    assert len(done.rows) + len(done.ledger) == len(rows)
    return done


def sides(row: PairRow) -> tuple[str, str]:
    return row.chosen[-1]["content"], row.rejected[-1]["content"]


def completion(said: str, overall: object, ratings: Iterable[object]) -> Row:
    aspects = ("help", "honest", "instruct", "truth")
    notes = {aspect: {"Rating": rating} for aspect, rating in zip(aspects, ratings, strict=False)}
    return {
        "model": "m",
        "response": said,
        "annotations": notes,
        **({} if overall is None else {"overall_score": overall}),
    }


class TestF13OnesStoredAsTens:
    ROW: Mapping[str, Any] = {
        "instruction": "Q",
        "completions": [
            completion("w", 10, ["1", "1", "2", "1"]),
            completion("x", 10, ["5", "5", "5", "5"]),
            completion("y", 7.5, ["4", "4", "3", "4"]),
            completion("z", 2, ["1", "2", "2", "1"]),
        ],
    }

    def test_a_ten_that_its_aspects_contradict_is_set_aside_and_kept_as_it_was(self) -> None:
        read = bring_in("ultrafeedback", {"p1": dict(self.ROW)}).rows["p1"]
        assert [c.score for c in read.candidates] == [None, 10.0, 7.5, 2.0]
        assert [c.reason for c in read.candidates] == ["overall_contradicts_aspects", None, None, None]
        assert [c.extra["overall_score"] for c in read.candidates] == [10, 10, 7.5, 2]

    def test_it_is_not_chosen(self) -> None:
        pair = bring_in("ultrafeedback", {"p1": dict(self.ROW)}, pair=True).rows["p1"]
        assert (*sides(pair), pair.margin) == ("x", "z", 8.0)

    def test_it_becomes_the_one_it_was_only_on_request(self) -> None:
        read = bring_in("ultrafeedback", {"p1": dict(self.ROW)}, Options(repair_tens=True)).rows["p1"]
        assert [c.score for c in read.candidates] == [1.0, 10.0, 7.5, 2.0]
        assert read.notes == ("ten_was_one",)
        pair = to_pair(read)
        assert (*sides(pair), pair.margin) == ("x", "w", 9.0)
        assert [c.extra["overall_score"] for c in read.candidates] == [10, 10, 7.5, 2]

    def test_a_ten_without_aspects_is_kept_and_reported(self) -> None:
        row = {"instruction": "Q", "completions": [completion("w", "10", []), completion("x", 3, [])]}
        read = bring_in("ultrafeedback", {"p1": row}).rows["p1"]
        assert read.candidates[0].score == 10.0
        assert read.notes == ("ten_without_aspects",)


class TestF15NotAvailableIsNotMinusOne:
    ROW: Mapping[str, Any] = {
        "instruction": "Q",
        "completions": [completion("a", None, ["4", "N/A", "4", "4"]), completion("b", None, ["3", "3", "3", "4"])],
    }

    def test_the_mean_is_over_the_aspects_that_are_there(self) -> None:
        read = bring_in("ultrafeedback", {"p1": dict(self.ROW)}).rows["p1"]
        assert [c.score for c in read.candidates] == [4.0, 3.25]
        assert read.candidates[0].gaps == {"honest": "rating_na"}
        pair = to_pair(read)
        assert (*sides(pair), pair.margin) == ("a", "b", 0.75)

    def test_or_over_the_aspects_that_all_have(self) -> None:
        read = bring_in("ultrafeedback", {"p1": dict(self.ROW)}, Options(shared_aspects=True)).rows["p1"]
        assert [c.score for c in read.candidates] == pytest.approx([4.0, 10 / 3])

    def test_the_mean_of_aspects_can_replace_an_overall_score(self) -> None:
        row = {"instruction": "Q", "completions": [completion("a", 9, ["1", "2"]), completion("b", 8, ["4", "5"])]}
        read = bring_in("ultrafeedback", {"p1": row}, Options(score="aspects")).rows["p1"]
        assert [c.score for c in read.candidates] == [1.5, 4.5]


class TestF16RatingsAreStrings:
    GIVEN = ("10", "9", " 4.5 ", "4/5", "N/A", "", "five", None, 8.0)
    EXPECT = (10.0, 9.0, 4.5, None, None, None, None, None, 8.0)
    REASONS = ("ambiguous_rating", "rating_na", "rating_empty", "rating_not_a_number", "rating_missing")

    def test_a_rating_is_a_number_or_missing_with_a_reason(self) -> None:
        parsed = [parse_rating(value) for value in self.GIVEN]
        assert tuple(value for value, _ in parsed) == self.EXPECT
        assert tuple(reason for _, reason in parsed if reason) == self.REASONS

    @pytest.mark.parametrize("odd", [True, float("nan"), float("inf"), "nan", "inf", [1], {}])
    def test_nothing_else_is_a_number(self, odd: object) -> None:
        assert parse_rating(odd) == (None, "rating_not_a_number")

    @pytest.mark.parametrize("layout", ["rlhflow", "distilabel_generations", "ultrafeedback"])
    def test_ten_beats_nine_and_points_are_not_cut(self, layout: str) -> None:
        texts = list("abcdefghi")
        row: Row = {
            "rlhflow": {"prompt": "Q", "responses": texts, "rewards": list(self.GIVEN)},
            "distilabel_generations": {"instruction": "Q", "generations": texts, "ratings": list(self.GIVEN)},
            "ultrafeedback": {
                "instruction": "Q",
                "completions": [
                    {"response": t, "overall_score": g, "annotations": None}
                    for t, g in zip(texts, self.GIVEN, strict=True)
                ],
            },
        }[layout]
        read = bring_in(layout, {"p1": row}).rows["p1"]
        assert tuple(c.score for c in read.candidates) == self.EXPECT
        assert tuple(c.reason for c in read.candidates if c.reason) == self.REASONS
        pair = to_pair(read)
        assert (*sides(pair), pair.margin) == ("a", "c", 5.5)


def test_f17_nan_none_and_short_lists_make_no_wrong_pair() -> None:
    nan = float("nan")
    scores: dict[str, list[float | None]] = {
        "p0": [3, 3, 3],
        "p1": [nan, 5, 1],
        "p2": [None, 4, 2],
        "p3": [5, 1],
        "p4": [7, 7, 3],
    }
    rows = {name: {"prompt": "Q", "responses": ["a", "b", "c"], "rewards": held} for name, held in scores.items()}
    done = bring_in("rlhflow", rows, pair=True)
    assert {name: sides(row) for name, row in done.rows.items()} == {
        "p1": ("b", "c"),
        "p2": ("b", "c"),
        "p4": ("a", "c"),
    }
    assert done.ledger == {"p0": "tie", "p3": "rating_count_mismatch"}


class TestF18RatingsDoNotSlide:
    def test_an_aspect_with_too_few_ratings_is_missing_for_all(self) -> None:
        scores, gaps, notes = by_aspect({"help": [5, 2, 4], "honest": [1, 4]}, 3)
        assert means(scores, shared=False) == [5.0, 2.0, 4.0]
        assert gaps == [{"honest": "rating_count_mismatch"}] * 3
        assert notes == ("rating_count_mismatch",)

    def test_in_a_file_too(self) -> None:
        row = {"instruction": "Q", "generations": ["a", "b", "c"], "ratings": {"help": [5, 2, 4], "honest": [1, 4]}}
        pair = bring_in("distilabel_generations", {"p1": row}, pair=True).rows["p1"]
        assert (*sides(pair), pair.margin) == ("a", "b", 3.0)


def test_f29_a_preference_of_zero_is_no_pair() -> None:
    both = {"response1": "a", "response2": "b"}
    rows: dict[str, Row] = {
        "h0": {"context": "Q", **both, "overall_preference": -2},
        "h1": {"context": "Q", **both, "overall_preference": 0},
        "h2": {"context": talk("user: Q"), **both, "overall_preference": 3},
        "h3": {"context": "Q", **both, "overall_preference": None},
    }
    done = bring_in("helpsteer3", rows)
    told = {name: (*sides(row), row.margin) for name, row in done.rows.items()}
    assert told == {"h0": ("a", "b", 2.0), "h2": ("b", "a", 3.0)}
    assert done.ledger == {"h1": "tie", "h3": "rating_missing"}


class TestF30NectarRanks:
    RANKS = (("g", 7), ("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6))
    ROWS: Mapping[str, Row] = {
        "n0": {
            "prompt": "\n\nHuman: Name a fish. \n\nAssistant: ",
            "answers": [{"answer": a, "rank": r} for a, r in RANKS],
        },
        "n1": {"prompt": "Human: Hi Assistant:", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 2}]},
    }

    def test_rank_one_is_best_and_a_tie_is_no_pair(self) -> None:
        done = bring_in("nectar", self.ROWS, pair=True)
        assert sides(done.rows["n0"]) == ("a", "g")
        assert done.rows["n0"].prompt == talk("user: Name a fish.")
        assert done.ledger == {"n1": "tie"}

    def test_a_higher_score_is_a_better_rank_and_the_rank_is_kept(self) -> None:
        read = bring_in("nectar", self.ROWS).rows
        assert read["n1"].prompt == talk("user: Hi")
        for one in read["n0"].candidates:
            for other in read["n0"].candidates:
                assert (one.score > other.score) == (one.scores["rank"] < other.scores["rank"])


def test_f31_a_prompt_as_text_and_whole_conversations_become_one_prompt() -> None:
    def row(prompt: str, *asked: str, scores: tuple[float, float]) -> Row:
        chosen, rejected = (talk(*asked, f"assistant: {said}") for said in ("Yes", "No"))
        return {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "score_chosen": scores[0],
            "score_rejected": scores[1],
        }

    done = bring_in(
        "ultrafeedback_binarized",
        {
            "u0": row("Hi", "user: Hi", scores=(8.0, 6.5)),
            "u1": row("Hi", "user: Hello", scores=(8.0, 6.5)),
            "u2": row("Hi", "system: Be kind", "user: Hi", scores=(8.0, 8.0)),
        },
    )
    assert done.ledger == {"u1": "prompt_column_differs_from_conversation"}
    assert done.rows["u0"].prompt == talk("user: Hi")
    assert done.rows["u0"].chosen == talk("assistant: Yes")
    assert done.rows["u0"].margin == 1.5
    assert done.rows["u2"].prompt == talk("system: Be kind", "user: Hi")
    assert done.rows["u2"].margin == 0.0  # a tie with scores is converted; leaving it out is for pairing or repair


class TestF32WhereToCutADialogue:
    ROWS: Mapping[str, Row] = {
        "x0": {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: Knock knock",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: No",
        },
        "x1": {
            "chosen": "\n\nHuman: Hi\n\nAssistant: A1\n\nHuman: U2\n\nAssistant: A2",
            "rejected": "\n\nHuman: Hi\n\nAssistant: B1\n\nHuman: U2\n\nAssistant: B2",
        },
        "x2": {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant:"},
        "x3": {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Yes",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No\n\nHuman: Why?\n\nAssistant: So",
        },
        "x4": {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes\nHuman: no", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
        "x5": {"chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nAssistant: B", "rejected": "\n\nHuman: Hi\n\nAssistant: C"},
    }

    def test_the_cut_is_before_the_last_answer_or_there_is_none(self) -> None:
        done = bring_in("hh_rlhf", self.ROWS)
        assert done.rows["x0"].prompt == talk("user: Hi", "assistant: Hello", "user: Joke?")
        assert sides(done.rows["x0"]) == ("Knock knock", "No")
        assert done.ledger == {
            "x1": "parts_before_last_turn",
            "x2": "empty_side",
            "x3": "parts_before_last_turn",
            "x4": "marker_inside_turn",
            "x5": "parts_before_last_turn",
        }

    def test_no_answer_holds_a_marker(self) -> None:
        for row in bring_in("hh_rlhf", self.ROWS).rows.values():
            for turn in (*row.chosen, *row.rejected):
                assert not any(line.startswith(("Human:", "Assistant:")) for line in turn["content"].splitlines())


class TestF33VerbosityIsNotQuality:
    NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    LONG = (("P", "a", (4, 4, 4, 2, 1)), ("R", "c", (2, 2, 2, 1, 1)), ("P", "b", (3, 3, 4, 3, 4)))

    def rows(self) -> dict[str, Row]:
        long = [{"prompt": p, "response": r, **dict(zip(self.NAMES, held, strict=True))} for p, r, held in self.LONG]
        return {str(row["prompt"]): row for _, row in fold(long, LAYOUTS["helpsteer2"])}

    def test_rows_are_grouped_by_prompt_and_scored_by_helpfulness(self) -> None:
        done = bring_in("helpsteer2", self.rows(), pair=True)
        pair = done.rows["P"]
        assert (*sides(pair), pair.score_chosen, pair.score_rejected, pair.margin) == ("a", "b", 4.0, 3.0, 1.0)
        assert done.ledger == {"R": "fewer_than_two_scored"}

    def test_all_five_aspects_stay(self) -> None:
        read = bring_in("helpsteer2", self.rows()).rows["P"]
        assert [tuple(c.scores) for c in read.candidates] == [self.NAMES, self.NAMES]

    def test_weights_replace_helpfulness_and_a_missing_aspect_makes_the_sum_missing(self) -> None:
        rows = self.rows()
        rows["P"]["rows"][1]["verbosity"] = None
        read = bring_in("helpsteer2", rows, Options(weights={"helpfulness": 1.0, "verbosity": -0.5})).rows["P"]
        assert [c.score for c in read.candidates] == [3.5, None]
        assert read.candidates[1].reason == "rating_missing"


class TestF34ManyNamesForAScore:
    TEXTS: Mapping[str, Any] = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    ROWS: Mapping[str, Row] = {
        "k0": {**TEXTS, "chosen-rating": 5.0, "rejected-rating": 3.0},
        "k1": {**TEXTS, "chosen_score": {"rmA": 0.3}, "rejected_score": {"rmA": -0.2}},
        "k2": {**TEXTS, "chosen_score": {"rmA": 0.3, "rmB": 2.0}, "rejected_score": {"rmA": 0.5, "rmB": 1.0}},
        "k3": {**TEXTS, "score_chosen": 8, "score_rejected": 6, "chosen_rating": 5, "rejected_rating": 5},
    }
    K4: Mapping[str, Any] = {
        "instruction": "Q",
        "chosen_response": "a",
        "rejected_response": "b",
        "chosen_avg_rating": 4.25,
        "rejected_avg_rating": 4.0,
    }

    def test_every_name_is_read_and_what_disagrees_is_asked(self) -> None:
        done = bring_in("trl_standard", self.ROWS)
        told = {name: (row.score_chosen, row.score_rejected, row.margin) for name, row in done.rows.items()}
        assert told == {"k0": (5.0, 3.0, 2.0), "k1": (0.3, -0.2, 0.5)}
        assert done.ledger == {"k2": "judges_disagree_no_rule", "k3": "two_score_families_disagree"}

    def test_the_mean_of_aspects_says_that_it_is_one(self) -> None:
        row = bring_in("argilla_binarized", {"k4": dict(self.K4)}).rows["k4"]
        assert (row.score_chosen, row.score_rejected, row.margin) == (4.25, 4.0, 0.25)
        assert row.score_kind == "mean_of_aspects"

    def test_they_pass_when_the_user_names_a_rule_or_a_column(self) -> None:
        done = bring_in("trl_standard", self.ROWS, Options(judge="mean", score="score_chosen"))
        assert not done.ledger

    def test_every_original_column_is_recoverable_from_the_meta(self) -> None:
        for row in bring_in("trl_standard", self.ROWS).rows.values():
            assert {"chosen-rating", "chosen_score"} & set(row.meta)


class TestF44SidesOfDifferentPrompts:
    ROWS: Mapping[str, Row] = {
        "r0": {"chosen": talk("user: Q1", "assistant: a"), "rejected": talk("user: Q2", "assistant: b")},
        "r1": {"chosen": talk("user: Q1", "assistant: a"), "rejected": talk("user: Q1", "assistant: b")},
        "r3": {"chosen": talk("user: Q1", "assistant: a"), "rejected": talk("user: Q1 ", "assistant: b")},
    }

    def test_only_one_prompt_makes_a_pair(self) -> None:
        done = bring_in("trl_implicit", self.ROWS)
        assert list(done.rows) == ["r1"]
        assert done.ledger == {"r0": "prompt_mismatch", "r3": "prompt_differs_in_spaces"}

    @pytest.mark.parametrize("options", [PLAIN, Options(prompt_end=" ")])
    def test_strings_that_share_nothing_have_no_prompt(self, options: Options) -> None:
        done = bring_in("trl_standard_implicit", {"r2": {"chosen": "Alpha one", "rejected": "Beta two"}}, options)
        assert done.ledger == {"r2": "prompt_mismatch"}


def test_f45_a_prompt_that_stands_twice_is_taken_out_once() -> None:
    prompt = talk("user: Q")
    rows: dict[str, Row] = {
        "r0": {
            "prompt": prompt,
            "chosen": [*prompt, *talk("assistant: a")],
            "rejected": [*prompt, *talk("assistant: b")],
        },
        "r1": {"prompt": prompt, "chosen": talk("assistant: a"), "rejected": talk("assistant: b")},
    }
    done = bring_in("trl_explicit", rows)
    assert done.rows["r0"] == done.rows["r1"]
    assert done.rows["r0"].notes == ("prompt_repeated_in_sides",)
    assert done.rows["r1"].notes == ()


class TestF46FirstWordsStayInTheAnswer:
    ROW: Mapping[str, Row] = {"r0": {"chosen": "Q: sky? Yes", "rejected": "Q: sky? Yes, very"}}

    def test_the_cut_is_where_the_user_says_prompts_end(self) -> None:
        row = bring_in("trl_standard_implicit", self.ROW, Options(prompt_end="? ")).rows["r0"]
        assert (row.prompt, *sides(row)) == (talk("user: Q: sky? "), "Yes", "Yes, very")

    def test_without_that_there_is_no_cut(self) -> None:
        assert bring_in("trl_standard_implicit", self.ROW).ledger == {"r0": "prompt_boundary_unknown"}

    def test_an_answer_that_is_all_shared_is_not_cut_inside(self) -> None:
        rows = {"r0": {"chosen": "Q? So? Yes", "rejected": "Q? So? No"}}
        row = bring_in("trl_standard_implicit", rows, Options(prompt_end="Q? ")).rows["r0"]
        assert sides(row) == ("So? Yes", "So? No")

    def test_an_end_of_prompt_inside_one_answer_is_not_the_end_of_the_prompt(self) -> None:
        rows = {"r0": {"chosen": "Sky? Yes? No", "rejected": "Sky? Maybe"}}
        row = bring_in("trl_standard_implicit", rows, Options(prompt_end="? ")).rows["r0"]
        assert sides(row) == ("Yes? No", "Maybe")


def test_one_text_with_two_scores_is_no_pair() -> None:
    row = {"prompt": "Q", "responses": ["a", "a"], "rewards": [1.0, 2.0]}
    assert bring_in("rlhflow", {"p": row}, pair=True).ledger == {"p": "same_text"}


def test_ties_for_best_and_worst_go_to_the_lower_index() -> None:
    read = read_row(LAYOUTS["rlhflow"], {"prompt": "Q", "responses": list("abcd"), "rewards": [7, 7, 3, 3]})
    assert isinstance(read, CandidateRow)
    assert best_worst(read.candidates)[:2] == (0, 2)
