"""Scores of pairs by small models that did not see them: the implicit margin, and the cross-fitted DPO loss.

    frame, about = cross_fit(pairs, CrossFit(model="folder"), Path("runs/seed"))

A seed model is the model with a LoRA after DPO on a random set of pairs, trained by our trainer on TRL. The prompts are
cut into folds; the model that scores a fold learnt from prompts of the others. With one fold there is one model, and the
pairs of the prompts it saw are left without a score.

margin_implicit = [log pi_1 - log pi_0](chosen) - [log pi_1 - log pi_0](rejected), summed nats, no beta (Deng et al. 2025,
arXiv 2502.14560); loss = softplus(-beta margin_implicit), the difficulty of Selective DPO (Gao et al. 2025, arXiv
2502.09650); ppl_diff = mean NLL of chosen - mean NLL of rejected under pi_1, response tokens alone (PerpCorrect, whose
code takes the prompt's tokens in).
"""

import logging
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pairwright.core.influence import losses
from pairwright.core.margins import spearman
from pairwright.errors import ConfigError, DataError, MissingDependency
from pairwright.store import digest, read_json, write_json, write_parquet
from pairwright.tables import canonical_json

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
IDS = ("pair_id", "id", "prompt_id", "chosen_id", "rejected_id")
TEXTS = ("prompt", "chosen", "rejected")
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
TRAINING: dict[str, Any] = {
    "learning_rate": 3e-5, "num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "logging_steps": 10, "report_to": "none", "save_strategy": "no",
    "disable_tqdm": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CrossFit:
    """`seed_pairs` are drawn for each model; None: all pairs of the other folds. `repeats` are splits of their own.

    `trl` are settings of the trainer: learning_rate 3e-5, 2 epochs, 32 pairs a step unless said otherwise.
    """

    model: str
    seed_pairs: int | None = 2000
    folds: int = 2  # 1: one model, whose prompts stay without a score
    repeats: int = 1
    beta: float = 0.1
    max_length: int = 1024
    seed: int = 0
    trl: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("folds", "repeats", "max_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} cannot be: it counts from 1")
        if self.seed_pairs is not None and self.seed_pairs < 1:
            raise ConfigError(f"seed_pairs = {self.seed_pairs}: a seed model learns from at least 1 pair")
        if self.seed_pairs is None and self.folds == 1:
            raise ConfigError("folds = 1 with seed_pairs = None trains on every pair and leaves none to score")
        if taken := sorted({"beta", "max_length", "seed", "loss", "output_dir"} & set(self.trl)):
            raise ConfigError(f"trl holds {', '.join(taken)}, which the settings or the scores themselves decide")


class Scores(NamedTuple):
    """One row per pair in the order given, and how it came about, ready for JSON."""

    frame: pl.DataFrame
    about: dict[str, Any]


class Plan(NamedTuple):
    """One seed model: its name, the rows it learns from and the rows it scores."""

    name: str
    seed_rows: list[int]
    scored_rows: list[int]


def normal_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation without what two copies of one prompt differ in: case, white space and Unicode form (NFKC)."""
    return canonical_json([[turn["role"], " ".join(_folded(str(turn["content"])).split())] for turn in messages])


def _folded(text: str) -> str:
    """NFKC of the folded case of NFKC: folding may leave letters that compose."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def check_pairs(pairs: pl.DataFrame, *, where: str) -> None:
    """DataError where the rows are no explicit conversational pairs."""
    if lacks := [name for name in TEXTS if name not in pairs.columns]:
        raise DataError(f"{where} has no column {', '.join(lacks)}; it holds {', '.join(pairs.columns)}")
    if not pairs.height:
        raise DataError(f"{where} is empty")
    for name in TEXTS:
        if not isinstance(pairs[name].dtype, pl.List) or pairs[name].null_count():
            raise DataError(f"{where}: {name} is not a list of messages with role and content in every row")


def hash_of(pairs: pl.DataFrame, *, ordered: bool) -> str:
    """16 hex digits over the texts of the pairs."""
    rows = [canonical_json(row) for row in pairs.select(TEXTS).iter_rows()]
    return digest(rows if ordered else sorted(rows))


def plan_models(pairs: pl.DataFrame, settings: CrossFit) -> list[Plan]:
    """Who learns from what and scores what; no model scores a prompt that it learnt from. Does not depend on row order."""
    keys = [normal_prompt(messages) for messages in pairs["prompt"]]
    names = sorted(set(keys))
    if len(names) < max(settings.folds, 2):
        raise DataError(
            f"{len(names)} prompts cannot be cut into {settings.folds} folds; give more prompts, or fewer folds"
        )
    texts = [canonical_json(row) for row in pairs.select(TEXTS).iter_rows()]
    plans = []
    for repeat in range(settings.repeats):
        rng = np.random.default_rng([settings.seed, repeat])
        fold_of = {names[int(at)]: place % settings.folds for place, at in enumerate(rng.permutation(len(names)))}
        for fold in range(settings.folds):
            theirs = [row for row, key in enumerate(keys) if settings.folds == 1 or fold_of[key] != fold]
            theirs.sort(key=texts.__getitem__)
            drawn = rng.permutation(len(theirs))[: settings.seed_pairs]
            seed_rows = sorted(theirs[int(at)] for at in drawn)
            seen = {keys[row] for row in seed_rows}
            mine = [row for row, key in enumerate(keys) if settings.folds == 1 or fold_of[key] == fold]
            scored = [row for row in mine if keys[row] not in seen]
            if not scored:
                raise DataError(
                    f"{len(seed_rows)} seed pairs are of all {len(names)} prompts and leave no pair to score; take fewer seed "
                    "pairs, or folds = 2"
                )
            plans.append(Plan(f"{repeat}-{fold}", seed_rows, scored))
    return plans


def cross_fit(pairs: pl.DataFrame, settings: CrossFit, out: Path) -> Scores:
    """Trains the seed models into `out`, and scores every pair by those that did not see its prompt.

    Columns: the ids of the pairs, `margin_implicit` (summed nats, mean over the models that scored the pair),
    `implicit_per_token`, `loss`, `ppl_diff`, `scored_by` (repeat-fold, one or more), `seed_pair` (some model learnt from
    it), `n_tokens_chosen`, `n_tokens_rejected`, `truncated`, `reason` (why null). A run that was stopped goes on with
    the model it stopped at; a folder with models of other pairs or settings is refused.
    """
    check_pairs(pairs, where="pairs")
    plans = plan_models(pairs, settings)
    check_length(settings.model, settings.max_length)
    identity = _identity(pairs, settings)
    _same_run(out, identity)
    told = []
    for plan in plans:
        folder = out / f"seed-{plan.name}"
        if not (folder / "scores.parquet").exists():
            if not (folder / "model.json").exists():
                rows = pairs.select(TEXTS)[plan.seed_rows].to_dicts()
                seed = settings.seed + plans.index(plan)
                about = fit(
                    rows, folder, model=settings.model, beta=settings.beta,
                    trl={**settings.trl, "max_length": settings.max_length, "seed": seed},
                )  # fmt: skip
                trained_on = sorted({digest(normal_prompt(row["prompt"])) for row in rows})
                write_json(
                    folder / "model.json", {**about, "prompts": len(trained_on), "trained_on": digest(trained_on)}
                )
            write_parquet(folder / "scores.parquet", _score(pairs, plan, settings, folder))
        told.append(pl.read_parquet(folder / "scores.parquet"))
    frame = _merged(pairs, plans, told, settings)
    about = _about(frame, plans, told, settings, out)
    write_json(out / "crossfit.json", {**identity, **about})
    return Scores(frame, {**identity, **about})


def _identity(pairs: pl.DataFrame, settings: CrossFit) -> dict[str, Any]:
    """What the scores of a folder belong to. `model` is hashed, so that weights that were exchanged are noticed."""
    from pairwright.backends.hf import model_hash, needs_transformers

    needs_transformers()
    return {
        "model": settings.model,
        "model_hash": model_hash(settings.model),
        "pairs_hash": hash_of(pairs, ordered=True),
        "beta": settings.beta,
        "settings": {
            "seed_pairs": settings.seed_pairs, "folds": settings.folds, "repeats": settings.repeats,
            "max_length": settings.max_length, "seed": settings.seed, "lora": LORA, "trl": {**TRAINING, **settings.trl},
            "prompts": "NFKC, folded case",
        },
    }  # fmt: skip


def check_length(model: str, max_length: int) -> None:
    """ConfigError where the model has fewer positions than `max_length`; its weights are not read."""
    from pairwright.backends.hf import needs_transformers, quiet, where

    needs_transformers()
    from transformers import AutoConfig

    source, more = where(model)
    with quiet():
        config = AutoConfig.from_pretrained(source, **more)
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and max_length > longest:
        raise ConfigError(f"max_length = {max_length}: {model} reads {longest} tokens at most")


def _same_run(out: Path, identity: Mapping[str, Any]) -> None:
    path = out / "run.json"
    held = read_json(path)
    other = sorted(key for key in held if held[key] != identity.get(key) and key != "model")
    if other and any(out.glob("seed-*/model.json")):  # nothing that was trained is of no run
        raise DataError(f"{out} holds seed models of another {', '.join(other)}; choose another folder, or delete it")
    if other or not held:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(identity))


