"""Runs: what is done is kept, what has changed is done again, nothing is lost by a stop in the middle."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from pairwright import pipeline, wiring
from pairwright.backends.fake import FakeSampler
from pairwright.errors import StoreError
from pairwright.protocols import Ask, Decoding, Drawn
from pairwright.recipe import Asked
from pairwright.store import Journal, Stage, locked
from pairwright.tables import RESPONSES

Recipe = Callable[..., Path]


class Counting(FakeSampler):
    """Counts draws over all samplers of a test, and can stop in the middle."""

    drawn = 0
    stop_after: int | None = None

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        for each in super().__call__(asks, decoding):
            if Counting.stop_after is not None and Counting.drawn >= Counting.stop_after:
                raise KeyboardInterrupt
            Counting.drawn += 1
            yield each


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    Counting.drawn, Counting.stop_after = 0, None
    monkeypatch.setitem(wiring.SAMPLERS, "fake", lambda settings: Counting(model=settings.model or "fake"))


def run(path: Path, folder: Path, **changes: object) -> list[pipeline.Outcome]:
    recipe = wiring.read_recipe(path, Asked({key.replace("__", "."): value for key, value in changes.items()}))
    return pipeline.run(folder, wiring.steps(recipe, folder))


def responses(folder: Path) -> pl.DataFrame:
    parts = [pl.read_parquet(path) for path in sorted((folder / "stages/sample").glob("responses-*.parquet"))]
    return pl.concat(parts).sort("prompt_id", "sample")


def test_a_run_writes_all_that_it_promises(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe(), tmp_path / "run", export__jsonl=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    promised = (
        "pairs.parquet pairs.jsonl candidates.parquet dropped.parquet ledger.json manifest.json report.html README.md"
    )
    assert set(promised.split()) <= names
    assert not [name for name in names if name.startswith(".")]


def test_counts_add_up_at_every_stage(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe(), tmp_path / "run")
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    by_name = {stage["stage"]: stage for stage in ledger["stages"]}
    for stage in ledger["stages"]:
        assert stage["rows_in"] == stage["kept"] + sum(stage["dropped"].values())
    assert by_name["prompts"]["rows_in"] == 12
    assert by_name["sample"]["rows_in"] == 144
    assert by_name["pair"]["rows_in"] == 12
    assert ledger["pairs"] == pl.read_parquet(tmp_path / "run/pairs.parquet").height == by_name["pair"]["kept"]
    dropped = pl.read_parquet(tmp_path / "run/dropped.parquet")
    lost = sum(sum(stage["dropped"].values()) + sum(stage["set_aside"].values()) for stage in ledger["stages"])
    assert dropped.height == lost


def test_an_unchanged_run_runs_nothing(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe()
    run(path, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    drawn = Counting.drawn
    assert [each.why for each in run(path, tmp_path / "run")] == ["unchanged"] * 7
    assert Counting.drawn == drawn
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_a_changed_rule_runs_pairing_and_export_alone(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe()
    run(path, tmp_path / "run")
    drawn = Counting.drawn
    why = {each.stage: each.why for each in run(path, tmp_path / "run", pair__rejected="min")}
    assert why["sample"] == why["score-rules"] == why["prompts"] == "unchanged"
    assert why["pair"] == "settings (rejected) changed"
    assert why["export"] == "reads (pair) changed"
    assert Counting.drawn == drawn


def test_a_deleted_output_is_written_again(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe()
    run(path, tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    why = {each.stage: each.why for each in run(path, tmp_path / "run")}
    assert why["export"] == "report.html is not there"
    assert (tmp_path / "run/report.html").exists()


def test_more_samples_keep_those_that_are_there(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(n=5)
    run(path, tmp_path / "run")
    first = responses(tmp_path / "run")
    assert Counting.drawn == 60
    run(path, tmp_path / "run", sample__n=8)
    assert Counting.drawn == 96
    grown = responses(tmp_path / "run")
    assert grown.height == 96
    assert grown.filter(pl.col("sample") < 5).equals(first)


def test_fewer_samples_draw_nothing(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(n=6)
    run(path, tmp_path / "run")
    run(path, tmp_path / "run", sample__n=4)
    assert Counting.drawn == 72
    assert responses(tmp_path / "run").height == 48


def test_going_back_brings_the_earlier_shards_back(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(n=5)
    run(path, tmp_path / "run")
    first = responses(tmp_path / "run")
    run(path, tmp_path / "run", sample__seed=9)
    assert Counting.drawn == 120
    assert not responses(tmp_path / "run").equals(first)
    run(path, tmp_path / "run")
    assert Counting.drawn == 120
    assert responses(tmp_path / "run").equals(first)


def test_a_new_prompt_draws_for_itself_alone(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe(prompts=10, n=4), tmp_path / "run")
    run(recipe(prompts=12, n=4), tmp_path / "run")
    assert Counting.drawn == 48


@pytest.mark.parametrize("stop", [1, 17, 50, 100, 143])
def test_a_stopped_run_goes_on_where_it_was(recipe: Recipe, tmp_path: Path, stop: int) -> None:
    path = recipe()
    Counting.stop_after = stop
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "run")
    Counting.stop_after = None
    run(path, tmp_path / "run")
    assert Counting.drawn == 144  # no draw twice, none missing
    resumed = responses(tmp_path / "run")
    assert resumed.height == 144
    assert resumed.select("prompt_id", "sample").is_duplicated().sum() == 0


def test_a_stop_between_calls_leaves_the_result_of_an_undisturbed_run(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe()
    run(path, tmp_path / "whole")
    Counting.drawn, Counting.stop_after = 0, 12 * 5  # after five whole calls
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "run")
    Counting.stop_after = None
    run(path, tmp_path / "run")
    assert responses(tmp_path / "run").equals(responses(tmp_path / "whole"))
    pairs = [pl.read_parquet(tmp_path / name / "pairs.parquet") for name in ("run", "whole")]
    assert pairs[0].equals(pairs[1])


def test_a_half_written_line_is_told_apart_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"k":0}\n{"k":1}\n{"k":2, "te')
    journal = Journal(path)
    assert journal.read() == ([{"k": 0}, {"k": 1}], 1)
    with journal.writing() as writer:
        writer.append({"k": 2})
    assert [record["k"] for record in journal.read()[0]] == [0, 1, 2]
    assert path.with_suffix(".torn").read_bytes().endswith(b'{"k":2, "te')


def test_a_failed_prompt_is_dropped_with_its_reason(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wiring.SAMPLERS, "fake", lambda _: FakeSampler(fails="Name 3 "))
    run(recipe(), tmp_path / "run")
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    by_name = {stage["stage"]: stage for stage in ledger["stages"]}
    assert by_name["sample"]["dropped"] == {"generation_failed": 12}
    assert by_name["pair"]["dropped"]["too_few"] == 1
    assert by_name["pair"]["rows_in"] == 12


def test_prompts_are_cut_into_shards_without_losing_one(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe(shards=7), tmp_path / "run")
    stage = Stage(tmp_path / "run", "sample", 7, (RESPONSES,))
    owners = [set(stage.read("responses", shard)["prompt_id"]) for shard in range(7)]
    assert sum(map(len, owners)) == len(set().union(*owners)) == 12


def test_the_number_of_shards_does_not_change_the_pairs(recipe: Recipe, tmp_path: Path) -> None:
    pairs = []
    for shards in (1, 4):
        run(recipe(shards=shards), tmp_path / f"run{shards}")
        pairs.append(pl.read_parquet(tmp_path / f"run{shards}/pairs.parquet").sort("prompt_id"))
    assert pairs[0].equals(pairs[1])


def test_two_processes_give_what_one_gives(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe()
    for workers in (1, 2):
        run(path, tmp_path / f"run{workers}", workers=workers)
    for name in ("pairs.parquet", "candidates.parquet", "dropped.parquet"):
        one, two = (pl.read_parquet(tmp_path / f"run{workers}" / name) for workers in (1, 2))
        assert one.equals(two)


def test_a_stopped_run_with_more_samples_keeps_what_was_drawn(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(n=6)
    Counting.stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "run")
    Counting.stop_after = None
    run(path, tmp_path / "run", sample__n=8)
    assert Counting.drawn == 96
    assert responses(tmp_path / "run").height == 96


class Fickle(Counting):
    """A sampler whose redraw gives other texts, as a real engine's may."""

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        yield from super().__call__([ask._replace(seed=ask.seed + Counting.drawn) for ask in asks], decoding)


