"""Pairs into the rows that are trained on: held out, conditioned, routed, each step counted."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pairwright.backends.hf import DTYPES, encode_texts, model_hash, render, template_hash
from pairwright.core.losses import NEEDS
from pairwright.core.rating_losses import effective_beta
from pairwright.errors import DataError
from pairwright.protocols import Message
from pairwright.tables import DROPPED, drops, empty
from pairwright.train import conditioning, routing
from pairwright.train.check import with_reference
from pairwright.train.schedule import gradient_ratio
from pairwright.train.settings import Condition, Training
from pairwright.training.plan import TrainPlan


class Rows(NamedTuple):
    """`train` in training order, `held_out` pairs of other prompts, what was dropped, and what came of every step."""

    train: pl.DataFrame
    held_out: pl.DataFrame
    dropped: pl.DataFrame
    facts: dict[str, Any]


def prepare(pairs: pl.DataFrame, plan: TrainPlan, tokenizer: Any) -> Rows:
    """The rows of a run. The tokenizer says what of a conditioned prompt survives truncation, and how long sides are."""
    facts: dict[str, Any] = {"pairs": pairs.height}
    pairs, against = without_negative_gaps(pairs, plan.training)
    dropped = [against]
    rows, held_out = pairs, pairs.clear()
    if plan.training.hold_out:
        rows, held_out = conditioning.hold_out(pairs, share=plan.training.hold_out, seed=plan.training.seed)
        facts["held_out"] = held_out.height
        if not rows.height or not held_out.height:
            raise DataError(
                f"hold_out {plan.training.hold_out} leaves {rows.height} pairs to train on and {held_out.height} held out"
            )
    if plan.condition:
        visible = visible_prompt(tokenizer, int(plan.training.trl.get("max_length") or 1024))
        split = conditioning.relabel(rows, plan.condition.tag, plan.condition.relabelling, visible=visible)
        facts["condition"] = _conditioned(split, plan.condition)
        rows = split.kept
        dropped.append(split.dropped)
        if reads_gap(plan.training):
            conditioning.require_goal_gaps(rows)
    if plan.route:
        rows = with_lengths(rows, tokenizer)
        split = routing.route(rows, plan.route.routing, plan.route.difficulty)
        facts["route"] = routing.record(split) | {"gradient_ratio": _ratio(split.kept, plan.training)}
        rows = split.kept
        held_out = held_out.with_columns(objective=pl.lit("dpo"))  # evaluated as pairs, whatever their margin
        dropped.append(split.dropped)
    if not rows.height:
        raise DataError(f"no pair is left to train on: {_reasons(dropped)}")
    if reads_gap(plan.training):
        facts["gaps"] = gap_facts(rows, plan.training)
    return Rows(rows, held_out, pl.concat(dropped), facts)


def reads_gap(training: Training) -> bool:
    return bool({"gap", "margin"} & {*NEEDS[training.loss]})


def gap_of(rows: pl.DataFrame, training: Training) -> pl.Series | None:
    """The gap that the loss will read, in rating points; None where no column says it."""
    way = training.options.get("gap", "auto")
    if way != "scores" and "margin" in rows.columns:
        return rows["margin"].cast(pl.Float64)
    if {"score_chosen", "score_rejected"} <= set(rows.columns):
        return (rows["score_chosen"] - rows["score_rejected"]).cast(pl.Float64)
    return None


def without_negative_gaps(pairs: pl.DataFrame, training: Training) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pairs whose rating is against their label, by the policy: kept, the gap set to 0, or dropped."""
    gap = gap_of(pairs, training) if reads_gap(training) and training.negative_gaps != "keep" else None
    if gap is None:
        return pairs, empty(DROPPED)
    against = (gap < 0).fill_null(False)
    if training.negative_gaps == "drop":
        return pairs.filter(~against), drops("train", pairs.filter(against), "negative_gap")
    return pairs.with_columns(margin=gap.clip(0)), empty(DROPPED)


def gap_facts(rows: pl.DataFrame, training: Training) -> dict[str, Any]:
    """What the loss is handed as gaps: counts of what it may not bear, and their spread, in rating points."""
    gap = gap_of(rows, training)
    if gap is None:
        return {}
    known = gap.filter(gap.is_finite().fill_null(False))
    beta1 = training.loss_settings.get("beta1")
    return {
        "ties": int((known == 0).sum()), "negative": int((known < 0).sum()), "missing": gap.len() - known.len(),
        "mean": known.mean(), "sd": known.std() if known.len() > 1 else None,
        "rating_scale": training.options.get("rating_scale"), "negative_gaps": training.negative_gaps,
        "effective_beta": None if beta1 is None else effective_beta(training.beta, beta1=float(beta1)),
    }  # fmt: skip


