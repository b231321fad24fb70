"""pairwright select as a user calls it: what it reads, joins, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pairwright.errors import ConfigError, DataError, MissingDependency, StoreError
from pairwright.select.run import Selection
from pairwright.selecting import Beside, read_pairs, select_source, with_implicit, with_numbers, with_scores
from pairwright.tables import LOGPS, text_hash

HOSTILE = "<script>alert(1)</script> \u202e&amp; \"quoted' \U0001f600"


def trl_file(path: Path, n: int = 60, seed: int = 0) -> pl.DataFrame:
    """Conversational rows with scores, a column of their own, and hostile text."""
    rng = np.random.default_rng(seed)
    score = rng.normal(5, 6, (2, n))
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {i // 2}? {HOSTILE}"}],
            "chosen": [{"role": "assistant", "content": f"Answer {i} " + "word " * int(rng.integers(1, 30))}],
            "rejected": [{"role": "assistant", "content": f"Reply {i} {HOSTILE}" + " word" * int(rng.integers(1, 30))}],
            "score_chosen": float(score.max(axis=0)[i] + 3),
            "score_rejected": float(score.min(axis=0)[i]),
            "weight": 1.0,
            "note": f"n{i}",
        }
        for i in range(n)
    ]
    frame = pl.DataFrame(rows)
    if path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    return frame


def table_file(path: Path, n: int = 80) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "prompt_id": [f"p{i // 2}" for i in range(n)],
            "chosen_id": [f"c{i}" for i in range(n)],
            "rejected_id": [f"r{i}" for i in range(n)],
            "margin": rng.normal(3, 8, n),
        }
    )
    frame.write_parquet(path)
    return frame


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl"])
def test_rows_to_train_on_come_out_with_all_their_columns(tmp_path: Path, pairwright: Callable, name: str) -> None:
    source, out = tmp_path / name, tmp_path / "out"
    rows = trl_file(source)
    before = source.read_bytes()
    done = pairwright("select", source, "--out", out, "--keep", 0.25, "--set", "controls.n=2")
    assert done.returncode == 0, done.stderr
    assert source.read_bytes() == before
    kept = pl.read_parquet(out / "pairs.parquet")
    assert kept.columns[: rows.width] == rows.columns
    assert {"fused_score", "rank", "prompt_id", "chosen_id", "rejected_id"} <= set(kept.columns)
    assert kept.height == 15
    gaps = (rows["score_chosen"] - rows["score_rejected"]).sort(descending=True)
    assert (kept["score_chosen"] - kept["score_rejected"]).sort(descending=True).to_list() == gaps[:15].to_list()
    assert kept["note"].to_list() == sorted(kept["note"], key=lambda note: int(note[1:]))  # the order of the file
    table, dropped = pl.read_parquet(out / "selection.parquet"), pl.read_parquet(out / "dropped.parquet")
    assert table.height == rows.height == kept.height + dropped.height
    assert set(dropped["stage"]) == {"select"}
    assert table["n_chars_chosen"].to_list() == [len(each[0]["content"]) for each in rows["chosen"]]
    for seed in (0, 1):
        control = pl.read_parquet(out / "controls" / f"random-{seed}.parquet")
        assert control.columns == rows.columns
        assert control.height == 15
        assert set(control["note"]) <= set(rows["note"])
    assert "15 of 60 pairs kept" in done.stdout
    assert "by chance" in done.stdout


def test_json_is_one_object_and_a_second_call_takes_the_place_of_the_first(
    tmp_path: Path, pairwright: Callable
) -> None:
    source, out = tmp_path / "pairs.parquet", tmp_path / "out"
    trl_file(source)
    done = pairwright("select", source, "--out", out, "--keep", 10, "--compare", "--json")
    told = json.loads(done.stdout)
    assert told["kept"] == 10
    assert told["compare"]["names"]
    assert told == json.loads((out / "select.json").read_text())
    again = pairwright("select", source, "--out", out, "--rule", "random", "--keep", 5, "--seed", 3)
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in (out / "controls").iterdir()) == [f"random-{k}.parquet" for k in (3, 4, 5)]


def test_ids_and_numbers_alone_are_enough(tmp_path: Path) -> None:
    table_file(tmp_path / "in.parquet")
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(keep=0.1))
    assert facts["kept"] == 8
    assert pl.read_parquet(tmp_path / "out" / "pairs.parquet").columns[:4] == [
        "prompt_id",
        "chosen_id",
        "rejected_id",
        "margin",
    ]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_run_gives_the_margins_of_its_other_raters(tmp_path: Path, recipe: Callable, pairwright: Callable) -> None:
    path = recipe()
    assert pairwright("run", path, "--out", tmp_path / "run").returncode == 0
    done = pairwright("select", tmp_path / "run", "--out", tmp_path / "out", "--keep", 0.5, "--json")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "out" / "selection.parquet")
    assert "hit_extreme" in table.columns
    raters = [name for name in table.columns if name.startswith("margin_")]
    assert raters  # of the combined reward no part is the margin itself
    scores = pl.concat([pl.read_parquet(each) for each in (tmp_path / "run/stages").glob("score-*/scores-*.parquet")])
    mine = scores.filter(pl.col("rater") == raters[0].removeprefix("margin_"))
    held = {(row[0], row[1]): row[2] for row in mine.select("prompt_id", "response_id", "score").iter_rows()}
    for row in table.iter_rows(named=True):
        wanted = held[row["prompt_id"], row["chosen_id"]] - held[row["prompt_id"], row["rejected_id"]]
        assert row[raters[0]] == pytest.approx(wanted)


def test_numbers_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    pairs = table_file(tmp_path / "in.parquet")
    numbers = pairs.select("prompt_id", "chosen_id", "rejected_id", influence=pl.col("margin") * 2)[5:].sample(
        fraction=1.0, shuffle=True, seed=1
    )
    numbers.write_parquet(tmp_path / "influence.parquet")
    beside = Beside(numbers=(tmp_path / "influence.parquet",))
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(rule="tif"), beside)
    table = pl.read_parquet(tmp_path / "out" / "selection.parquet")
    assert table["influence"][5:].to_list() == pytest.approx((2 * pairs["margin"][5:]).to_list())
    assert facts["reasons"]["influence_missing"] == 5
    assert facts["histograms"]["influence"]["band"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Most influential" in page
    assert "Least influential" in page


def test_joins_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    pairs = table_file(tmp_path / "in.parquet")
    ids = pairs.select("prompt_id", "chosen_id", "rejected_id")
    with pytest.raises(DataError, match="never joined by their place"):
        with_numbers(pairs, pl.DataFrame({"irm": [1.0]}), where="f")
    with pytest.raises(DataError, match="names prompts alone"):
        with_numbers(pairs, pl.DataFrame({"prompt_id": ["p1"], "irm": [1.0]}), where="f")
    with pytest.raises(DataError, match="stands twice"):
        with_numbers(pairs, pl.concat([ids, ids[:1]]).with_columns(irm=1.0), where="f")
    with pytest.raises(DataError, match="none of its 80 ids"):
        with_numbers(pairs, ids.with_columns(irm=1.0, prompt_id=pl.col("prompt_id") + "x"), where="f")
    with pytest.raises(DataError, match="have margin already"):
        with_numbers(pairs, ids.with_columns(margin=1.0), where="f")
    crossed = with_numbers(
        pairs, ids.with_columns(loss=0.5, scored_by=pl.lit("0-1"), reason=pl.lit(None, pl.String)), where="f"
    )
    assert {"loss_cross", "scored_by"} <= set(crossed.columns)
    assert "reason" not in crossed.columns


def logps(pairs: pl.DataFrame, model: str, values: Callable[[str], float], **columns: Any) -> pl.DataFrame:
    both = [
        (row["prompt_id"], row[side]) for row in pairs.iter_rows(named=True) for side in ("chosen_id", "rejected_id")
    ]
    return pl.DataFrame(
        [
            {
                "prompt_id": prompt, "response_id": response, "model": model, "model_hash": model, "template_hash": "t",
                "logp": values(response), "n_tokens": 1 + int(response[1:]) % 7, "truncated": False, "reason": None,
                "response_hash": text_hash(response), **columns,
            }
            for prompt, response in dict.fromkeys(both)
        ],
        schema=LOGPS.schema,
    )  # fmt: skip


def test_the_implicit_margin_is_a_difference_of_log_ratios(tmp_path: Path) -> None:
    pairs = table_file(tmp_path / "in.parquet", 30)
    one = logps(pairs, "policy", lambda name: -3.0 * int(name[1:]) - (name[0] == "r"))
    two = logps(pairs, "reference", lambda name: -2.0 * int(name[1:]))
    made = with_implicit(pairs, one, two)["margin_implicit"].to_list()
    assert made == pytest.approx([1.0] * 30)
    assert (
        with_implicit(pairs, two.with_columns(model_hash=pl.lit("policy")), two)["margin_implicit"].to_list()
        == [0.0] * 30
    )
    turned = pairs.rename({"chosen_id": "rejected_id", "rejected_id": "chosen_id"})
    assert with_implicit(turned, one, two)["margin_implicit"].to_list() == pytest.approx([-1.0] * 30)
    prefix = pl.col("logp") - 5.0  # of the prompt, in both models
    moved = with_implicit(pairs, one.with_columns(prefix), two.with_columns(prefix))["margin_implicit"].to_list()
    assert moved == pytest.approx(made)
    each = with_implicit(pairs, one, two, per_token=True)["margin_implicit"].to_list()
    tokens = [1 + i % 7 for i in range(30)]
    assert each == pytest.approx([1 / t for t in tokens])


def test_the_command_makes_the_implicit_margin_of_two_tables(tmp_path: Path, pairwright: Callable) -> None:
    pairs = table_file(tmp_path / "in.parquet")
    rng = np.random.default_rng(3)
    for name in ("policy", "reference"):
        drawn = {response: -float(rng.gamma(20)) for side in ("chosen_id", "rejected_id") for response in pairs[side]}
        logps(pairs, name, drawn.__getitem__).write_parquet(tmp_path / f"{name}.parquet")
    words = [
        "select",
        tmp_path / "in.parquet",
        "--out",
        tmp_path / "out",
        "--margins",
        "external,implicit",
        "--keep",
        0.2,
    ]
    files = ["--policy-logps", tmp_path / "policy.parquet", "--reference-logps", tmp_path / "reference.parquet"]
    done = pairwright(*words, *files)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "out" / "selection.parquet")
    assert table["margin_implicit"].null_count() == 0
    assert "p_implicit" in table.columns
    half = pairwright(*words, *files[:2])
    assert half.returncode == 2
    assert "needs two models" in half.stderr
    without = pairwright(*words)
    assert without.returncode == 2
    assert "no column 'margin_implicit' (log-probabilities of a policy" in without.stderr


def test_further_raters_come_from_a_table_of_scores(tmp_path: Path) -> None:
    pairs = table_file(tmp_path / "in.parquet", 20)
    names = [(row[0], row[k]) for row in pairs.iter_rows() for k in (1, 2)]
    scores = pl.DataFrame(
        [
            (prompt, response, "rm", float(response[1:]) * (2 if response[0] == "c" else 1))
            for prompt, response in names
        ],
        schema=["prompt_id", "response_id", "rater", "score"],
        orient="row",
    )
    made = with_scores(pairs, scores[1:], where="f")
    assert made["margin_rm"].to_list() == [None, *[float(i) for i in range(1, 20)]]
    with pytest.raises(DataError, match="twice"):
        with_scores(pairs, pl.concat([scores, scores[:1]]), where="f")
    with pytest.raises(DataError, match="lacks rater"):
        with_scores(pairs, scores.drop("rater"), where="f")


def test_a_public_layout_is_read_and_rows_that_repeat_are_dropped(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Question {i}?",
            "prompt_id": f"q{i}",
            "chosen": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Yes {i}"}],
            "rejected": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"No {i}"}],
            "messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Yes {i}"}],
            "score_chosen": 8.0 + i % 3,
            "score_rejected": 2.0 + i % 2,
        }
        for i in range(40)
    ]
    pl.DataFrame([*rows, rows[0]]).write_parquet(tmp_path / "in.parquet")
    read = read_pairs(tmp_path / "in.parquet")
    assert read.rows["chosen"][0].to_list() == [{"role": "assistant", "content": "Yes 0"}]
    assert read.dropped["reason"].to_list() == ["repeated_pair"]
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(keep=10))
    assert facts["kept"] == 10
    assert facts["not_read"] == {"repeated_pair": 1}
    dropped = pl.read_parquet(tmp_path / "out" / "dropped.parquet")
    assert dropped.height == 31


def test_near_duplicates_are_capped(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    rows = trl_file(tmp_path / "in.parquet", 40)
    settings = Selection(keep=20, limits={"per_group": 1, "near": {"text": "prompt"}})
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", settings)
    assert facts["kept"] == 20  # two pairs of each prompt
    kept = pl.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert kept["prompt_id"].n_unique() == 20
    vectors = rows.with_columns(embedding=pl.Series([[float(i % 8 == k) for k in range(8)] for i in range(40)]))
    vectors.write_parquet(tmp_path / "vectors.parquet")
    by = Selection(keep=20, limits={"per_group": 2, "near": {"by": "embedding"}})
    facts = select_source(tmp_path / "vectors.parquet", tmp_path / "out", by)
    assert facts["kept"] == 16
    with pytest.raises(DataError, match="needs a column embedding"):
        select_source(tmp_path / "in.parquet", tmp_path / "out", by)


def test_a_missing_library_names_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasketch", None)
    trl_file(tmp_path / "in.parquet", 40)
    with pytest.raises(MissingDependency, match=r"pairwright\[near\]"):
        select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(limits={"per_group": 1}))


def test_results_never_fall_on_inputs(tmp_path: Path) -> None:
    trl_file(tmp_path / "pairs.parquet")
    with pytest.raises(ConfigError, match="which is read"):
        select_source(tmp_path / "pairs.parquet", tmp_path, Selection())
    other = tmp_path / "other"
    other.mkdir()
    trl_file(other / "pairs.parquet")
    with pytest.raises(ConfigError, match="no selection made it"):
        select_source(tmp_path / "pairs.parquet", other, Selection())
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    table_file(numbers / "selection.parquet")
    with pytest.raises(ConfigError, match="which is read"):
        select_source(
            tmp_path / "pairs.parquet", numbers, Selection(), Beside(numbers=(numbers / "selection.parquet",))
        )
    with pytest.raises(ConfigError, match="folder of its own"):
        select_source(other, other, Selection())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep", "2.5"], "keep = 2.5"),
        (["--rule", "best"], "unknown rule 'best'"),
        (["--combine", "sum"], "sum"),
        (["--set", "limits.per_promt=1"], "unknown per_promt"),
        (["--set", "budget=1"], "unknown: budget"),
        (["--set", "keep.x=1", "--keep", "3"], "holds no keys"),
        (["--margins", "nobody"], "no column 'nobody'"),
        (["--rule", "perpcorrect"], "known to be clean"),
        (["--layout", "nothing"], "unknown layout"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    from pairwright.cli import main

    trl_file(tmp_path / "in.parquet", 20)
    called = ["pairwright", "select", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out"), *words]
    monkeypatch.setattr("sys.argv", called)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    for frame, said in (
        (pl.DataFrame({"a": [1]}), "need pair_id"),
        (pl.DataFrame({"pair_id": [1, 1], "margin": [1.0, 2.0]}), "stands twice"),
        (pl.DataFrame({"pair_id": [], "margin": []}), "holds no pairs"),
    ):
        frame.write_parquet(tmp_path / "in.parquet")
        with pytest.raises(DataError, match=said):
            select_source(tmp_path / "in.parquet", tmp_path / "out", Selection())
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        select_source(tmp_path / "broken.parquet", tmp_path / "out", Selection())
    with pytest.raises(StoreError, match="no such file"):
        select_source(tmp_path / "absent.parquet", tmp_path / "out", Selection())


def test_text_of_models_never_becomes_markup(tmp_path: Path) -> None:
    trl_file(tmp_path / "in.parquet")
    select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(keep=0.2), all_rules=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    for word in (
        "Every pair accounted for",
        "random, same size",
        "Overlap of the rules",
        "Ranked first",
        "Ranked last",
    ):
        assert word in page


def test_real_pairs_with_ties_and_identical_texts(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "ultrafeedback_binarized_sample.parquet"
    facts = select_source(source, tmp_path / "out", Selection(keep=0.2), all_rules=True)
    rows = pl.read_parquet(source)
    assert facts["pairs"] + sum(facts.get("not_read", {}).values()) == rows.height
    kept = pl.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert kept.height == facts["kept"] == round(0.2 * facts["pairs"])
    gap = kept["score_chosen"] - kept["score_rejected"]
    assert gap.min() >= (rows["score_chosen"] - rows["score_rejected"]).median()
    assert facts["labels"]["pool"] is None  # one rater, and the labels are his
    assert "wpo" in facts["compare"]["refused"]


def test_two_real_raters_of_the_same_pairs(real_data: Path, tmp_path: Path) -> None:
    """JudgeBench: reward models that scored both answers of every item; the label is objective."""
    judged = pl.read_parquet(real_data / "judgebench_judgements.parquet").filter(
        pl.col("judge_kind").str.contains("reward"), ~pl.col("swapped"), pl.col("score_A").is_not_null()
    )
    items = pl.read_parquet(real_data / "judgebench_items.parquet").unique("pair_id", maintain_order=True)
    sign = pl.when(pl.col("label") == "A>B").then(1).otherwise(-1)
    both = judged.unique(["pair_id", "judge"]).join(items.select("pair_id", "label"), on="pair_id")
    margins = both.with_columns(margin=(pl.col("score_A") - pl.col("score_B")) * sign)
    wide = margins.pivot("judge", index="pair_id", values="margin", maintain_order=True, sort_columns=True)
    names = wide.columns[1:]
    assert len(names) >= 2
    wide = wide.rename({name: f"margin_m{k}" for k, name in enumerate(names)})
    wide.write_parquet(tmp_path / "in.parquet")
    sources = [f"m{k}" for k in range(len(names))]
    settings = Selection(margins=sources, keep=0.3, scoring={"kind": "rank"})
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", settings)
    assert facts["kept"] > 0
    kept, all_pairs = (facts["sets"][name]["margins"]["m0"]["below_zero"] for name in ("kept", "pool"))
    assert kept < all_pairs
    assert 0 < facts["labels"]["pool"] < 0.5 or facts["labels"].get("why")


def both_tables(pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What crossfit and influence write about the same pairs."""
    ids = pairs.select("prompt_id", "chosen_id", "rejected_id")
    rows = pl.int_range(pl.len())
    books = {"n_tokens_chosen": rows + 3, "n_tokens_rejected": rows + 2, "reason": pl.lit(None, pl.String)}
    crossed = ids.with_columns(
        margin_implicit=pl.lit(1.0), implicit_per_token=pl.lit(0.1), loss=0.5, ppl_diff=0.2, seed_pair=rows < 9,
        scored_by=pl.lit("0-1"), truncated=rows == 0, **books,
    )  # fmt: skip
    moved = ids.with_columns(
        influence=rows * 1.0, irm=rows * 0.5, loss=0.4, loss_val=0.3, lossdiff=0.1, truncated=rows == 1, **books
    )
    return crossed, moved


