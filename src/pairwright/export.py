"""What a person takes away: pairs, candidates, drops, ledger, card and page, in one folder.

Both ways to pair end here: a run, shard by shard, and a file of scored candidates, batch by batch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from pairwright import __version__
from pairwright.audit.run import Tally, pairing_facts, prompt_facts, rater_facts
from pairwright.core.stats import Spread
from pairwright.engine import ahead
from pairwright.errors import ConfigError, DataError
from pairwright.io.trl import ROWS, Parts, card, trl_rows, write_jsonl
from pairwright.pair.build import Built, Cell, Pairing, build_pairs, grid, takes_part
from pairwright.pair.rules import parse_rule
from pairwright.report.page import page
from pairwright.score.combine import Reward, column, joined, with_reward
from pairwright.score.compare import SideBySide
from pairwright.store import Stage, write_json, write_text
from pairwright.tables import DROPPED, MESSAGES, frame

Frames = Mapping[str, pl.DataFrame]
UNFINISHED = ".unfinished"  # stands in a folder while its files are written, and after a failed try
CANDIDATES = {
    "prompt_id": pl.String(),
    "response_id": pl.String(),
    "prompt": MESSAGES,
    "response": pl.String(),
    "source": pl.String(),
    "finish_reason": pl.String(),
    "n_tokens": pl.Int32(),
    "scores": pl.String(),  # JSON: rater -> score, null for missing
}


@dataclass(frozen=True, slots=True)
class Export:
    """What to write beside pairs.parquet, and the title of card and page."""

    jsonl: bool = False
    title: str = "Preference pairs"


@dataclass
class Entry:
    """One line of the ledger: rows_in = kept + the sum of dropped. What is set aside stays in its own table."""

    stage: str
    unit: str
    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    seconds: float | None = None
    note: str = ""

    def told(self) -> dict[str, Any]:
        lost = dict(sorted(self.dropped.items()))
        if self.rows_in != self.kept + sum(lost.values()):
            raise AssertionError(f"ledger of {self.stage}: {self.rows_in} in, {self.kept} kept, dropped {lost}")
        head = {"stage": self.stage, "unit": self.unit, "rows_in": self.rows_in, "kept": self.kept, "dropped": lost}
        return head | {"set_aside": dict(sorted(self.set_aside.items())), "seconds": self.seconds, "note": self.note}


def new_tally(pairing: Pairing) -> Tally:
    rejected = parse_rule(pairing.rejected)
    k = rejected.args[0] if rejected.kind == "sigma" else None
    return Tally(parse_rule(pairing.chosen).name, rejected.name, pairing.ddof, k)


class Folder:
    """The outputs of one pairing; nothing stands under its final name before `close`."""

    def __init__(self, folder: Path, pairing: Pairing, settings: Export, *, candidates: bool) -> None:
        self.folder, self.pairing, self.settings = folder, pairing, settings
        self.pairs = Parts(folder / "pairs.parquet")
        self.dropped = Parts(folder / "dropped.parquet")
        self.candidates = Parts(folder / "candidates.parquet") if candidates else None
        self.tally = new_tally(pairing)
        self.written = 0
        self.scored: Mapping[str, Any] = {}  # what the raters say side by side

    def add(
        self, candidates: pl.DataFrame, built: Built, *, texts: bool = True, kept: pl.DataFrame | None = None
    ) -> None:
        """One batch of whole prompts with what the pair stage made of it; `kept` are the pairs that a selection left."""
        self.tally.add(candidates, built.pairs, built.stats, built.dropped)
        self.dropped.add(built.dropped)
        pairs = built.pairs if kept is None else kept
        self.written += pairs.height
        self.pairs.add(trl_rows(pairs, candidates) if texts else pairs.cast({"prompt_id": pl.String}))

    def close(
        self, entries: Iterable[Entry], told: Mapping[str, Any], parts: pl.DataFrame | None = None
    ) -> dict[str, Any]:
        """Writes every file; returns the ledger."""
        stages = [entry.told() for entry in entries]
        ledger = {"stages": stages, "pairs": self.written, "advice": self.tally.advice()}
        facts = self._facts(stages, told, parts)
        report = page(facts)  # type: ignore[arg-type]
        self.dropped.close(DROPPED.schema)
        configs = ["pairs"]
        if self.candidates is not None:
            self.candidates.close(CANDIDATES)
            configs.append("candidates")
        self.pairs.close(ROWS)
        if self.settings.jsonl:
            write_jsonl(self.folder / "pairs.parquet", self.folder / "pairs.jsonl")
        text = card(
            name=self.settings.title,
            rows=self.written,
            configs=configs,
            summary=str(facts["summary"]),
            ledger=ledger_text(stages),
            settings=json.dumps(told["settings"], indent=2, ensure_ascii=False),
        )
        write_text(self.folder / "README.md", text)
        write_text(self.folder / "report.html", report)
        write_json(self.folder / "manifest.json", dict(told))
        write_json(self.folder / "ledger.json", ledger)
        return ledger

    def _facts(
        self, stages: list[dict[str, Any]], told: Mapping[str, Any], parts: pl.DataFrame | None
    ) -> dict[str, Any]:
        tally = self.tally
        rules = (tally.chosen, tally.rejected)
        prompts = [prompt_facts(shown, tally.compared_with, rules, _of(parts, shown)) for _, shown in tally.shown]
        everyone = len(prompts) == tally.prompts
        return {
            "title": self.settings.title,
            "summary": f"{tally.pairs} pairs from {tally.prompts} prompts with {tally.rows_in} responses: "
            f"chosen {tally.chosen}, rejected {tally.rejected}."
            + (f" {self.written} of them were selected." if self.scored.get("select") else ""),
            "created": told["written"],
            "version": __version__,
            "run": str(self.folder),
            "settings": told["settings"],
            "versions": {"python": told["python"], **told["packages"]},
            "inputs": told["inputs"],
            "stages": stages,
            "raters": rater_facts(tally),
            "clean": self.scored.get("clean"),
            "select": self.scored.get("select"),
            "agreement": {key: self.scored.get(key) for key in ("agreement", "alpha", "raters")}
            if self.scored
            else None,
            **pairing_facts(tally),
            "prompts_total": tally.prompts,
            "prompts_shown": len(prompts),
            "prompts_chosen_by": "all of them" if everyone else "those with the lowest hash of their id",
            "prompts": prompts,
        }


def _of(parts: pl.DataFrame | None, shown: Mapping[str, Any]) -> pl.DataFrame | None:
    return None if parts is None else parts.filter(pl.col("prompt_id") == shown["stats"]["prompt_id"])


def ledger_text(stages: Iterable[Mapping[str, Any]]) -> str:
    """The ledger as a Markdown table."""
    lines = ["| stage | unit | in | kept | dropped | set aside |", "| --- | --- | --- | --- | --- | --- |"]
    for stage in stages:
        lost = ", ".join(f"{reason} {n}" for reason, n in stage["dropped"].items()) or "-"
        aside = ", ".join(f"{reason} {n}" for reason, n in stage["set_aside"].items()) or "-"
        lines.append(
            f"| {stage['stage']} | {stage['unit']} | {stage['rows_in']} | {stage['kept']} | {lost} | {aside} |"
        )
    return "\n".join(lines)


def refuse_one_scale(reward: Reward, pairing: Pairing) -> None:
    """scale_min and scale_max are about one rater's numbers."""
    if len(reward.raters) > 1 and (pairing.scale_min, pairing.scale_max) != (None, None):
        raise ConfigError("scale_min and scale_max cannot hold for several raters; make their sentinels null instead")


