"""Tables say what does not fit, and ids follow from content."""

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairwright.errors import DataError
from pairwright.tables import (
    PAIRS,
    RESPONSES,
    TABLES,
    as_messages,
    canonical_json,
    conform,
    empty,
    prompt_id,
    response_id,
)

TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}), max_size=4
)


@given(TURNS)
def test_a_prompt_id_is_the_sha256_of_the_canonical_json(turns: list[dict[str, str]]) -> None:
    text = canonical_json([{"content": turn["content"], "role": turn["role"]} for turn in turns])
    assert prompt_id(turns) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def test_other_keys_of_a_message_do_not_change_the_id() -> None:
    assert prompt_id([{"role": "user", "content": "Hi", "name": "x"}]) == prompt_id([{"content": "Hi", "role": "user"}])


def test_a_lone_surrogate_has_an_id() -> None:
    assert len(prompt_id([{"role": "user", "content": "\ud800"}])) == 16


@given(st.integers(0, 999_998))
def test_response_ids_sort_as_their_samples_do(k: int) -> None:
    assert response_id(k) < response_id(k + 1)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("  ", "empty"),
        (7, "int"),
        ([], "list"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": None}], "content"),
        ([{"role": "wizard", "content": "x"}], "role"),
        ([{"role": "assistant", "content": "x"}], "ends with a assistant turn"),
    ],
)
def test_a_prompt_that_is_none_is_refused_with_its_place(prompt: object, words: str) -> None:
    with pytest.raises(DataError, match=f"row 3.*{words}"):
        as_messages(prompt, where="row 3")


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_an_empty_table_fits(table) -> None:  # type: ignore[no-untyped-def]
    assert conform(empty(table), table, where="here").schema == pl.Schema(table.schema)


ROW = {"prompt_id": "p", "response_id": "r", "response": "a", "source": "m", "sample": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": [None, "m"]}, "file.parquet: row 0: column source of table responses is null"),
        ({"sample": ["0", "1"]}, "column sample of table responses is String, not Int32"),
        ({"response_id": ["r", "r"]}, "row 1: prompt_id, response_id = \\('p', 'r'\\) stands twice"),
        ({"colour": ["red", "red"]}, "has unknown colour"),
    ],
)
def test_a_table_that_does_not_fit_names_file_row_and_column(change: dict[str, object], words: str) -> None:
    data = pl.DataFrame([{**ROW}, {**ROW, "response_id": "s"}]).with_columns(pl.col("sample").cast(pl.Int32))
    data = data.with_columns(
        finish_reason=pl.lit(None, pl.String), n_tokens=pl.lit(1, pl.Int32), seed=pl.lit(1, pl.Int64)
    )
    assert conform(data, RESPONSES, where="file.parquet").height == 2
    data = data.with_columns(pl.Series(name, values) for name, values in change.items())
    with pytest.raises(DataError, match=words):
        conform(data, RESPONSES, where="file.parquet")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="lacks margin"):
        conform(empty(PAIRS).drop("margin"), PAIRS, where="x")
