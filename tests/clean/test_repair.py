"""Soft labels of pairs: never a new label, never a number where nothing was compared."""

import math

import polars as pl
import pytest

from pairwright.clean.evidence import SOFT
from pairwright.clean.repair import soft_pairs
from pairwright.tables import SCORES


def soft(*rows: tuple[str, str, str, float]) -> pl.DataFrame:
    told = [(*row, abs(2 * row[3] - 1), 5.0, "votes") for row in rows]
    return pl.DataFrame(told, schema=SOFT, orient="row")


def pairs(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=["prompt_id", "chosen_id", "rejected_id"], orient="row")


def strengths(**by_id: float | None) -> pl.DataFrame:
    rows = [
        ("p", name, "j.bt", value, None if value is not None else "not_connected", None, None)
        for name, value in by_id.items()
    ]
    return pl.DataFrame(rows, schema=SCORES.schema, orient="row")


def test_a_comparison_counts_either_way_round() -> None:
    made = soft_pairs(pairs(("p", "a", "b"), ("p", "b", "a")), soft(("p", "a", "b", 0.9)), strengths())
    assert made["p_chosen"].to_list() == pytest.approx([0.9, 0.1])
    assert made["weight"].to_list() == pytest.approx([0.8, 0.8])
    assert made["source"].to_list() == ["votes", "votes"]


def test_strengths_speak_where_the_pair_was_never_compared() -> None:
    held = strengths(a=1.0, c=-1.0)
    [row] = soft_pairs(pairs(("p", "a", "c")), soft(("p", "a", "b", 0.9)), held).to_dicts()
    assert row["p_chosen"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert row["source"] == "strengths"


def test_nothing_compared_is_null_and_not_one_half() -> None:
    made = soft_pairs(pairs(("p", "a", "c"), ("q", "a", "b")), soft(("p", "a", "b", 0.9)), strengths(a=1.0, c=None))
    assert made["p_chosen"].to_list() == [None, None]
    assert made["weight"].to_list() == [None, None]
    assert made["source"].to_list() == [None, None]


def test_every_pair_has_one_row_in_its_order() -> None:
    asked = pairs(("p", "c", "a"), ("p", "a", "b"), ("p", "b", "c"))
    twice = soft(("p", "a", "b", 0.9), ("p", "b", "a", 0.2))
    made = soft_pairs(asked, twice, strengths())
    assert made.select("prompt_id", "chosen_id", "rejected_id").equals(asked)


def test_a_rater_with_nothing_wrong_is_its_own_clean_version() -> None:
    from pairwright.clean.evidence import Cleaning, Evidence, no_evidence
    from pairwright.clean.run import clean
    from pairwright.cleaning import found_in_order

    cells = [
        (f"p{i}", "r", f"j{j}", float(i % 7) + 0.01 * ((i * (j + 3)) % 5), None) for i in range(60) for j in range(4)
    ]
    rated = pl.DataFrame(cells, schema=no_evidence().scores.schema, orient="row")
    result = clean(Evidence(rated, no_evidence().comparisons), Cleaning(apply="safe"))
    assert result.scores.is_empty()
    table = rated.drop("model").with_columns(
        pl.lit(None, SCORES.schema[n]).alias(n) for n in ("reason", "scale_min", "scale_max")
    )
    same = found_in_order(result, table, ["j1"])
    assert set(same["rater"]) == {"j1.clean"}
    assert same["score"].equals(table.filter(pl.col("rater") == "j1")["score"])
    lost = result._replace(
        facts={**result.facts, "cases": [{**c, "outcome": "not_converged"} for c in result.facts["cases"]]}
    )
    assert found_in_order(lost, table, ["j1"]).is_empty()


@pytest.mark.parametrize(("flip", "noted"), [(0.0, True), (0.25, False)])
def test_rankings_written_out_as_comparisons_are_suspected(flip: float, noted: bool) -> None:
    import numpy as np

    from pairwright.clean.comparisons import clean_comparisons
    from pairwright.clean.evidence import Cleaning
    from pairwright.tables import COMPARISONS

    rng = np.random.default_rng(0)
    rows = []
    for p in range(300):
        rank = rng.permutation(5)
        for a in range(5):
            for b in range(a):
                left = (rank[a] > rank[b]) != (rng.random() < flip)
                rows.append((f"p{p}", str(a), str(b), "x", "left" if left else "right", None, 0, None))
    table = pl.DataFrame(rows, schema=COMPARISONS.schema, orient="row")
    assert (clean_comparisons(table, Cleaning()).facts["note"] is not None) is noted