def rewarded(rows: pl.DataFrame, reward: Reward, pairing: Pairing) -> pl.DataFrame:
    """Rows with the raters' columns, and the score that decides their pairs."""
    refuse_one_scale(reward, pairing)
    return with_reward(rows, reward, takes_part=takes_part(rows, pairing))


def export_grid(
    batches: Iterable[pl.DataFrame], folder: Path, pairing: Pairing, *, reward: Reward | None = None
) -> list[dict[str, Any]]:
    """All 21 pairs of positions, each a Parquet file of TRL rows, and one line of facts for each."""
    parts: dict[tuple[str, str], Parts] = {}
    tallies: dict[tuple[str, str], GridLine] = {}
    for batch in batches:
        rows = rewarded(batch, reward, pairing) if reward else batch
        for cell in grid(rows, pairing):
            key = (cell.chosen, cell.rejected)
            file = folder / "grid" / f"{cell.chosen}--{cell.rejected}.parquet"
            parts.setdefault(key, Parts(file)).add(trl_rows(cell.pairs, rows))
            tallies.setdefault(key, GridLine(*key)).add(cell)
    for part in parts.values():
        part.close(ROWS)
    lines = [tally.told() for tally in tallies.values()]
    write_json(folder / "grid.json", lines)
    return lines