def test_cross_fitted_numbers_and_influences_are_joined_together(tmp_path: Path) -> None:
    pairs = table_file(tmp_path / "in.parquet")
    for at, frame in enumerate(both_tables(pairs)):
        frame.write_parquet(tmp_path / f"{at}.parquet")
    for order in ((0, 1), (1, 0)):
        beside = Beside(numbers=tuple(tmp_path / f"{at}.parquet" for at in order))
        select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(rule="selective"), beside)
        table = pl.read_parquet(tmp_path / "out" / "selection.parquet")
        assert table["loss_cross"].unique().to_list() == [0.5]
        assert table["loss"].unique().to_list() == [0.4]
        assert table["truncated"].to_list() == [True, True, *[False] * 78]
        assert table["n_tokens_chosen"].to_list() == [i + 3 for i in range(80)]


def test_what_is_read_is_never_deleted(tmp_path: Path) -> None:
    table_file(tmp_path / "in.parquet")
    out = tmp_path / "out"
    select_source(tmp_path / "in.parquet", out, Selection(keep=20))
    control = out / "controls" / "random-2.parquet"
    before = control.read_bytes()
    with pytest.raises(ConfigError, match=r"holds random-2\.parquet, which is read"):
        select_source(control, out, Selection(keep=3, controls={"n": 1}))
    with pytest.raises(ConfigError, match="which is read"):
        select_source(tmp_path / "in.parquet", out, Selection(), Beside(numbers=(control,)))
    assert control.read_bytes() == before


