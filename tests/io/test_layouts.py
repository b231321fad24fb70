"""One suite for every layout: it is known by itself, read, written back whole, and carries a canonical row."""

import copy
import json
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_samples import SAMPLES, talk

from pairwright.errors import DataError
from pairwright.io.layouts import (
    LAYOUTS,
    Candidate,
    CandidateRow,
    Lost,
    Options,
    PairRow,
    detect,
    read_row,
    to_pair,
    write_row,
)
from pairwright.io.layouts.files import fold, unfold
from pairwright.io.trl import ROWS
from pairwright.tables import MESSAGES

OPTIONS = Options(prompt_end="? ")
CANONICAL = PairRow(
    prompt=talk("user: Q? "),
    chosen=talk("assistant: a"),
    rejected=talk("assistant: b"),
    score_chosen=8.0,
    score_rejected=6.5,
    margin=1.5,
    weight=0.7,
    prompt_id="p0",
    chosen_model="m1",
    rejected_model="m2",
    meta={"judge": "J1"},
)
CANONICAL_ROWS = {
    "canonical": CANONICAL,
    "bare": PairRow(CANONICAL.prompt, CANONICAL.chosen, CANONICAL.rejected),
    "tie": replace(CANONICAL, score_chosen=6.5, margin=0.0),
    "label_against_score": replace(CANONICAL, score_chosen=1.0, margin=-5.5),
    "one_score": replace(CANONICAL, score_rejected=None, margin=None),
    "margin_alone": replace(CANONICAL, score_chosen=None, score_rejected=None, margin=2.0),
    "deep_meta": replace(CANONICAL, meta={"source": "x", "id": 3, "meta": {"a": [None, float("inf")]}, "label": "y"}),
    "hard_text": replace(CANONICAL, chosen=talk("assistant:  Human: \u2028é\n\n👍 "), rejected=talk("assistant: {}")),
}


def sample(name: str) -> list[dict[str, object]]:
    """The sample of a layout as its reader sees it."""
    return [row for _, row in fold(copy.deepcopy(SAMPLES[name]), LAYOUTS[name])]


def columns(name: str) -> list[str]:
    return list(dict.fromkeys(column for row in SAMPLES[name] for column in row))


def without_nulls(row: object) -> dict[str, object]:
    assert isinstance(row, dict)
    return {key: value for key, value in row.items() if value is not None}


def as_pair(read: object) -> PairRow:
    pair = to_pair(read) if isinstance(read, CandidateRow) else read
    assert isinstance(pair, PairRow)
    return pair


READS: dict[str, list[tuple[str, str, str, float | None, float | None]]] = {  # question, chosen, rejected, scores
    "pairwright": [("Name a colour.", "Blue.", "Seven.", 8.0, 3.5), ("Name a fish.", "Cod.", "Dog.", 1.0, 0.5)],
    "trl_explicit": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "trl_implicit": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "trl_standard": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "trl_standard_implicit": [
        ("Is the sky blue? ", "Yes", "Yes, very", None, None),
        ("Why? ", "Because", "No idea", None, None),
    ],
    "ultrafeedback": [("Name a fish.", "Cod.", "Dog.", 8.5, 2.0), ("Add 2 and 2.", "4", "22", 9.0, 3.0)],
    "ultrafeedback_binarized": [("Q", "a", "b", 8.0, 6.5), ("R", "c", "d", 7.0, 7.0)],
    "argilla_binarized": [("Q", "a", "b", 4.25, 4.0), ("R", "c", "d", 5.0, 2.5)],
    "argilla_cleaned": [("Q", "a", "b", 5.0, 3.0)] * 2,
    "helpsteer2": [("P", "a", "b", 4.0, 3.0), ("Joke?", "c", "d", 1.0, 0.0)],
    "helpsteer3": [("Q", "a", "b", None, None), ("R", "d", "c", None, None)],
    "hh_rlhf": [("Joke?", "Knock knock", "No", None, None), ("Why?", "So", "Hm ", None, None)],
    "nectar": [("Name a fish.", "Cod", "Dog", -1.0, -3.0), ("So?", "No", "Yes", -1.0, -2.0)],
    "simpo": [("Q", "b", "a", 0.3, 0.1), ("R", "c", "a", 0.2, 0.1)],
    "rlhflow": [("Q", "a", "b", 0.5, -1.5), ("R", "d", "c", 2.0, 1.0)],
    "distilabel_generations": [("Q", "a", "b", 4.0, 2.0), ("R", "d", "c", 5.0, 1.0)],
    "distilabel": [("Q", "a", "b", 5.0, 1.0)] * 2,
    "open_instruct": [("Q", "a", "b", 4.5, 3.0), ("R", "c", "d", 4.0, 2.0)],
    "skywork": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "halos": [("Q", "b", "a", 0.75, 0.25), ("R", "c", "d", 2.0, 1.0)],
    "nemo_rl": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "nemo_aligner": [("Q", "a", "b", 3.0, 1.0), ("R", "c", "d", 2.0, -1.0)],
    "openrlhf": [("Q", "a", "b", 5.0, 4.0), ("R", "c", "d", 1.5, 2.0)],
    "llamafactory": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "llamafactory_alpaca": [("Translate.\nKatze", "cat", "dog", None, None), ("Q", "a", "b", None, None)],
    "axolotl": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
    "ms_swift": [("Q", "a", "b", None, None), ("R", "c", "d", None, None)],
}