def test_no_score_outlives_the_text_it_was_given_to(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wiring.SAMPLERS, "fake", lambda _: Fickle())
    path, folder = recipe(), tmp_path / "run"
    run(path, folder)
    (folder / "stages/sample/responses-00001-of-00003.parquet").unlink()
    dry = pipeline.plan(folder, wiring.steps(wiring.read_recipe(path), folder))
    assert {step.name: why for step, _, _, why in dry}["pair"] == "sample and score-rules will be made again"
    assert {each.stage: each.made for each in run(path, folder)} == {
        "prompts": 0, "sample": 1, "score-rules": 1, "score-length": 1, "scores": 1, "pair": 1, "export": 1
    }  # fmt: skip
    for row in pl.read_parquet(folder / "candidates.parquet").iter_rows(named=True):
        assert json.loads(row["scores"])["length"] == len(row["response"])


def test_shards_that_nothing_vouches_for_are_not_believed(recipe: Recipe, tmp_path: Path) -> None:
    path, folder = recipe(), tmp_path / "run"
    run(path, folder)
    before = responses(folder)
    (folder / "stages/sample/stage.json").unlink()
    run(path, folder, sample__seed=4)
    assert not responses(folder).equals(before)
    assert set(responses(folder)["seed"]).isdisjoint(set(before["seed"]))