@dataclass
class GridLine:
    """One cell of the grid: prompts = pairs + skipped."""

    chosen: str
    rejected: str
    skipped: Counter[str] = field(default_factory=Counter)
    margin: Spread = field(default_factory=Spread)
    z_chosen: Spread = field(default_factory=Spread)
    z_rejected: Spread = field(default_factory=Spread)
    extreme: int = 0

    def add(self, cell: Cell) -> None:
        self.skipped.update(cell.skipped)
        self.extreme += int(cell.pairs["hit_extreme"].sum())
        for spread, name in ((self.margin, "margin"), (self.z_chosen, "z_chosen"), (self.z_rejected, "z_rejected")):
            spread.add(cell.pairs[name].to_numpy())

    def told(self) -> dict[str, Any]:
        pairs = self.margin.n
        head = {"chosen": self.chosen, "rejected": self.rejected, "pairs": pairs, "skipped": dict(self.skipped)}
        means = {"margin": self.margin.mean, "z_chosen": self.z_chosen.mean, "z_rejected": self.z_rejected.mean}
        return head | means | {"rejected_is_lowest": self.extreme / pairs if pairs else None}


def pair_entry(tally: Tally) -> Entry:
    """The ledger line of the pair stage: the unit is the prompt; responses that took no part are set aside."""
    return Entry("pair", "prompts", tally.prompts, tally.paired, tally.skipped, tally.aside)


def export_run(
    folder: Path,
    settings: Export,
    pairing: Pairing,
    reward: Reward,
    stages: "Stages",
    told: Mapping[str, Any],
    scored: Mapping[str, Any],
) -> None:
    """The outputs of a run, shard by shard; `scored` is what the raters say side by side."""
    prompts, sampled, paired = stages.prompts, stages.sample, stages.pair
    out = Folder(folder, pairing, settings, candidates=True)
    out.scored, raters = scored, stages.raters
    out.tally.notes += scored["advice"]
    entries = {name: Entry(name, unit) for name, unit in _UNITS.items()}
    selection = scored.get("select")
    controls = Controls(folder) if selection else None
    kept_parts = []
    assert out.candidates is not None
    for shard in range(prompts.shards):
        asked, said = prompts.read("prompts", shard), sampled.read("responses", shard)
        scores = stages.scores(shard)
        rows = said.join(asked.select("prompt_id", "prompt"), on="prompt_id", how="left", maintain_order="left")
        rows = rewarded(joined(rows, scores, reward), reward, pairing)
        built = Built(paired.read("pairs", shard), paired.read("prompt_stats", shard), paired.read("dropped", shard))
        out.add(rows, built, kept=stages.select.read("pairs", shard) if selection else None)
        if controls:
            controls.add(built.pairs, rows)
            out.dropped.add(stages.select.read("dropped", shard))
        out.candidates.add(_candidates(rows, scores))
        for rater in raters:
            each = scores.filter(pl.col("rater") == rater)
            out.tally.add_scores(rater, each["score"], each["reason"])
        lost, unsaid = prompts.read("dropped", shard), sampled.read("dropped", shard)
        n = told["settings"].get("sample", {}).get("n")
        _count(out, entries["prompts"], asked.height + lost.height, asked.height, lost)
        _count(out, entries["sample"], asked.height * n if n else said.height + unsaid.height, said.height, unsaid)
        unscored = pl.concat([stage.read("dropped", shard) for stage in stages.score.values()])
        _count(out, entries["score"], scores.height, scores["score"].count(), unscored)
        kept_parts.append(scores.filter(pl.col("rater") != reward.name))
    entries["pair"] = pair_entry(out.tally)
    if controls:
        controls.close()
    parts = pl.concat(kept_parts).with_columns(pl.col("rater").str.strip_prefix(f"{reward.name}."))
    out.close(_timed(_completed(entries, out, scored), stages), told, parts)