def test_every_layout_has_a_sample_and_is_filed_under_its_name() -> None:
    assert set(SAMPLES) == set(LAYOUTS)
    assert all(name == layout.name for name, layout in LAYOUTS.items())


@pytest.mark.parametrize("name", LAYOUTS)
class TestEveryLayout:
    def test_is_known_among_all_others_by_its_own_rows(self, name: str) -> None:
        assert detect(SAMPLES[name], columns(name)).name == name

    def test_is_known_when_only_the_first_row_is_there(self, name: str) -> None:
        assert detect(SAMPLES[name][:1], list(SAMPLES[name][0])).name == name

    def test_reads_every_row_of_its_sample(self, name: str) -> None:
        for row in sample(name):
            read = read_row(LAYOUTS[name], row, OPTIONS)
            assert not isinstance(read, Lost), read
            assert read.prompt[-1]["role"] == "user"

    def test_reads_what_its_rows_say(self, name: str) -> None:
        pairs = [as_pair(read_row(LAYOUTS[name], row, OPTIONS)) for row in sample(name)]
        assert [
            (
                p.prompt[-1]["content"],
                p.chosen[0]["content"],
                p.rejected[0]["content"],
                p.score_chosen,
                p.score_rejected,
            )
            for p in pairs
        ] == READS[name]

    def test_gives_its_own_rows_back_with_every_column(self, name: str) -> None:
        layout = LAYOUTS[name]
        back = [write_row(layout, read_row(layout, row, OPTIONS), OPTIONS) for row in sample(name)]  # type: ignore[arg-type]
        assert [each for row in back for each in unfold(row, layout)] == SAMPLES[name]  # type: ignore[arg-type]

    @pytest.mark.parametrize("between", ["trl_explicit", "pairwright", "openrlhf", "ms_swift", "simpo", "nectar"])
    def test_gives_its_own_rows_back_through_another_layout(self, name: str, between: str) -> None:
        layout, other = LAYOUTS[name], LAYOUTS[between]
        for row in sample(name):
            there = write_row(other, read_row(layout, row, OPTIONS), OPTIONS)  # type: ignore[arg-type]
            if isinstance(there, Lost):
                assert there.reason in ("system_prompt_has_no_place", "earlier_turns_have_no_place")
                continue
            there = json.loads(json.dumps(there))
            back = read_row(other, there, OPTIONS)
            assert not isinstance(back, Lost), back
            assert without_nulls(write_row(layout, back, OPTIONS)) == without_nulls(row)

    @pytest.mark.parametrize("case", CANONICAL_ROWS)
    def test_carries_a_row_that_comes_back_as_it_went(self, name: str, case: str) -> None:
        row, layout = CANONICAL_ROWS[case], LAYOUTS[name]
        written = write_row(layout, row, OPTIONS)
        if isinstance(written, Lost):
            assert case == "hard_text"
            assert written.reason == "marker_inside_turn"
            return
        back = read_row(layout, json.loads(json.dumps(written)), OPTIONS)
        assert as_pair(back) == row

    def test_what_it_writes_is_detected_as_itself(self, name: str) -> None:
        written = write_row(LAYOUTS[name], CANONICAL, OPTIONS)
        rows = unfold(written, LAYOUTS[name])  # type: ignore[arg-type]
        assert detect(rows, list(rows[0])).name == name

    def test_holds_a_system_prompt_or_refuses_it_with_a_reason(self, name: str) -> None:
        row = replace(CANONICAL, prompt=talk("system: Be kind.", "user: Hi", "assistant: Yo", "user: Q? "))
        written = write_row(LAYOUTS[name], row, OPTIONS)
        if isinstance(written, Lost):
            assert written.reason == "system_prompt_has_no_place"
        else:
            assert as_pair(read_row(LAYOUTS[name], written, OPTIONS)) == row

    def test_holds_several_new_turns_or_refuses_them_with_a_reason(self, name: str) -> None:
        row = replace(CANONICAL, chosen=talk("assistant: let me see", "tool: 4", "assistant: a"))
        written = write_row(LAYOUTS[name], row, OPTIONS)
        if isinstance(written, Lost):
            assert written.reason in ("several_turns_have_no_place", "system_prompt_has_no_place")
        else:
            assert as_pair(read_row(LAYOUTS[name], written, OPTIONS)) == row

    def test_leaves_what_it_was_given_untouched(self, name: str) -> None:
        for row in sample(name):
            before = copy.deepcopy(row)
            read = read_row(LAYOUTS[name], row, OPTIONS)
            write_row(LAYOUTS[name], read, OPTIONS)  # type: ignore[arg-type]
            write_row(LAYOUTS["pairwright"], read, OPTIONS)  # type: ignore[arg-type]
            assert row == before

    def test_lossy_writes_nothing_but_the_layout(self, name: str) -> None:
        written = write_row(LAYOUTS[name], CANONICAL, OPTIONS, lossy=True)
        assert not isinstance(written, Lost)
        assert "weight" not in written or name == "pairwright"
        assert "J1" not in json.dumps(written)

    def test_a_null_side_is_lost_and_never_trained_on(self, name: str) -> None:
        for hole in (None, "", [], {}):
            for row in sample(name):
                for side in ("chosen", "rejected", "chosen_response", "response1", "output_A"):
                    if side in row and name != "simpo":
                        lost = read_row(LAYOUTS[name], {**row, side: hole}, OPTIONS)
                        assert isinstance(lost, Lost)
                        assert lost.reason


