"""Selection of a run folder or of a file of pairs: columns gathered and joined by id, results and page written."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pairwright import __version__
from pairwright.errors import ConfigError, DataError, StoreError
from pairwright.io.jsonl import read_lines
from pairwright.io.layouts import convert_file, detect
from pairwright.report.select import page_of
from pairwright.score.compare import voices
from pairwright.score.logprob import implicit
from pairwright.select.near import embedding_groups, minhash_groups
from pairwright.select.pool import Pool
from pairwright.select.run import ADDED, Selected, Selection, compare, select
from pairwright.store import file_hash, write_json, write_parquet, write_text
from pairwright.tables import DROPPED, conform, drops, prompt_id, text_hash

TEXTS = ("prompt", "chosen", "rejected")
SIDES = ("chosen_id", "rejected_id")
AS_THEY_ARE = ("pairwright", "trl_explicit", "trl_standard")  # layouts whose rows TRL trains on
FIRST = 50  # rows that tell the layout
SHOWN = 10  # pairs of each end that the page shows
TAGS = ("select.json", "pairs.parquet")
SEEDED = ("seed_models.parquet", "seed_models.json")  # margins of seed models, beside a run
BOOKS = ("truncated", "n_tokens_chosen", "n_tokens_rejected")  # may come with every table of one model's numbers
AGAIN = "_again"


@dataclass(frozen=True)
class Beside:
    """Files that hold further numbers of the same pairs, joined by id.

    numbers: tables of one row per pair; scores: tables of one row per response and rater; policy and reference: tables of
    log-probabilities, whose difference is the implicit margin (per token where asked).
    """

    numbers: tuple[Path, ...] = ()
    scores: tuple[Path, ...] = ()
    policy: Path | None = None
    reference: Path | None = None
    per_token: bool = False

    def __post_init__(self) -> None:
        if (self.policy is None) != (self.reference is None):
            raise ConfigError("an implicit margin needs two models: give --policy-logps and --reference-logps together")

    @property
    def files(self) -> list[Path]:
        return [path for path in (*self.numbers, *self.scores, self.policy, self.reference) if path is not None]


class Read(NamedTuple):
    """rows: as they came, one per pair. pairs: ids and numbers of the same rows in the same order. dropped: not used."""

    rows: pl.DataFrame
    pairs: pl.DataFrame
    dropped: pl.DataFrame
    told: list[str]


def read_pairs(source: Path, *, layout: str | None = None, keep: Sequence[str] = ()) -> Read:
    """A run folder (its pairs.parquet), TRL rows, ids with numbers, or any layout of pairs that `convert` knows.

    `keep` names columns that the selection reads though they are neither ids nor numbers. Rows without ids get ids made of
    their texts; a row that repeats another one is then dropped.
    """
    path = source / "pairs.parquet" if source.is_dir() else source
    if not path.is_file():
        why = "a folder without pairs.parquet; pairwright pair or run makes it" if source.is_dir() else "no such file"
        raise StoreError(f"cannot read pairs from {source}: {why}")
    rows, lost, told = _rows(path, layout)
    if not rows.height:
        raise DataError(f"{path} holds no pairs")
    rows, aside = set_aside(rows)
    dropped = pl.concat([lost, aside])
    if not rows.height:
        raise DataError(f"{path} holds no pair with text on both sides")
    if old := [name for name in ("fused_score", "rank") if name in rows.columns]:
        told.append(f"{', '.join(old)} of an earlier selection: not read, and replaced in what is written")
    pairs = numbers_of(rows, keep=keep)
    if lost.height:
        told.append(f"{lost.height} rows could not be read")
    return Read(rows, pairs, dropped, [f"{rows.height} pairs of {path}", *told])


def set_aside(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are pairs, and the others with a reason: a side without text, a pair without ids that stands twice."""
    parts = []
    for side in TEXTS[1:]:
        if side in rows.columns:
            full = rows.select(_said(rows, side).fill_null("").str.strip_chars() != "").to_series()
            parts.append(drops("select", rows.filter(~full).select(_prompt_ids(rows.filter(~full))), f"no_{side}"))
            rows = rows.filter(full)
    if not _named(rows) and rows.height:
        made = rows.select(_ids(rows))
        again = made.select(pl.struct(made.columns).is_first_distinct()).to_series()
        parts.append(drops("select", made.filter(~again), "repeated_pair"))
        rows = rows.filter(again)
    return rows, pl.concat([pl.DataFrame(schema=DROPPED.schema), *parts])


