"""What TRL would do with a row without a word is found first, with the row, its id and the column."""

from typing import Any

import polars as pl
import pytest

from pairwright.errors import DataError
from pairwright.tables import LOGPS, MESSAGES, frame, text_hash
from pairwright.train.check import Finding, check_columns, check_ids, check_rows, refuse, with_reference


def turn(role: str, text: str | None) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}]


def row(**changes: Any) -> dict[str, Any]:
    whole = {
        "id": "r",
        "prompt": turn("user", "Q"),
        "chosen": turn("assistant", "a"),
        "rejected": turn("assistant", "b"),
    }
    return {name: value for name, value in {**whole, **changes}.items() if value != "absent"}


TALK = turn("user", "Q")
ANSWER = turn("assistant", "a")
FAULTS = {
    "none side": (row(chosen=None), "chosen", "none_side"),
    "absent side": (row(rejected="absent"), "rejected", "none_side"),
    "content is null": (row(rejected=turn("assistant", None)), "rejected", "none_side"),
    "number": (row(chosen=3), "chosen", "not_messages"),
    "list of strings": (row(chosen=["a"]), "chosen", "not_messages"),
    "string prompt, message sides": (row(prompt="Q"), "prompt", "mixed_forms"),
    "one string side": (row(chosen="a"), "prompt", "mixed_forms"),
    "empty list": (row(chosen=[]), "chosen", "empty_side"),
    "blank text": (row(rejected=turn("assistant", " \n")), "rejected", "empty_side"),
    "both empty": (row(chosen=turn("assistant", ""), rejected=turn("assistant", "")), "chosen", "empty_side"),
    "empty prompt": (row(prompt=[]), "prompt", "empty_prompt"),
    "identical": (row(rejected=turn("assistant", "a")), "rejected", "identical"),
    "identical up to blanks": (row(rejected=turn("assistant", " a\n")), "rejected", "identical"),
    "prompt twice": (row(chosen=TALK + ANSWER, rejected=TALK + turn("assistant", "b")), "chosen", "prompt_twice"),
    "strings without a prompt": (row(prompt="absent", chosen="Q: a", rejected="Q: b"), "prompt", "implicit_text"),
    "nothing shared": (row(prompt="absent", chosen="x", rejected="y"), "prompt", "implicit_text"),
    "prompts differ": (
        row(prompt="absent", chosen=TALK + ANSWER, rejected=turn("user", "P") + turn("assistant", "b")),
        "prompt",
        "prompt_mismatch",
    ),
    "later user turns differ": (
        row(prompt="absent", chosen=TALK + ANSWER + TALK, rejected=TALK + ANSWER + turn("user", "P")),
        "prompt",
        "prompt_mismatch",
    ),
    "one is the beginning": (row(prompt="absent", chosen=TALK, rejected=TALK + ANSWER), "chosen", "empty_side"),
}
SOUND = {
    "explicit messages": row(),
    "implicit messages": row(prompt="absent", chosen=TALK + ANSWER, rejected=TALK + turn("assistant", "b")),
    "strings": row(prompt="Q", chosen="a", rejected="b"),
    "several turns": row(chosen=ANSWER + TALK + ANSWER),
    "a tool call": row(chosen=[{"role": "assistant", "content": None, "tool_calls": [{"function": "f"}]}]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_row_id_and_column(name: str) -> None:
    faulty, column, code = FAULTS[name]
    (found,) = check_rows([faulty])
    assert found[:4] == (0, "r", column, code)
    assert found.message


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_row_is_not_found(name: str) -> None:
    assert check_rows([SOUND[name], SOUND[name]]) == []


def test_all_rows_have_the_form_of_the_first_sound_one() -> None:
    found = check_rows([row(chosen=None), row(), SOUND["strings"], row(), SOUND["implicit messages"]])
    assert [(each.row, each.code) for each in found] == [(0, "none_side"), (2, "mixed_forms"), (4, "mixed_forms")]
    assert "explicit messages" in found[1].message


def test_a_row_is_named_by_its_id_or_its_prompt() -> None:
    named = [row(chosen=None), row(chosen=None, id="absent", prompt_id="p"), row(chosen=None, id="absent")]
    assert [each.id for each in check_rows(named)] == ["r", "p", ""]


def ids(*rows: tuple[list[int], list[int], list[int]], max_length: int | None = 6) -> list[Finding]:
    sides = [list(side) for side in zip(*rows, strict=True)]
    return check_ids(*sides, rows=range(len(rows)), ids=[f"r{i}" for i in range(len(rows))], max_length=max_length)


class TestTokens:
    def test_prompts_that_fill_the_window_and_empty_sides_are_found(self) -> None:
        found = ids(([1, 2, 3, 4, 5, 6], [7], [8, 9]), ([1], [], [8]), ([1], [7], [8]), ([1], [7], []))
        assert [(each.id, each.column, each.code) for each in found] == [
            ("r0", "prompt", "prompt_fills_window"),
            ("r1", "chosen", "empty_side"),
            ("r3", "rejected", "empty_side"),
        ]

    def test_sides_that_part_behind_max_length_are_found_and_no_others(self) -> None:
        behind, within = ([1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 8]), ([1, 2, 3], [4, 5, 6, 7], [4, 5, 7, 7])
        (found,) = ids(behind, within)
        assert found[:4] == (0, "r0", "rejected", "identical_after_truncation")
        assert "part at token 7, behind max_length 6" in found.message
        assert ids(behind, max_length=7) == []
        assert ids(behind, max_length=None) == []

    def test_a_side_that_goes_on_behind_max_length_is_found(self) -> None:
        (found,) = ids(([1, 2, 3], [4, 5, 6], [4, 5, 6, 8]))
        assert found.code == "identical_after_truncation"

    def test_the_same_tokens_are_found_without_max_length(self) -> None:
        (found,) = ids(([1], [4, 5], [4, 5]), max_length=None)
        assert found.code == "identical"


def test_columns_that_trl_ignores_are_named() -> None:
    names = ["prompt", "chosen", "rejected", "weight", "margin", "ref_chosen_logps", "ref_rejected_logps"]
    found = check_columns(names)
    assert {each.column for each in found} == {*names[3:]}
    assert {each.code for each in found} == {"column_has_no_effect"}
    assert "refuses it" in check_columns(names, precompute=True)[-1].message
    assert check_columns(names[:3]) == []


def test_findings_are_refused_with_counts_and_places() -> None:
    refuse([], where="x")
    found = [Finding(7, "p7", "chosen", "empty_side", "holds no text")] * 8
    with pytest.raises(DataError, match=r"^x: 8 empty_side\. row 7 \(p7\), chosen: empty_side: holds no text;") as told:
        refuse(found, where="x")
    assert str(told.value).count("row 7") == 5


def rows_of(*answers: tuple[str, str, str]) -> pl.DataFrame:
    told = [{"prompt_id": p, "chosen": turn("assistant", c), "rejected": turn("assistant", r)} for p, c, r in answers]
    return pl.DataFrame(told, schema={"prompt_id": pl.String, "chosen": MESSAGES, "rejected": MESSAGES})


def logps_of(*said: tuple[str, str, float | None], model: str = "M", template: str = "T") -> pl.DataFrame:
    return frame(
        LOGPS,
        [
            {"prompt_id": p, "response_id": str(i), "model": "m", "model_hash": model, "template_hash": template,
             "logp": logp, "n_tokens": 1, "truncated": False, "response_hash": text_hash(text)}
            for i, (p, text, logp) in enumerate(said)
        ],
    )  # fmt: skip


class TestReference:
    def test_numbers_are_joined_by_prompt_and_text(self) -> None:
        logps = logps_of(("q", "a", -9.0), ("p", "b", -2.0), ("p", "a", -1.0), ("q", "c", -3.0))
        made = with_reference(rows_of(("p", "a", "b"), ("q", "c", "a")), logps, model_hash="M", template_hash="T")
        assert made["ref_chosen_logps"].to_list() == [-1.0, -3.0]
        assert made["ref_rejected_logps"].to_list() == [-2.0, -9.0]

    @pytest.mark.parametrize(
        ("run", "told"),
        [
            ({"model_hash": "N"}, "reference_model_differs.*model_hash M, this run is of N"),
            ({"model_hash": "M", "template_hash": "U"}, "tokenisation_differs"),
        ],
    )
    def test_numbers_of_another_model_or_other_tokens_are_refused(self, run: dict[str, str], told: str) -> None:
        with pytest.raises(DataError, match=told):
            with_reference(rows_of(("p", "a", "b")), logps_of(("p", "a", -1.0), ("p", "b", -2.0)), **run)

    def test_two_templates_are_refused_though_none_was_asked_for(self) -> None:
        logps = pl.concat([logps_of(("p", "a", -1.0)), logps_of(("p", "b", -2.0), template="U")])
        with pytest.raises(DataError, match="tokenisation_differs"):
            with_reference(rows_of(("p", "a", "b")), logps, model_hash="M")

    def test_an_edited_text_is_named(self) -> None:
        logps = logps_of(("p", "a", -1.0), ("p", "b", -2.0))
        with pytest.raises(DataError, match="row_hash_unknown: row 1: prompt p, rejected"):
            with_reference(rows_of(("p", "a", "b"), ("p", "a", "b!")), logps, model_hash="M")

    def test_a_text_without_a_number_is_named(self) -> None:
        logps = logps_of(("p", "a", None), ("p", "b", -2.0))
        with pytest.raises(DataError, match="no_logp: row 0: prompt p, chosen"):
            with_reference(rows_of(("p", "a", "b")), logps, model_hash="M")