ODD = [None, 3, "x", "", [], {}, [1], [{}], [None], ["x"], {"x": 1}, [["x"]], float("nan"), True, talk("user: Q")]
ODD += [talk("assistant: a"), [{"role": "user", "content": None}], [{"role": 1, "content": "x"}], "Human: x", b"x"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_odd_value_anywhere_is_lost_with_a_reason_or_kept_never_a_crash(name: str) -> None:
    layout = LAYOUTS[name]
    for row in sample(name):
        for column in row:
            for odd in ODD:
                damaged = {**row, column: odd}
                read = read_row(layout, damaged, OPTIONS)
                if isinstance(read, Lost):
                    assert read.reason
                elif odd == odd:
                    assert write_row(layout, read, OPTIONS) == damaged


class TestDetection:
    def test_refuses_in_one_line_with_the_nearest_layouts_and_what_they_lack(self) -> None:
        row = {"question": "Q", "chosen": "a", "rejected": "b", "prompt": 3}
        with pytest.raises(DataError) as told:
            detect([row], list(row), where="x.jsonl")
        assert "x.jsonl" in str(told.value)
        assert "trl_standard (prompt is number" in str(told.value)
        assert "\n" not in str(told.value)

    def test_names_both_when_two_fit_equally_well(self) -> None:
        twins = {"one": LAYOUTS["trl_standard"], "two": replace(LAYOUTS["trl_standard"], name="two")}
        row = SAMPLES["trl_standard"][0]
        with pytest.raises(DataError, match="one or two"):
            detect([row], list(row), known=twins)

    def test_looks_at_more_than_one_row(self) -> None:
        rows = [
            {"prompt": "Q", "chosen": None, "rejected": "b"},
            {"prompt": "Q", "chosen": talk("user: Q"), "rejected": "b"},
        ]
        with pytest.raises(DataError, match="chosen is messages"):
            detect(rows, list(rows[0]))

    def test_text_answers_that_begin_with_human_are_hh_only_without_a_prompt(self) -> None:
        row = {"prompt": "Q", **SAMPLES["hh_rlhf"][0]}
        assert detect([row], list(row)).name == "trl_standard"


class TestExactness:
    def test_a_changed_pair_is_written_as_it_is_now(self) -> None:
        layout = LAYOUTS["ultrafeedback_binarized"]
        row = SAMPLES["ultrafeedback_binarized"][1]  # its `messages` is not the chosen side
        read = read_row(layout, row)
        assert isinstance(read, PairRow)
        swapped = replace(read, chosen=read.rejected, rejected=read.chosen, score_chosen=9.0, margin=2.0)
        written = write_row(layout, swapped)
        assert not isinstance(written, Lost)
        assert written["score_chosen"] == 9.0
        assert written["chosen"][-1]["content"] == "d"
        assert written["source_index"] == 8

    def test_a_changed_score_is_not_written_as_it_was_read(self) -> None:
        layout, row = LAYOUTS["openrlhf"], {**SAMPLES["openrlhf"][0], "chosen_score": " 5 "}
        read = read_row(layout, row)
        assert isinstance(read, PairRow)
        assert write_row(layout, read) == row
        written = write_row(layout, replace(read, score_chosen=9.0, margin=5.0))
        assert isinstance(written, dict)
        assert written["chosen_score"] == 9.0

    @pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
    def test_a_text_that_would_come_back_as_another_is_refused(self, column: str) -> None:
        careful = LAYOUTS["trl_standard"]

        def careless(row: PairRow, options: Options) -> dict[str, object]:
            return {**careful.write(row, options), column: "something else"}

        lost = write_row(replace(careful, write=careless), CANONICAL)
        assert isinstance(lost, Lost)
        assert lost.reason == "does_not_read_back"

    def test_a_plain_row_needs_no_notes(self) -> None:
        row = {key: value for key, value in SAMPLES["openrlhf"][0].items()}
        read = read_row(LAYOUTS["openrlhf"], row)
        assert isinstance(read, PairRow)
        assert not read.as_read
        assert not read.meta

    def test_nan_and_infinity_in_other_columns_survive(self) -> None:
        row = {**SAMPLES["trl_standard"][0], "odd": [float("inf"), {"deep": float("-inf")}]}
        there = write_row(LAYOUTS["openrlhf"], read_row(LAYOUTS["trl_standard"], row))  # type: ignore[arg-type]
        back = read_row(LAYOUTS["openrlhf"], json.loads(json.dumps(there, allow_nan=False)))
        assert write_row(LAYOUTS["trl_standard"], back) == row  # type: ignore[arg-type]

    def test_our_own_layout_is_what_the_export_writes(self) -> None:
        frame = pl.DataFrame([SAMPLES["pairwright"][0]], schema=ROWS)
        row = frame.row(0, named=True)
        assert detect([row], frame.columns).name == "pairwright"
        back = write_row(LAYOUTS["pairwright"], read_row(LAYOUTS["pairwright"], row))  # type: ignore[arg-type]
        assert back == row

    def test_all_candidates_survive_in_a_pair(self) -> None:
        row = sample("nectar")[0]
        there = write_row(LAYOUTS["trl_explicit"], read_row(LAYOUTS["nectar"], row))  # type: ignore[arg-type]
        assert isinstance(there, dict)
        assert "Eel" in there["meta"]
        assert write_row(LAYOUTS["nectar"], read_row(LAYOUTS["trl_explicit"], there)) == row  # type: ignore[arg-type]

    @settings(max_examples=60, deadline=None)
    @given(
        said=st.tuples(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1)).filter(
            lambda texts: all(text.strip() for text in texts)
        ),
        score=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
        meta=st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
        name=st.sampled_from(sorted(LAYOUTS)),
    )
    def test_whatever_is_written_reads_back_the_same(self, said, score, meta, name) -> None:  # type: ignore[no-untyped-def]
        prompt, chosen, rejected = (
            [{"role": role, "content": text}]
            for role, text in zip(("user", "assistant", "assistant"), said, strict=True)
        )
        meta.pop("pairwright", None)
        meta.pop("candidates", None)
        row = PairRow(prompt, chosen, rejected, score_chosen=score, weight=0.5, meta=meta)
        written = write_row(LAYOUTS[name], row, OPTIONS)
        if isinstance(written, Lost):
            assert written.reason
        else:
            assert as_pair(read_row(LAYOUTS[name], written, OPTIONS)) == row