def test_a_second_selection_writes_its_own_scores_and_ranks(tmp_path: Path) -> None:
    table_file(tmp_path / "in.parquet")
    select_source(tmp_path / "in.parquet", tmp_path / "one", Selection(keep=60))
    facts = select_source(tmp_path / "one", tmp_path / "two", Selection(rule="lowest", keep=5))
    ids = ["prompt_id", "chosen_id", "rejected_id"]
    kept = pl.read_parquet(tmp_path / "two" / "pairs.parquet").sort(ids)
    wanted = pl.read_parquet(tmp_path / "two" / "selection.parquet").filter("kept").sort(ids)
    assert kept.select("fused_score", "rank").equals(wanted.select("fused_score", "rank"))
    assert sorted(kept["rank"]) == [1, 2, 3, 4, 5]
    assert any("of an earlier selection" in line for line in facts["read"])
    assert "rank" not in pl.read_parquet(tmp_path / "two" / "controls" / "random-0.parquet").columns


@pytest.mark.parametrize(("side", "empty"), [("chosen", None), ("rejected", []), ("chosen", [None]), ("chosen", [" "])])
def test_a_side_without_text_is_set_aside_with_a_reason(tmp_path: Path, side: str, empty: Any) -> None:
    rows = trl_file(tmp_path / "in.jsonl", 20).to_dicts()
    rows[4]["score_chosen"] = 1000.0
    rows[4][side] = empty if not empty else [{"role": "assistant", "content": empty[0]}]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    facts = select_source(tmp_path / "in.jsonl", tmp_path / "out", Selection(keep=20))
    assert facts["kept"] == facts["pairs"] == 19
    assert facts["not_read"] == {f"no_{side}": 1}
    dropped = pl.read_parquet(tmp_path / "out" / "dropped.parquet")
    assert dropped["reason"].to_list() == [f"no_{side}"]
    assert "n4" not in pl.read_parquet(tmp_path / "out" / "pairs.parquet")["note"].to_list()