def _completed(entries: dict[str, Entry], out: Folder, scored: Mapping[str, Any]) -> dict[str, Entry]:
    """The lines of the ledger in the order of the stages, with those of cleaning and selection where they ran."""
    if cleaned := scored.get("clean"):
        note = f"{cleaned['proposals']} proposals, {cleaned['safe']} safe, applied: {cleaned['applied']}"
        n = entries["score"].kept
        pair = entries.pop("pair")
        entries |= {"clean": Entry("clean", "scores", n, n, note=note), "pair": pair}
    if selection := scored.get("select"):
        lost = Counter({reason: n for reason, n in selection["reasons"].items() if reason != "kept"})
        entries["select"] = Entry("select", "pairs", out.tally.pairs, out.written, lost)
    return entries


def _timed(entries: dict[str, Entry], stages: "Stages") -> list[Entry]:
    """The same with the seconds that each stage took."""
    of = {"prompts": [stages.prompts], "sample": [stages.sample], "score": list(stages.score.values())}
    of |= {"pair": [stages.pair], "select": [stages.select]}
    for name in entries.keys() & of.keys():
        took = [seconds for stage in of[name] if isinstance(seconds := stage.record.get("seconds"), float)]
        entries[name].seconds = round(sum(took), 3) if took else None
    return list(entries.values())