class TestConversations:
    def test_a_tool_call_is_refused_not_dropped(self) -> None:
        turn = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
        row = {"prompt": talk("user: Q"), "chosen": [turn], "rejected": talk("assistant: b")}
        assert read_row(LAYOUTS["trl_explicit"], row) == Lost(
            "unusable_turn", "chosen has a turn that is not plain text"
        )

    def test_a_prompt_that_ends_with_the_assistant_is_refused(self) -> None:
        row = {
            "prompt": talk("user: Q", "assistant: a"),
            "chosen": talk("assistant: a"),
            "rejected": talk("assistant: b"),
        }
        lost = read_row(LAYOUTS["trl_explicit"], row)
        assert isinstance(lost, Lost)
        assert lost.reason == "prompt_unusable"

    def test_further_keys_of_a_message_survive_the_round_trip(self) -> None:
        turn = {"role": "user", "content": "Q", "name": "Ann", "tool_calls": None}
        row = {"prompt": [turn], "chosen": talk("assistant: a"), "rejected": talk("assistant: b")}
        there = write_row(LAYOUTS["openrlhf"], read_row(LAYOUTS["trl_explicit"], row))  # type: ignore[arg-type]
        back = read_row(LAYOUTS["openrlhf"], there)  # type: ignore[arg-type]
        assert write_row(LAYOUTS["trl_explicit"], back) == row  # type: ignore[arg-type]