def test_going_back_writes_the_outputs_again(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = recipe(n=30), tmp_path / "run"
    run(path, folder, pair__rejected="mu")
    first = pl.read_parquet(folder / "pairs.parquet")
    run(path, folder, pair__rejected="min")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wiring, "export_run", dies)
        with pytest.raises(KeyboardInterrupt):
            run(path, folder, pair__rejected="mu")
    run(path, folder, pair__rejected="mu")
    assert pl.read_parquet(folder / "pairs.parquet").equals(first)
    assert json.loads((folder / "manifest.json").read_text())["settings"]["pair"]["rejected"] == "mu"


def test_two_runs_in_one_folder_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(StoreError, match="another run works in"):
        run(recipe(), tmp_path / "run")
    run(recipe(), tmp_path / "run")


def test_a_dry_run_says_what_would_run_and_why_and_writes_nothing(
    recipe: Recipe, tmp_path: Path, pairwright: Callable
) -> None:
    path = recipe()
    run(path, tmp_path / "run")
    files = sorted(p for p in (tmp_path / "run").rglob("*"))
    done = pairwright("run", path, "--out", tmp_path / "run", "--set", "sample.temperature=0.5", "--dry-run", "--json")
    plan = {each["stage"]: each for each in json.loads(done.stdout)["plan"]}
    assert plan["sample"] == {"stage": "sample", "would_run": True, "why": "settings (temperature) changed"}
    assert not plan["prompts"]["would_run"]
    assert sorted(p for p in (tmp_path / "run").rglob("*")) == files


def test_the_manifest_says_what_the_run_was_made_of(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe(), tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["seeds"] == {"sample": 1, "pair": 0}
    assert manifest["settings"]["sample"]["n"] == 12
    assert len(manifest["inputs"]["prompts.jsonl"]) == 64
    assert {"numpy", "polars"} <= manifest["packages"].keys()


def test_a_comment_in_the_code_does_not_run_a_stage_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "stagecode.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for text in ('"""A."""\nx = 1\n', '"""B, longer."""\n# why\nx = 1\n', "x = 2\n"):
        module.write_text(text)
        os.utime(module, (1, 1))
        digests.append(pipeline.code_digest(["stagecode"]))
    assert digests[0] == digests[1] != digests[2]
