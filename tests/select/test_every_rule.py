"""What holds for every rule of the dict: adding one puts it under test."""

import json
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
from pools import pool

from pairwright.errors import DataError
from pairwright.select.rules import RULES
from pairwright.select.run import Selected, Selection, select

OPTIONS = {"perpcorrect": {"warm_up": True}}


def run(name: str, pairs: pl.DataFrame, **changes: object) -> Selected:
    settings = Selection(rule=name, margins=["external", "implicit"], options=OPTIONS.get(name, {}), keep=0.2)
    return select(pairs, replace(settings, **changes))  # type: ignore[arg-type]


def kept(done: Selected) -> set[str]:
    return set(done.table.filter("kept")["chosen_id"])


@pytest.mark.parametrize("name", RULES)
class TestEveryRule:
    def test_every_pair_is_kept_or_dropped_with_a_reason(self, name: str) -> None:
        pairs = pool()
        done = run(name, pairs)
        assert done.table.height == pairs.height
        assert done.table["reason"].null_count() == 0
        assert (done.table["kept"] == (done.table["reason"].cast(pl.String) == "kept")).all()
        assert done.table["kept"].sum() + done.dropped.height == pairs.height
        assert sum(done.facts["reasons"].values()) == pairs.height
        assert 0 < done.facts["kept"] <= 60

    def test_the_order_of_the_rows_does_not_matter(self, name: str) -> None:
        pairs = pool()
        mixed = pairs.sample(fraction=1.0, shuffle=True, seed=3)
        one, two = (run(name, each).table.sort("chosen_id") for each in (pairs, mixed))
        assert one.select("kept", "rank", "reason").equals(two.select("kept", "rank", "reason"))

    def test_a_larger_budget_keeps_what_a_smaller_one_kept(self, name: str) -> None:
        pairs = pool()
        sets = [kept(run(name, pairs, keep=k)) for k in (0, 3, 17, 40, 150, 1.0)]
        assert not sets[0]
        for small, large in pairwise(sets):
            assert small <= large

    def test_missing_numbers_are_never_ranked(self, name: str) -> None:
        done = run(name, pool(missing=0.3), keep=1.0)
        lost = done.table.filter(pl.col("reason").cast(pl.String).str.ends_with("_missing"))
        assert lost["rank"].null_count() == lost.height
        assert not lost["kept"].any()
        assert name == "random" or lost.height
        assert done.table["fused_score"].drop_nulls().is_finite().all()

    def test_the_best_score_has_the_first_rank(self, name: str) -> None:
        table = run(name, pool(missing=0.2), keep=0.1).table.filter(pl.col("rank").is_not_null()).sort("rank")
        last = table["conflict"] if "conflict" in table.columns else pl.repeat(False, table.height, eager=True)
        assert table["rank"].to_list() == list(range(1, table.height + 1))
        assert last.is_sorted()
        assert table.filter(~last)["fused_score"].is_sorted(descending=True)
        capped = name == "rs_dpo"
        assert capped or table["kept"].is_sorted(descending=True)

    def test_the_input_is_untouched_and_a_second_run_is_the_same(self, name: str) -> None:
        pairs = pool()
        before = pairs.clone()
        one, two = run(name, pairs), run(name, pairs)
        assert pairs.equals(before)
        assert one.table.equals(two.table)
        assert one.controls.equals(two.controls)
        assert json.dumps(one.facts) == json.dumps(two.facts)

    def test_whole_numbers_do_as_ids(self, name: str) -> None:
        done = run(name, pool(whole=True))
        assert done.facts["kept"] > 0

    def test_ids_that_stand_twice_are_refused(self, name: str) -> None:
        pairs = pool(20, missing=0)
        with pytest.raises(DataError, match="stands twice"):
            run(name, pl.concat([pairs, pairs[3:4]]))

    def test_a_random_subset_of_the_same_size_stands_beside_it(self, name: str) -> None:
        done = run(name, pool())
        sizes = done.controls.group_by("seed").len()["len"].to_list()
        assert sizes == [done.facts["kept"]] * 3
        assert done.facts["control"]["chance"] == pytest.approx(done.facts["kept"] / done.facts["able"])

    def test_facts_are_json_and_name_what_was_not_kept(self, name: str) -> None:
        done = run(name, pool())
        assert json.loads(json.dumps(done.facts, allow_nan=False))["rule"] == name

    def test_a_rule_tells_which_column_it_lacks(self, name: str) -> None:
        bare = pool().select("prompt_id", "chosen_id", "rejected_id", "source")
        if name == "random":
            assert run(name, bare).facts["kept"] == 60
            return
        with pytest.raises((DataError, ValueError), match=r"no column|needs|ensemble of"):
            run(name, bare)