def fit(
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    model: str,
    beta: float,
    start: str | None = None,
    trl: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """DPO of `model` with a fresh LoRA, or on from `start` (an adapter, or whole weights), saved in `out`.

    The reference is the model without an adapter; with `start` the rows must carry it, as ref_chosen_logps and
    ref_rejected_logps (nats): TRL would take `start` for it. The base is computed in float32.
    """
    from pairwright.train.trl import RatingDPOConfig, RatingDPOTrainer

    if start is not None and "ref_chosen_logps" not in rows[0]:
        raise ConfigError("training on from a checkpoint needs the reference in the rows (ref_chosen_logps)")
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingDependency('datasets is not installed; run: pip install "pairwright[train]"') from error
    import torch
    from transformers import PrinterCallback

    settings = {**TRAINING, "use_cpu": not torch.cuda.is_available(), "bf16": False, "dataloader_pin_memory": False,
                **(trl or {})}  # fmt: skip
    loaded, tokenizer, more = _start(model, start)
    with _no_bars():
        args = RatingDPOConfig(
            output_dir=str(out / "run"), loss="dpo", beta=beta, bad_rows="drop", reference_check=0.0, **settings
        )
    with _no_bars():
        trainer = RatingDPOTrainer(
            model=loaded, args=args, train_dataset=Dataset.from_list(list(rows)), processing_class=tokenizer, **more
        )
    trainer.remove_callback(PrinterCallback)  # what it prints is in the trainer's own log
    with _no_bars():
        done = trainer.train()
    if hasattr(trainer.model, "peft_config"):
        trainer.model.save_pretrained(out, selected_adapters=["default"])
    else:
        trainer.save_model(str(out))
    return {
        "pairs": len(rows) - len({finding.row for finding in trainer.dropped}),
        "dropped": [str(finding) for finding in trainer.dropped[:20]],
        "steps": int(trainer.state.global_step),
        "train_loss": float(done.training_loss),
        "learning_rate": float(args.learning_rate),
        "epochs": float(args.num_train_epochs),
    }


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars of datasets and no notes on the future of transformers inside; what was set comes back."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _start(model: str, start: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """The model to train with its tokenizer, and what else the trainer is given."""
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM

    from pairwright.backends.gradients import is_adapter
    from pairwright.backends.hf import load_tokenizer, quiet
    from pairwright.backends.plain import trainable

    whole = start if start is not None and not is_adapter(start) else model
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(trainable(whole), dtype="float32")  # a GGUF model refuses training
    tokenizer = load_tokenizer(model)
    if start is None:
        return base, tokenizer, {"peft_config": LoraConfig(**LORA)}
    if whole == start:
        return base, tokenizer, {}
    with quiet():
        return PeftModel.from_pretrained(base, start, is_trainable=True), tokenizer, {}


def _score(pairs: pl.DataFrame, plan: Plan, settings: CrossFit, folder: Path) -> pl.DataFrame:
    """Both margins, loss and perplexity difference of the rows that this model scores."""
    from pairwright.backends.gradients import PairModel

    mine = pairs.select(TEXTS)[plan.scored_rows]
    model = PairModel(settings.model, str(folder), max_length=settings.max_length)
    laid = model.lay(*(mine[name].to_list() for name in TEXTS))
    policy_SI, reference_SI = model.logps(laid), model.logps(laid, reference=True)
    ratio_SI = policy_SI - reference_SI
    n_SI = np.where(laid.n_tokens_SI > 0, laid.n_tokens_SI, np.nan)
    margin_I = ratio_SI[0] - ratio_SI[1]
    rates, nll = ratio_SI / n_SI, -policy_SI / n_SI
    lost = [reason or ("no_log_probability" if not np.isfinite(m) else None)
            for reason, m in zip(laid.reason_I, margin_I, strict=True)]  # fmt: skip
    return pl.DataFrame(
        {
            "row": pl.Series(plan.scored_rows, dtype=pl.Int64),
            "margin_implicit": margin_I,
            "implicit_per_token": rates[0] - rates[1],
            "loss": losses(settings.beta * margin_I),
            "ppl_diff": nll[0] - nll[1],
            "n_tokens_chosen": laid.n_tokens_SI[0].astype(np.int32),
            "n_tokens_rejected": laid.n_tokens_SI[1].astype(np.int32),
            "truncated": laid.truncated_I,
            "reason": pl.Series(lost, dtype=pl.String),
            "scored_by": pl.Series([plan.name] * mine.height, dtype=pl.String),
        },
        nan_to_null=True,
    )


MEANS = ("margin_implicit", "implicit_per_token", "loss", "ppl_diff")


def _merged(
    pairs: pl.DataFrame, plans: Sequence[Plan], told: Sequence[pl.DataFrame], settings: CrossFit
) -> pl.DataFrame:
    first = ("n_tokens_chosen", "n_tokens_rejected", "truncated", "reason")
    found = pl.concat(told).group_by("row", maintain_order=True).agg(
        *(pl.col(name).mean() for name in MEANS),
        *(pl.col(name).first() for name in first),
        pl.col("scored_by").str.join(" "),
    )  # fmt: skip
    seed_rows = sorted({row for plan in plans for row in plan.seed_rows})
    rows = pairs.select(name for name in IDS if name in pairs.columns).with_row_index("row")
    rows = rows.with_columns(pl.col("row").cast(pl.Int64), seed_pair=pl.col("row").is_in(seed_rows))
    unseen = pl.when(pl.col("seed_pair")).then(pl.lit("seed_pair")).otherwise(pl.lit("seed_prompt"))
    why = pl.when(pl.col("scored_by").is_null()).then(unseen).otherwise(pl.col("reason"))
    return (
        rows.join(found, on="row", how="left", maintain_order="left")
        .with_columns(reason=pl.when(pl.col("margin_implicit").is_null()).then(why))
        .drop("row")
    )


def _about(
    frame: pl.DataFrame, plans: Sequence[Plan], told: Sequence[pl.DataFrame], settings: CrossFit, out: Path
) -> dict[str, Any]:
    """Counts, the models, how far the repeats agree, and the pull of length."""
    scored = frame.filter(pl.col("margin_implicit").is_not_null())
    gap = (scored["n_tokens_chosen"] - scored["n_tokens_rejected"]).cast(pl.Float64).to_numpy()
    repeats: dict[str, list[pl.DataFrame]] = {}
    for plan, scores in zip(plans, told, strict=True):
        repeats.setdefault(plan.name.split("-")[0], []).append(scores.select("row", "loss"))
    whole = [pl.concat(parts).rename({"loss": name}) for name, parts in repeats.items()]
    agree = {}
    for i, a in enumerate(whole):
        for b in whole[i + 1 :]:
            both = a.join(b, on="row").drop_nulls()
            agree[f"{a.columns[1]} and {b.columns[1]}"] = number(spearman(both[:, 1].to_numpy(), both[:, 2].to_numpy()))
    return {
        "rows": frame.height,
        "scored": scored.height,
        "reasons": dict(frame["reason"].drop_nulls().value_counts(sort=True).iter_rows()),
        "seed_pairs": int(frame["seed_pair"].sum()),
        "cross_fitted": settings.folds > 1,
        "models": {plan.name: {**read_json(out / f"seed-{plan.name}" / "model.json"), "scored": len(plan.scored_rows)}
                   for plan in plans},
        "spearman_loss_between_repeats": agree,
        "spearman_with_length_gap": {
            name: number(spearman(scored[name].to_numpy(), gap)) for name in ("margin_implicit", "implicit_per_token", "loss")
        },
    }  # fmt: skip


def number(value: float) -> float | None:
    """For JSON: nan is null."""
    return float(value) if np.isfinite(value) else None