class Controls:
    """The random subsets of a selection as rows to train on: controls/random-SEED.parquet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "controls"
        self.ids = pl.read_parquet(folder / "selected_controls.parquet")
        for old in self.folder.glob("random-*.parquet"):  # of an earlier selection
            old.unlink()
        seeds = self.ids["seed"].unique().sort().to_list()
        self.parts = {seed: Parts(self.folder / f"random-{seed}.parquet") for seed in seeds}

    def add(self, pairs: pl.DataFrame, candidates: pl.DataFrame) -> None:
        """Of one shard: its pairs before the selection, and its responses."""
        for seed, part in self.parts.items():
            drawn = self.ids.filter(pl.col("seed") == seed)
            part.add(trl_rows(pairs.join(drawn, on=["prompt_id", "chosen_id", "rejected_id"], how="semi"), candidates))

    def close(self) -> None:
        for part in self.parts.values():
            part.close(ROWS)


class Stages(Protocol):
    """The stage folders of a run."""

    @property
    def prompts(self) -> Stage: ...
    @property
    def sample(self) -> Stage: ...
    @property
    def score(self) -> Mapping[str, Stage]: ...
    @property
    def pair(self) -> Stage: ...
    @property
    def select(self) -> Stage: ...
    @property
    def raters(self) -> Sequence[str]:
        """The raters that stand for themselves."""
        ...

    def scores(self, shard: int, /) -> pl.DataFrame: ...


_UNITS = {"prompts": "prompts", "sample": "responses", "score": "scores", "pair": "prompts"}


def _count(out: Folder, entry: Entry, rows_in: int, kept: int, dropped: pl.DataFrame) -> None:
    out.dropped.add(dropped)
    entry.rows_in += rows_in
    entry.kept += kept
    entry.dropped.update(dropped["reason"].to_list())


def _candidates(rows: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """All responses of a shard with all their scores."""
    wide = scores.select("prompt_id", "response_id", pair=pl.struct("rater", "score"))
    wide = wide.group_by("prompt_id", "response_id", maintain_order=True).agg("pair")
    texts = [json.dumps({each["rater"]: each["score"] for each in pairs}) for pairs in wide["pair"].to_list()]
    wide = wide.select("prompt_id", "response_id", scores=pl.Series(texts, dtype=pl.String))
    joined = rows.join(wide, on=["prompt_id", "response_id"], how="left", maintain_order="left")
    return joined.select(CANDIDATES.keys())


def _raw_scores(rows: pl.DataFrame, raters: Mapping[str, str]) -> pl.DataFrame:
    """All responses of a batch with what each rater said."""
    lacks = {name: kind for name, kind in CANDIDATES.items() if name not in rows.columns}
    said = pl.struct(pl.col(name).alias(rater) for rater, name in raters.items())
    filled = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in lacks.items())
    filled = filled.with_columns(scores=said.struct.json_encode())
    return filled.select(pl.col(name).cast(kind) for name, kind in CANDIDATES.items())


def export_file(
    batches: Iterable[pl.DataFrame],
    folder: Path,
    pairing: Pairing,
    settings: Export,
    told: Mapping[str, Any],
    *,
    reward: Reward | None = None,
    lost: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The outputs of a file of scored candidates, batch by batch. Returns the ledger.

    `lost` names rows that the reader of a layout could not use; it is read after the last batch.
    """
    out = Folder(folder, pairing, settings, candidates=reward is not None)
    raters = {rater: column(rater) for rater in reward.raters} if reward else {"score": "score"}

    def build(batch: pl.DataFrame) -> tuple[pl.DataFrame, Built]:
        rows = rewarded(batch, reward, pairing) if reward else batch
        return rows, build_pairs(rows, pairing)

    side = SideBySide(list(raters)) if len(raters) > 1 else None
    write_text(folder / UNFINISHED, "the files beside this one are not whole yet\n")
    for rows, built in ahead(build, batches):
        texts = {"prompt", "response"} <= set(rows.columns)
        if not texts and not out.tally.notes:
            out.tally.notes.append("The file has no texts: pairs.parquet holds ids and scores, not rows to train on.")
        out.add(rows, built, texts=texts)
        if out.candidates is not None:
            out.candidates.add(_raw_scores(rows, raters))
        if side is not None:
            side.add_columns(rows, list(raters.values()))
        for rater, name in raters.items():
            out.tally.add_scores(rater, rows[name], rows["reason"] if "reason" in rows.columns else None)
    entries = [pair_entry(out.tally)]
    if lost:
        reasons = Counter(str(each["reason"]) for each in lost)
        entries.insert(0, Entry("read", "prompts", out.tally.prompts + len(lost), out.tally.prompts, reasons))
        told_of = [(each.get("id"), each["reason"], f"row {each['row']}: {each['detail']}") for each in lost]
        named = [{"stage": "read", "prompt_id": i, "reason": reason, "detail": why} for i, reason, why in told_of]
        out.dropped.add(frame(DROPPED, named))
    if lost and not out.tally.prompts:
        raise DataError(
            f"no row could be read: {', '.join(f'{why} {n}' for why, n in reasons.items())}; is the layout right?"
        )
    if side is not None:
        out.scored = side.facts()
        out.tally.notes += out.scored["advice"]
    ledger = out.close(entries, told)
    (folder / UNFINISHED).unlink()
    return ledger