def _reasons(dropped: Sequence[pl.DataFrame]) -> str:
    counts = pl.concat(dropped)["reason"].value_counts(sort=True)
    return ", ".join(f"{reason} {n}" for reason, n in counts.iter_rows())


def _conditioned(split: Any, condition: Condition) -> dict[str, Any]:
    return conditioning.record(split, condition.tag)


def _ratio(rows: pl.DataFrame, training: Training) -> float | None:
    """Mean of the preference loss's pull over SFT's on the chosen side of the sft pairs; None without one."""
    tokens = rows.filter(pl.col("objective") == "sft")["tokens_chosen"].to_numpy()
    weight = float(training.options.get("sft_weight", 1.0))
    if not len(tokens) or weight <= 0:
        return None
    smoothing = float(training.loss_settings.get("flip", 0.0)) if training.loss == "cdpo" else 0.0
    ratio = gradient_ratio(tokens, beta=training.beta, label_smoothing=smoothing, sft_weight=weight)
    return float(ratio.mean())


def visible_prompt(tokenizer: Any, max_length: int) -> Callable[[Sequence[Message]], str]:
    """What the model sees of a prompt, as text: its rendering, cut at max_length from the start, as TRL does."""

    def visible(messages: Sequence[Message]) -> str:
        text = render(tokenizer, messages, add_generation_prompt=True)
        ids = encode_texts(tokenizer, [text])[0]
        return text if len(ids) <= max_length else str(tokenizer.decode(ids[:max_length]))

    return visible


def with_lengths(rows: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:
    """tokens_chosen and tokens_rejected: what each side adds to its rendered prompt."""
    prompts = rows["prompt"].to_list()
    start = encode_texts(tokenizer, [render(tokenizer, each, add_generation_prompt=True) for each in prompts])
    for side in ("chosen", "rejected"):
        texts = [render(tokenizer, [*p, *said]) for p, said in zip(prompts, rows[side].to_list(), strict=True)]
        whole = encode_texts(tokenizer, texts)
        added = [max(0, len(a) - len(b)) for a, b in zip(whole, start, strict=True)]
        rows = rows.with_columns(pl.Series(f"tokens_{side}", added, dtype=pl.Int64))
    return rows


def with_soft_labels(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """p_chosen of the clean stage of a run, for a loss that reads it; rows whose pair it does not know get null."""
    file = folder / "pairs_soft.parquet"
    if "p_chosen" in rows.columns or not file.is_file():
        return rows
    ids = [json.loads(meta) if meta else {} for meta in rows["meta"].to_list()]
    named = rows.with_columns(
        pl.Series(name, [each.get(name) for each in ids], dtype=pl.String) for name in ("chosen_id", "rejected_id")
    )
    key = ["prompt_id", "chosen_id", "rejected_id"]
    soft = pl.read_parquet(file).select(*key, "p_chosen")
    return named.join(soft, on=key, how="left", maintain_order="left").drop("chosen_id", "rejected_id")


def add_reference(
    rows: pl.DataFrame, training: Training, logps: pl.DataFrame | None, names: Sequence[str], tokenizer: Any
) -> tuple[pl.DataFrame, str]:
    """The rows with reference log-probabilities of the table where `reference` asks for them and it fits; what was found.

    `names` are what the model is called: the one asked for, and the folder that it is trained from. DataError where
    `reference` is "table" and there is none, or none of this model, template and texts.
    """
    if {"ref_chosen_logps", "ref_rejected_logps"} <= set(rows.columns):
        return rows, "columns of the pairs"
    if training.reference in ("live", "precompute"):
        return rows, ""
    if logps is None or not logps.height:
        if training.reference == "auto":
            return rows, ""
        raise DataError("reference: table, but the pairs have no logps.parquet beside them; score with a logp rater")
    length = int(training.trl.get("max_length") or 1024)
    template = template_hash(tokenizer, f"max_length={length}", "keep_start")
    hashes = {model_hash(name, dtype) for name in names for dtype in DTYPES if dtype != "auto"}
    ours = logps.filter(pl.col("model_hash").is_in(hashes))
    wanted = ours["model_hash"][0] if ours.height else "the model that is trained"
    try:
        held = ours.filter(pl.col("model_hash") == wanted) if ours.height else logps
        return with_reference(rows, held, model_hash=str(wanted), template_hash=template), "the table logps of the run"
    except DataError as error:
        if training.reference == "table":
            raise
        return rows, f"the table logps does not fit, {str(error).partition(':')[0]}"


def drop_counts(dropped: pl.DataFrame) -> Mapping[str, int]:
    return dict(dropped["reason"].value_counts().sort("reason").iter_rows())