def test_ids_of_numbers_that_are_no_pair_are_counted_and_never_rounded(tmp_path: Path) -> None:
    pl.DataFrame({"pair_id": range(50), "margin": [i / 2 for i in range(50)]}).write_parquet(tmp_path / "in.parquet")
    numbers = tmp_path / "n.parquet"
    pl.DataFrame({"pair_id": ["0", "1", "99", "x", None], "irm": [1.0, 2.0, 3.0, 4.0, 5.0]}).write_parquet(numbers)
    settings, beside = Selection(rule="irm_large"), Beside(numbers=(numbers,))
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", settings, beside)
    assert facts["reasons"]["irm_missing"] == 48
    assert any(f"3 ids of {numbers} are no pair here" in line for line in facts["read"])
    assert "are no pair here" in (tmp_path / "out" / "report.html").read_text()
    pl.DataFrame({"pair_id": [0.0, 1.5], "irm": [1.0, 2.0]}).write_parquet(numbers)
    with pytest.raises(DataError, match="an id is text or a whole number"):
        select_source(tmp_path / "in.parquet", tmp_path / "out", settings, beside)


def test_every_file_that_was_read_is_recorded_under_its_path(tmp_path: Path, recipe: Callable, pairwright: Any) -> None:
    table_file(tmp_path / "in.parquet")
    ids = pl.read_parquet(tmp_path / "in.parquet").select("prompt_id", "chosen_id", "rejected_id")
    files = [tmp_path / name / "n.parquet" for name in ("a", "b")]
    for at, file in enumerate(files):
        file.parent.mkdir()
        ids.with_columns(pl.lit(1.0).alias(f"x{at}")).write_parquet(file)
    facts = select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(), Beside(numbers=tuple(files)))
    assert set(facts["inputs"]) == {str(each) for each in (tmp_path / "in.parquet", *files)}
    assert len(set(facts["inputs"].values())) == 3
    assert pairwright("run", recipe(), "--out", tmp_path / "run").returncode == 0
    told = select_source(tmp_path / "run", tmp_path / "more", Selection(keep=0.5))["inputs"]
    assert str(tmp_path / "run" / "pairs.parquet") in told
    assert any("scores-" in name for name in told)


