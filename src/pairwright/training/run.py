"""A training run from the command line or a recipe: pairs in, a model with its card, metrics and a page out.

OUT/model/           what was trained: an adapter, or the whole model, with its tokenizer and card
OUT/rows.parquet     the rows that were trained on, in their order; held_out.parquet those kept for evaluation
OUT/metrics.jsonl    what the trainer logged, under TRL's names, and ours under pairwright/
OUT/train.json       what came of every row, the steps, the alarms; dropped.parquet: ids and reasons
OUT/manifest.json    versions, settings, hashes; report.html: the curves
OUT/checkpoints/     of the trainer; a run that was stopped goes on from the newest with resume
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pairwright.backends.hf import load_tokenizer, model_hash
from pairwright.backends.plain import trainable
from pairwright.errors import ConfigError, DataError, StoreError
from pairwright.io.pair_files import pairs_file, read_pairs
from pairwright.pipeline import SILENT, Watch
from pairwright.report.train import page_of
from pairwright.select.run import select
from pairwright.selecting import numbers_of
from pairwright.store import digest, file_hash, read_json, write_json, write_parquet, write_text
from pairwright.tables import DROPPED, canonical_json, drops, frame
from pairwright.train.guard import Alarm
from pairwright.train.runner import Trained, finite, run_trainer
from pairwright.training.card import card
from pairwright.training.plan import TrainPlan
from pairwright.training.rows import Rows, add_reference, drop_counts, prepare, with_soft_labels

WRITTEN = ["model", "train.json", "report.html"]  # of a run that ended


@dataclass(frozen=True)
class Job:
    """Where pairs come from and where the run goes. `versions` is the head of the manifest."""

    source: Path
    out: Path
    layout: str | None = None
    resume: bool = False
    versions: Mapping[str, object] | None = None


def train(job: Job, plan: TrainPlan, watch: Watch = SILENT) -> dict[str, Any] | None:
    """Trains, writes everything, and returns what stands in train.json. Of several processes rank 0 does; the others None."""
    begun = time.monotonic()
    told = digest_of(job, plan)
    _begin(job, told)
    model = trainable(plan.training.model)
    tokenizer = load_tokenizer(model)
    pairs, unread = read_pairs(job.source, scratch=job.out, layout=job.layout)
    folder = job.source if job.source.is_dir() else job.source.parent
    if unread.height and plan.training.options.get("bad_rows", "error") == "error":
        first = unread.row(0, named=True)
        raise DataError(
            f"{job.source}: {unread.height} rows could not be read ({', '.join(drop_counts(unread))}), first {first['detail']}; "
            "repair them, or let bad_rows=drop take them out"
        )
    whole = pairs.height + unread.height
    ledger: list[dict[str, Any]] = [
        {"stage": "read", "rows_in": whole, "kept": pairs.height, "dropped": drop_counts(unread)}
    ]
    chosen, chosen_dropped = selected(pairs, plan)
    if plan.select is not None:
        lost = drop_counts(chosen_dropped)
        ledger.append({"stage": "select", "rows_in": pairs.height, "kept": chosen.height, "dropped": lost})
    rows = prepare(with_soft_labels(chosen, folder), plan, tokenizer)
    _count(ledger, rows, plan)
    rows, reference = _with_reference(rows, plan, folder, model, tokenizer)
    trained = run_trainer(rows.train, rows.held_out, plan.training, model, job.out, resume=job.resume, watch=watch)
    if not trained.imported:
        made = "computed in each step" if trained.live else "computed once before training"
        reference = f"{made} ({reference})" if reference else made
    facts = _facts(plan, rows, trained, ledger, reference)
    facts |= {"seconds": round(time.monotonic() - begun, 1), "plan": told}
    if not trained.main:
        return None
    _write(job, plan, facts, pl.concat([unread, chosen_dropped, rows.dropped, _unfit(trained, rows.train)]))
    return facts


def digest_of(job: Job, plan: TrainPlan) -> str:
    """Names all that a run depends on: settings, pairs and what stands beside them, weights of the model."""
    source = pairs_file(job.source)
    beside = [source.parent / name for name in ("logps.parquet", "pairs_soft.parquet")]
    files = {path.name: file_hash(path) for path in (source, *beside) if path.is_file()}
    return digest([plan.told(), files, job.layout, model_hash(plan.training.model)])


def _begin(job: Job, told: str) -> None:
    """A run goes on only as it began; a new one begins without what an earlier one left."""
    path = job.out / "checkpoints" / "plan.json"
    if job.resume:
        if not path.is_file():
            raise StoreError(f"{job.out} holds no run that could go on; leave out --resume")
        if read_json(path)["plan"] != told:
            raise ConfigError(f"{job.out} was begun with other settings or pairs; train into another folder")
        return
    for old in (job.out / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(job.out / "model", ignore_errors=True)
    for name in ("train.json", "report.html", "metrics.jsonl"):
        (job.out / name).unlink(missing_ok=True)
    write_json(path, {"plan": told})


def _with_reference(rows: Rows, plan: TrainPlan, folder: Path, model: str, tokenizer: Any) -> tuple[Rows, str]:
    """Reference log-probabilities for both parts, or for neither. With goals in the prompts no table of ours fits."""
    logps = pl.read_parquet(folder / "logps.parquet") if (folder / "logps.parquet").is_file() else None
    if plan.condition is not None and logps is not None:
        if plan.training.reference == "table":
            raise DataError("reference: table, but its numbers are of prompts without a goal; take live or precompute")
        logps = None
    both = pl.concat([rows.train, rows.held_out], how="diagonal")
    names = [plan.training.model, model]
    held, reference = add_reference(both, plan.training, logps, names, tokenizer)
    new = [name for name in held.columns if name not in both.columns]
    n = rows.train.height
    parts = (rows.train.with_columns(held[:n].select(new)), rows.held_out.with_columns(held[n:].select(new)))
    return rows._replace(train=parts[0], held_out=parts[1]), reference


def selected(pairs: pl.DataFrame, plan: TrainPlan) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pairs that the plan's selection keeps, in their order, and a `dropped` table of the others."""
    if plan.select is None:
        return pairs, frame(DROPPED, [])
    made = select(numbers_of(pairs), plan.select)
    kept = pairs.filter(made.table["kept"])
    if not kept.height:
        raise DataError(
            f"the selection keeps no pair: {', '.join(f'{k} {n}' for k, n in drop_counts(made.dropped).items())}"
        )
    return kept, made.dropped