def pairs_to_score(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that a selection of the same file will see, with their ids, and the others with a reason.

    DataError where ids of the file's own repeat or are null, which the selection refuses as well.
    """
    rows, aside = set_aside(rows)
    if not rows.height:
        raise DataError("no pair has text on both sides")
    Pool(rows.select(_ids(rows)))
    return with_ids(rows), aside


def _prompt_ids(rows: pl.DataFrame) -> pl.Series:
    if "prompt_id" in rows.columns and not rows["prompt_id"].null_count():
        return rows["prompt_id"].cast(pl.String)
    said = rows["prompt"].to_list() if "prompt" in rows.columns else [None] * rows.height
    return pl.Series("prompt_id", [_prompt_id(each) for each in said], pl.String)


def with_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the ids that a selection joins by, where they are made of `meta` or of the texts."""
    return rows.with_columns(each for each in _ids(rows) if each.name not in rows.columns)


def numbers_of(rows: pl.DataFrame, *, keep: Sequence[str] = ()) -> pl.DataFrame:
    """Ids and numbers of rows of pairs, in their order: what a selection reads."""
    made = rows.select(_ids(rows))
    pairs = pl.concat([made, rows.select(_numbers(rows, made.columns, keep))], how="horizontal")
    pairs = pairs.with_columns(_facts_of_meta(rows, pairs.columns))
    if set(TEXTS) <= set(rows.columns) and not {"n_tokens_chosen", "tokens_chosen"} & set(pairs.columns):
        pairs = pairs.with_columns(rows.select(*(_length(rows, side).alias(f"n_chars_{side}") for side in TEXTS[1:])))
    return pairs


def _rows(path: Path, layout: str | None) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    rows = None if layout or path.suffix not in {".parquet", ".pq", ".jsonl", ".ndjson"} else _table(path)
    none = pl.DataFrame(schema=DROPPED.schema)
    if rows is not None:
        if not set(TEXTS[1:]) & set(rows.columns):
            return rows, none, ["ids and numbers, no texts"]
        found = (
            detect(rows.head(FIRST).to_dicts(), rows.columns, where=str(path)).name if rows.height else "trl_explicit"
        )
        if found in AS_THEY_ARE:
            return rows, none, [f"read as {found}"]
        layout = found
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "pairs.parquet"
        told = convert_file(path, target, to="pairwright", layout=layout)
        lost = [row for _, row in read_lines(Path(f"{target}.dropped.jsonl"), dict)] if told["dropped"] else []
        rows = pl.read_parquet(target)
    named = [
        {
            "stage": "read",
            "prompt_id": _text(row["id"]),
            "reason": row["reason"],
            "detail": f"row {row['row']}: {row['detail']}",
        }
        for row in lost
    ]
    read = pl.DataFrame(named, schema_overrides={"prompt_id": pl.String}) if named else none
    return rows, none if read is none else _dropped(read), [f"read as {told['detected']}, written as TRL rows"]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _dropped(rows: pl.DataFrame) -> pl.DataFrame:
    lacks = [pl.lit(None, kind).alias(name) for name, kind in DROPPED.schema.items() if name not in rows.columns]
    return conform(rows.with_columns(lacks).select(DROPPED.columns.keys()), DROPPED, where="dropped")


def _table(path: Path) -> pl.DataFrame:
    try:
        if path.suffix in {".parquet", ".pq"}:
            return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error
    held = [row for _, row in read_lines(path, dict)]
    try:
        return pl.DataFrame(held, infer_schema_length=None)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: a column holds values of several kinds ({str(error).splitlines()[0]})") from error


def _named(rows: pl.DataFrame) -> bool:
    """Whether the rows name their own responses."""
    return "pair_id" in rows.columns or set(SIDES) <= set(rows.columns) or _meta_has(rows, "chosen_id")


def _meta_has(rows: pl.DataFrame, key: str) -> bool:
    if rows.schema.get("meta") != pl.String:
        return False
    held = rows.select(pl.col("meta").str.json_path_match(f"$.{key}")).to_series()
    return held.null_count() == 0


def _ids(rows: pl.DataFrame) -> list[pl.Series]:
    """prompt_id, and pair_id or both response ids: given, out of `meta`, or made of the texts."""
    ids: list[pl.Series] = []
    texts = set(TEXTS) <= set(rows.columns)
    if "prompt_id" in rows.columns and not rows["prompt_id"].null_count():
        ids.append(rows["prompt_id"])
    elif texts:
        ids.append(pl.Series("prompt_id", [_prompt_id(each) for each in rows["prompt"].to_list()], pl.String))
    if "pair_id" in rows.columns:
        return [*ids, rows["pair_id"]]
    for name in SIDES:
        if name in rows.columns:
            ids.append(rows[name])
        elif _meta_has(rows, name):
            ids.append(rows.select(pl.col("meta").str.json_path_match(f"$.{name}").alias(name)).to_series())
        elif texts:
            said = rows.select(_said(rows, name.removesuffix("_id"))).to_series()
            ids.append(pl.Series(name, [text_hash(each or "") for each in said], pl.String))
    if len(ids) < 3:
        raise DataError(
            f"the pairs have the columns {', '.join(rows.columns)}: they need pair_id, or prompt_id, chosen_id and "
            "rejected_id, or the texts prompt, chosen and rejected"
        )
    return ids


def _prompt_id(prompt: Any) -> str:
    turns = [{"role": "user", "content": prompt or ""}] if isinstance(prompt, str | None) else prompt
    return prompt_id([{"role": str(turn["role"]), "content": turn["content"] or ""} for turn in turns])


def _said(rows: pl.DataFrame, column: str) -> pl.Expr:
    """The text of a column that is text or messages."""
    if rows.schema[column] in (pl.String, pl.Null):
        return pl.col(column).cast(pl.String)
    return pl.col(column).list.eval(pl.element().struct.field("content")).list.join("\n")


def _length(rows: pl.DataFrame, side: str) -> pl.Expr:
    return _said(rows, side).str.len_chars()


def _numbers(rows: pl.DataFrame, ids: Sequence[str], keep: Sequence[str]) -> list[str]:
    """Columns that a selection may read: numbers, truth values, and what the settings name."""
    plain = [name for name, kind in rows.schema.items() if kind.is_numeric() or kind == pl.Boolean or name in keep]
    plain += [name for name in ("source", "scored_by") if name in rows.columns]
    return [name for name in dict.fromkeys(plain) if name not in ids and name not in (*ADDED, "weight")]


def _facts_of_meta(rows: pl.DataFrame, have: Sequence[str]) -> list[pl.Series]:
    if "hit_extreme" in have or not _meta_has(rows, "hit_extreme"):
        return []
    told = rows.select(hit_extreme=pl.col("meta").str.json_path_match("$.hit_extreme") == "true")
    return [told.to_series()]


def with_numbers(pairs: pl.DataFrame, table: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Columns of a table of one row per pair, joined by the ids that both have. A pair that it does not hold has null.

    A cross-fitted table (with `scored_by`) gives its `loss` the name loss_cross. Token counts that are there stay, and
    `truncated` is true where one of two tables says so. DataError where ids repeat, and where another column would stand
    twice.
    """
    return _joined(pairs, table, where)[0]


def _joined(pairs: pl.DataFrame, table: pl.DataFrame, where: str) -> tuple[pl.DataFrame, int]:
    """`with_numbers`, and how many ids of the table are no pair here."""
    table = _crossed(table)
    pairs = _crossed(pairs) if "loss" in table.columns else pairs
    key = _key(pairs, table, where)
    rows, table = table.height, _of_kind(table, key, pairs.schema, where)
    if (twice := table.filter(pl.struct(key).is_duplicated())).height:
        told = ", ".join(str(each) for each in twice.select(key).row(0))
        raise DataError(
            f"{where}: {told} stands twice; one row per pair is needed, or ids of both responses (chosen_id, ...)"
        )
    wanted = [
        name
        for name, kind in table.schema.items()
        if name not in key and (kind.is_numeric() or kind == pl.Boolean or name == "scored_by")
    ]
    wanted = [name for name in wanted if name not in SIDES and name != "prompt_id"]
    both = [name for name in BOOKS if name in wanted and name in pairs.columns]
    if clash := [name for name in wanted if name in pairs.columns and name not in both]:
        raise DataError(f"{where}: the pairs have {', '.join(clash)} already; rename or leave out one of the two")
    known = table.join(pairs, on=key, how="semi").height
    if not known:
        raise DataError(
            f"{where}: none of its {rows} ids ({', '.join(key)}) is a pair here; is it of another data set?"
        )
    made = pairs.join(table.select(*key, *wanted), on=key, how="left", maintain_order="left", suffix=AGAIN)
    for name in both:
        forms = [pl.col(name), pl.col(name + AGAIN)]
        if name == "truncated":
            forms = [forms[0].cast(pl.Boolean) | forms[1].cast(pl.Boolean), *forms]
        made = made.with_columns(pl.coalesce(forms).alias(name)).drop(name + AGAIN)
    return made, rows - known


def _crossed(table: pl.DataFrame) -> pl.DataFrame:
    """The loss beside `scored_by` is the cross-fitted one."""
    crossed = {"scored_by", "loss"} <= set(table.columns) and "loss_cross" not in table.columns
    return table.rename({"loss": "loss_cross"}) if crossed else table


def _of_kind(table: pl.DataFrame, key: Sequence[str], schema: Mapping[str, Any], where: str) -> pl.DataFrame:
    """The table with its ids in the form of the pairs', without the rows whose id has no such form."""
    for name in key:
        kind = table.schema[name]
        if not (kind in (pl.String, pl.Null, pl.Categorical) or isinstance(kind, pl.Enum) or kind.is_integer()):
            raise DataError(f"{where}: {name} is {kind}; an id is text or a whole number")
    return table.with_columns(pl.col(name).cast(schema[name], strict=False) for name in key).drop_nulls(list(key))


def _key(pairs: pl.DataFrame, table: pl.DataFrame, where: str) -> list[str]:
    for key in (["pair_id"], ["prompt_id", *SIDES], ["prompt_id"]):
        if set(key) <= set(pairs.columns) & set(table.columns):
            break
    else:
        raise DataError(
            f"{where} has no ids of these pairs (pair_id; prompt_id, chosen_id and rejected_id; or prompt_id): rows are "
            "never joined by their place"
        )
    if key == ["prompt_id"] and (twice := pairs.filter(pl.col("prompt_id").is_duplicated())).height:
        raise DataError(
            f"{where} names prompts alone, and prompt {twice['prompt_id'][0]} has several pairs; it needs chosen_id and "
            "rejected_id"
        )
    return key


def with_scores(pairs: pl.DataFrame, scores: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """margin_RATER of every rater: score of chosen - score of rejected; null where one is missing."""
    need = {"prompt_id", "response_id", "rater", "score"}
    if lacks := sorted(need - set(scores.columns)):
        raise DataError(
            f"{where} lacks {', '.join(lacks)}; a table of scores has prompt_id, response_id, rater and score"
        )
    if not {"prompt_id", *SIDES} <= set(pairs.columns):
        raise DataError(
            f"{where}: scores are joined by prompt_id, chosen_id and rejected_id, and the pairs have no such ids"
        )
    for rater in voices(scores["rater"].unique(maintain_order=True)):
        name = f"margin_{rater}"
        mine = scores.filter(pl.col("rater") == rater)
        if (twice := mine.filter(pl.struct("prompt_id", "response_id").is_duplicated())).height:
            raise DataError(
                f"{where}: {rater} scores response {twice['response_id'][0]} of {twice['prompt_id'][0]} twice"
            )
        if name in pairs.columns:
            raise DataError(f"{where}: the pairs have {name} already; rename the rater")
        for side in SIDES:
            held = mine.select(
                pl.col("prompt_id").cast(pairs.schema["prompt_id"], strict=False),
                pl.col("response_id").cast(pairs.schema[side], strict=False).alias(side),
                pl.col("score").alias(f"_{side}"),
            )
            pairs = pairs.join(held, on=["prompt_id", side], how="left", maintain_order="left")
        pairs = pairs.with_columns((pl.col("_chosen_id") - pl.col("_rejected_id")).alias(name)).drop(
            "_chosen_id", "_rejected_id"
        )
    return pairs


def with_implicit(
    pairs: pl.DataFrame, policy: pl.DataFrame, reference: pl.DataFrame, *, per_token: bool = False, where: str = "logps"
) -> pl.DataFrame:
    """margin_implicit: log pi/ref of chosen - log pi/ref of rejected, nats; summed over tokens, or per token of each side."""
    if "margin_implicit" in pairs.columns:
        raise DataError("the pairs have margin_implicit already; leave out the log-probabilities, or that column")
    return with_scores(pairs, implicit(policy, reference, per_token=per_token), where=where)


def of_run(folder: Path) -> pl.DataFrame | None:
    """Scores of all raters of a run, where there are any."""
    parts = [pl.read_parquet(path) for path in _score_files(folder)]
    return pl.concat(parts) if parts else None


def _score_files(folder: Path) -> list[Path]:
    return sorted((folder / "stages").glob("score-*/scores-*.parquet"))


def gather(source: Path, settings: Selection, beside: Beside, *, layout: str | None = None) -> Read:
    """Pairs with every number that is there."""
    limits = settings.limited
    keep = [limits.source] if limits.per_source is not None else []
    read = read_pairs(source, layout=layout, keep=keep)
    pairs = read.pairs
    if source.is_dir() and set(SIDES) <= set(pairs.columns) and (scores := of_run(source)) is not None:
        pairs = _of_others(with_scores(pairs, scores, where=f"the scores of {source}"), pairs.columns)
    for path in beside.scores:
        pairs = with_scores(pairs, _table(path), where=str(path))
    if beside.policy is not None and beside.reference is not None:
        both = (_table(beside.policy), _table(beside.reference))
        pairs = with_implicit(pairs, *both, per_token=beside.per_token, where=f"{beside.policy} and {beside.reference}")
    for path in beside.numbers:
        pairs, strangers = _joined(pairs, _table(path), str(path))
        if strangers:
            read.told.append(f"{strangers} ids of {path} are no pair here: left out")
    if limits.per_group is not None and "near_group" not in pairs.columns:
        pairs = pairs.with_columns(near_group=pl.Series(_groups(read.rows, settings), dtype=pl.Int64))
    return read._replace(pairs=pairs)


def _of_others(pairs: pl.DataFrame, before: Sequence[str]) -> pl.DataFrame:
    """Without the margin of the rater that decided the pairs: it stands there as `margin` and would count twice."""
    if "margin" not in before:
        return pairs
    new = [name for name in pairs.columns if name not in before]
    same = [name for name in new if (pairs[name] - pairs["margin"]).abs().max() in (0, None)]
    return pairs.drop(same)


def _groups(rows: pl.DataFrame, settings: Selection) -> "np.ndarray[Any, Any]":
    near = settings.limited.alike
    if near.by == "embedding":
        if near.column not in rows.columns:
            raise DataError(
                f"near.by = embedding needs a column {near.column} of vectors; the pairs have {', '.join(rows.columns)}"
            )
        try:
            return embedding_groups(np.array(rows[near.column].to_list(), np.float64), near)
        except (TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"column {near.column} does not hold one vector of one length in every row") from error
    columns = {"prompt": ["prompt"], "chosen": ["chosen"], "pair": list(TEXTS)}[near.text]
    if lacks := [name for name in columns if name not in rows.columns]:
        raise DataError(f"near-duplicates by MinHash are of texts, and the pairs have no {', '.join(lacks)}")
    said = rows.select(pl.concat_str([_said(rows, name).fill_null("") for name in columns], separator="\n"))
    return minhash_groups(said.to_series().to_list(), near)


def select_source(
    source: Path,
    out: Path,
    settings: Selection,
    beside: Beside | None = None,
    *,
    layout: str | None = None,
    all_rules: bool = False,
) -> dict[str, Any]:
    """A run folder or a file of pairs into a folder of results with a page; what is read is not touched.

    selection.parquet (every pair with its numbers, rank, reason), pairs.parquet (the kept rows with all their columns,
    fused_score and rank), controls/random-SEED.parquet, dropped.parquet, select.json, report.html. Returns the facts.
    """
    beside = beside or Beside()
    _keep_apart(source, out, beside.files)
    read = gather(source, settings, beside, layout=layout)
    done = select(read.pairs, settings, all_rules=all_rules)
    own = [source] if source.is_file() else [source / "pairs.parquet", *_score_files(source)]
    inputs = {str(path): file_hash(path) for path in own + beside.files}
    facts: dict[str, Any] = {"read": read.told, "inputs": inputs, "version": __version__, **done.facts}
    if read.dropped.height:
        facts["not_read"] = dict(read.dropped["reason"].value_counts(sort=True).iter_rows())
    if all_rules:
        facts["compare"] = compare(read.pairs, settings)
    _write(out, read, done)
    write_json(out / "select.json", facts)
    origin = [("read", line) for line in read.told] + [*inputs.items(), ("version", __version__)]
    origin.append(("settings", json.dumps(facts["settings"])))
    page = page_of(facts, ends(read, done), title=f"Select: {source.name}", origin=origin)
    write_text(out / "report.html", page)
    return facts


def _write(out: Path, read: Read, done: Selected) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(out / "selection.parquet", done.table)
    write_parquet(out / "pairs.parquet", kept_rows(read, done))
    write_parquet(out / "dropped.parquet", pl.concat([read.dropped, done.dropped]))
    folder = out / "controls"
    for old in folder.glob("random-*.parquet"):  # of an earlier call
        old.unlink()
    ids = [name for name in done.controls.columns if name != "seed"]
    whole = read.rows.drop("fused_score", "rank", strict=False).with_columns(pl.int_range(pl.len()).alias("_row"))
    at = read.pairs.select(*ids, _row=pl.int_range(pl.len()))
    for (seed,), part in done.controls.group_by("seed", maintain_order=True):
        rows = at.join(part, on=ids, how="semi", maintain_order="left").select("_row")
        write_parquet(
            folder / f"random-{seed}.parquet",
            whole.join(rows, on="_row", how="semi", maintain_order="left").drop("_row"),
        )


def kept_rows(read: Read, done: Selected) -> pl.DataFrame:
    """The kept rows in the order of the file, with all their columns, fused_score and rank, and ids where they had none.

    A fused_score, rank or weight that stood in the file gives way to the one of this selection.
    """
    named = [
        name
        for name in done.table.columns
        if name in ("pair_id", "prompt_id", *SIDES) and name not in read.rows.columns
    ]
    weights = ["weight"] if "weight" in done.table.columns and "weight" not in read.pairs.columns else []  # of WPO
    more = ["fused_score", "rank", *named, *weights]
    rows = read.rows.drop(more, strict=False)
    return pl.concat([rows, done.table.select(more)], how="horizontal").filter(done.table["kept"])


def ends(read: Read, done: Selected) -> list[dict[str, Any]]:
    """The first and the last pairs of the ranking, and of the influence where there is one, with their texts."""
    table = done.table.with_columns(_row=pl.int_range(pl.len()))
    lists = [("Ranked first", table.filter(pl.col("rank") <= SHOWN).sort("rank"))]
    ranked = table.filter(pl.col("rank").is_not_null())
    if ranked.height > SHOWN:
        lists.append(
            ("Ranked last", ranked.filter(pl.col("rank") > ranked.height - SHOWN).sort("rank", descending=True))
        )
    if "influence" in table.columns:
        known = table.filter(pl.col("influence").is_finite())
        lists.append(("Most influential", known.top_k(SHOWN, by="influence").sort("influence", descending=True)))
        lists.append(("Least influential", known.bottom_k(SHOWN, by="influence").sort("influence")))
    return [
        {"name": name, "pairs": [_shown(row, read.rows) for row in part.iter_rows(named=True)]} for name, part in lists
    ]


def _shown(row: Mapping[str, Any], rows: pl.DataFrame) -> dict[str, Any]:
    told = {name: row[name] for name in ("fused_score", "rank", "reason", "influence") if row.get(name) is not None}
    numbers = {name: value for name, value in row.items() if name.startswith("margin") and value is not None}
    ids = [str(row[name]) for name in ("pair_id", "prompt_id", *SIDES) if name in row]
    texts: dict[str, str | None] = dict.fromkeys(TEXTS)
    if set(TEXTS) <= set(rows.columns):
        held = rows[row["_row"]]
        texts = {name: held.select(_said(held, name)).item() for name in TEXTS}
    return {"id": " / ".join(ids), **told, "margins": numbers, **texts}


def _keep_apart(source: Path, out: Path, others: Iterable[Path]) -> None:
    """Results never fall on what they are about, nor on what another command made."""
    if (out / "stages").exists() or (source.is_dir() and source.resolve() == out.resolve()):
        raise ConfigError(f"--out {out} holds a run; give the selection a folder of its own")
    check_folder(out)
    for path in (source, *others):
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"--out {out} holds {path.name}, which is read; give the selection a folder of its own")
    if not (out / TAGS[0]).exists() and (out / TAGS[1]).exists():
        raise ConfigError(f"{out / TAGS[1]} is there already and no selection made it; choose another --out")


def check_folder(out: Path) -> None:
    """ConfigError where the path of a folder to write into leads over a file."""
    if file := next((each for each in (out, *out.parents) if each.exists() and not each.is_dir()), None):
        raise ConfigError(f"--out {out}: {file} is a file; name a folder")


class RunSelected(NamedTuple):
    """What a selection over the pairs of a run gives: kept pairs, dropped rows, and facts for the run's page."""

    kept: pl.DataFrame
    dropped: pl.DataFrame
    facts: dict[str, Any]


def forget_seeds(folder: Path) -> None:
    """Numbers of seed models that an earlier recipe asked for no longer stand beside a run that has none."""
    for name in SEEDED:
        (folder / name).unlink(missing_ok=True)


def select_run(
    folder: Path,
    pairs: pl.DataFrame,
    rows: pl.DataFrame,
    scores: pl.DataFrame,
    numbers: Sequence[Path],
    settings: Selection,
) -> RunSelected:
    """The select step of a run: `pairs` of its table, `rows` with their texts in the same order, scores of all raters.

    Writes selection.parquet (all pairs with numbers, rank and reason) and selected_controls.parquet (seed and ids) beside
    the run, and gives the kept pairs in their order.
    """
    gathered = _of_others(with_scores(pairs, scores, where="the scores of the run"), pairs.columns)
    for path in numbers:
        gathered = with_numbers(gathered, _table(path), where=path.name)
    if not numbers:
        forget_seeds(folder)
    if settings.limited.per_group is not None:
        gathered = gathered.with_columns(near_group=pl.Series(_groups(rows, settings), dtype=pl.Int64))
    done = select(gathered, settings)
    write_parquet(folder / "selection.parquet", done.table)
    write_parquet(folder / "selected_controls.parquet", done.controls)
    facts = {**done.facts, "ends": ends(Read(rows, gathered, pl.DataFrame(schema=DROPPED.schema), []), done)}
    return RunSelected(pairs.filter(done.table["kept"]), done.dropped, facts)