def test_a_run_that_selects_nothing_any_more_keeps_no_numbers_of_seed_models(tmp_path: Path) -> None:
    from pairwright.after import forget_selection

    for name in ("seed_models.parquet", "seed_models.json", "selection.parquet", "pairs.parquet"):
        (tmp_path / name).write_bytes(b"")
    forget_selection(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.parquet"]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_an_out_that_is_a_file_is_one_line(tmp_path: Path, where: str) -> None:
    table_file(tmp_path / "in.parquet")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        select_source(tmp_path / "in.parquet", tmp_path / where, Selection())


def test_huge_whole_numbers_in_json_lines_are_one_line(tmp_path: Path) -> None:
    lines = [json.dumps({"pair_id": 10**20 + i, "margin": float(i)}) for i in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError):
        select_source(tmp_path / "in.jsonl", tmp_path / "out", Selection())


def test_the_page_and_the_command_say_that_the_subsets_were_drawn_under_caps(
    tmp_path: Path, pairwright: Callable
) -> None:
    table_file(tmp_path / "in.parquet")
    for limits, said in (({"per_prompt": 1}, True), ({}, False)):
        select_source(tmp_path / "in.parquet", tmp_path / "out", Selection(keep=20, limits=limits))
        assert ("under the caps" in (tmp_path / "out" / "report.html").read_text()) is said
        more = ["--set", "limits.per_prompt=1"] if said else []
        done = pairwright("select", tmp_path / "in.parquet", "--out", tmp_path / "out", *more)
        assert ("under the caps" in done.stdout) is said


def test_a_recipe_without_seed_models_leaves_none_of_their_numbers_beside_the_run(tmp_path: Path) -> None:
    from pairwright.selecting import select_run

    pairs = table_file(tmp_path / "in.parquet", 20)
    scores = pl.DataFrame(
        [(row[0], row[k], "rm", float(k)) for row in pairs.iter_rows() for k in (1, 2)],
        schema=["prompt_id", "response_id", "rater", "score"],
        orient="row",
    )
    for name in ("seed_models.parquet", "seed_models.json"):
        (tmp_path / name).write_bytes(b"")
    made = select_run(tmp_path, pairs, pairs, scores, [], Selection(keep=5))
    assert made.kept.height == 5
    assert not list(tmp_path.glob("seed_models.*"))