def _count(ledger: list[dict[str, Any]], rows: Rows, plan: TrainPlan) -> None:
    at = ledger[-1]["kept"]
    if against := drop_counts(rows.dropped.filter(pl.col("reason") == "negative_gap")):
        ledger.append({"stage": "gaps", "rows_in": at, "kept": at - sum(against.values()), "dropped": against})
        at = ledger[-1]["kept"]
    if plan.training.hold_out:
        left = at - rows.held_out.height
        ledger.append({"stage": "hold out", "rows_in": at, "kept": left, "dropped": {"held_out": rows.held_out.height}})
        at = left
    for name in ("condition", "route"):
        if name in rows.facts:
            told = rows.facts[name]
            lost = sum(told["dropped"].values())
            line = {"stage": name, "rows_in": at, "kept": at - lost, "dropped": told["dropped"]}
            ledger.append(line | ({"rows": told["rows"]} if name == "condition" else {}))
            at = told["rows"] if name == "condition" else at - lost


def _unfit(trained: Trained, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that the trainer could not take, as drops."""
    at = [finding.row for finding in trained.findings]
    named = pl.DataFrame(
        {
            "prompt_id": rows["prompt_id"].gather(at) if at else [],
            "reason": [finding.code for finding in trained.findings],
            "detail": [str(finding) for finding in trained.findings],
        },
        schema={"prompt_id": pl.String, "reason": pl.String, "detail": pl.String},
    )
    return drops("train", named, pl.col("reason"), detail=pl.col("detail"))


def _facts(
    plan: TrainPlan, rows: Rows, trained: Trained, ledger: list[dict[str, Any]], reference: str
) -> dict[str, Any]:
    unfit: dict[str, int] = {}
    for finding in trained.findings:
        unfit[finding.code] = unfit.get(finding.code, 0) + 1
    lost = sum(unfit.values())
    ledger.append({"stage": "train", "rows_in": rows.train.height, "kept": rows.train.height - lost, "dropped": unfit})
    return {
        "ledger": ledger,
        "settings": plan.told(),
        "reference": reference,
        "parameters": trained.parameters,
        "steps": trained.steps,
        "pairs_per_step": trained.pairs_per_step,
        "processes": trained.processes,
        **{name: rows.facts[name] for name in ("condition", "route", "gaps") if name in rows.facts},
        "lr_spent": {name: each._asdict() for name, each in trained.lr_spent.items()},
        "final": trained.final,
        "alarms": [_alarm(each) for each in trained.alarms],
        "history": trained.history,
    }


def _alarm(each: Alarm) -> dict[str, Any]:
    """An alarm for JSON, which has no nan."""
    named = [(name, finite(value)) for name, value in each.pairs]
    return {"code": each.code, "step": each.step, "value": finite(each.value), "pairs": named, "told": str(each)}


def _write(job: Job, plan: TrainPlan, facts: dict[str, Any], dropped: pl.DataFrame) -> None:
    source = pairs_file(job.source)
    told = {
        **(job.versions or {}),
        "seeds": {"train": plan.training.seed},
        "inputs": {source.name: file_hash(source)},
        "settings": plan.told(),
    }
    write_parquet(job.out / "dropped.parquet", dropped)
    write_json(job.out / "train.json", facts)
    lines = "".join(json.dumps(line) + "\n" for line in facts["history"])
    write_text(job.out / "metrics.jsonl", lines)
    write_json(job.out / "manifest.json", told)
    write_text(job.out / "model" / "README.md", card(facts, base=plan.training.model, manifest=told))
    origin = [("pairs", str(job.source)), ("settings", canonical_json(plan.told()))]
    write_text(job.out / "report.html", page_of(facts, title=f"Training: {job.out.name}", origin=origin))