class TestScores:
    @pytest.mark.parametrize("score", ["chosen_rating", "score_chosen"])
    def test_the_user_can_name_the_column_to_believe(self, score: str) -> None:
        row = {"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 8, "score_rejected": 6}
        row |= {"chosen_rating": 5, "rejected_rating": 5}
        read = read_row(LAYOUTS["trl_standard"], row, Options(score=score))
        assert isinstance(read, PairRow)
        assert (read.score_chosen, read.score_rejected) == ((5.0, 5.0) if score == "chosen_rating" else (8.0, 6.0))
        assert write_row(LAYOUTS["trl_standard"], read, Options(score=score)) == row

    @pytest.mark.parametrize(("judge", "scores"), [("rmA", (0.3, 0.5)), ("mean", (1.15, 0.75))])
    def test_the_user_can_name_the_judge_to_believe(self, judge: str, scores: tuple[float, float]) -> None:
        row = {"prompt": "Q", "chosen": "a", "rejected": "b"}
        row |= {"chosen_score": {"rmA": 0.3, "rmB": 2.0}, "rejected_score": {"rmA": 0.5, "rmB": 1.0}}
        read = read_row(LAYOUTS["trl_standard"], row, Options(judge=judge))
        assert isinstance(read, PairRow)
        assert (read.score_chosen, read.score_rejected) == pytest.approx(scores)
        assert read.meta["chosen_score"] == {"rmA": 0.3, "rmB": 2.0}

    def test_a_margin_that_lost_its_sign_is_not_believed(self) -> None:
        row = {**SAMPLES["openrlhf"][1], "margin": 0.5}  # 1.5 against 2.0
        read = read_row(LAYOUTS["openrlhf"], row)
        assert isinstance(read, PairRow)
        assert read.margin == -0.5
        assert read.notes == ("margin_contradicts_scores",)
        assert write_row(LAYOUTS["openrlhf"], read) == row

    def test_halos_margin_has_its_sign(self) -> None:
        read = read_row(LAYOUTS["halos"], {**SAMPLES["halos"][0], "label": 1})  # the label says A, the rewards say B
        assert isinstance(read, PairRow)
        assert read.margin == -0.5

    def test_simpo_keeps_the_pair_that_the_file_names(self) -> None:
        read = read_row(LAYOUTS["simpo"], SAMPLES["simpo"][1])
        pair = as_pair(read)
        assert (pair.chosen[0]["content"], pair.score_chosen) == ("c", 0.2)

    def test_a_score_says_what_it_is_wherever_it_goes(self) -> None:
        read = read_row(LAYOUTS["argilla_binarized"], SAMPLES["argilla_binarized"][0])
        there = write_row(LAYOUTS["trl_explicit"], read)  # type: ignore[arg-type]
        back = read_row(LAYOUTS["trl_explicit"], there)  # type: ignore[arg-type]
        assert isinstance(back, PairRow)
        assert back.score_kind == "mean_of_aspects"

    def test_messages_fit_the_house_type(self) -> None:
        prompts = [as_pair(read_row(LAYOUTS[n], row, OPTIONS)).prompt for n in LAYOUTS for row in sample(n)]
        assert pl.Series(prompts, dtype=MESSAGES, strict=True).len() == len(prompts)


def test_a_candidate_without_text_never_becomes_a_side() -> None:
    row = CandidateRow(
        talk("user: Q"), [Candidate(None, score=9.0), Candidate("a", score=2.0), Candidate("b", score=1.0)]
    )
    assert as_pair(row).score_chosen == 2.0
