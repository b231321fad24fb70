"""What a small step on each pair does to a validation set, at one or several checkpoints of a model.

    table = influence_table(pairs, validation, InfluenceSettings("base", {"run/checkpoint-50": 1e-5}), Path("runs/influence"))

One backward pass over the validation set gives its gradient. Then every response is computed twice, at theta and a little
way along that gradient: the change of a pair's log-ratio gap is its influence (`pairwright.core.influence`). No pair has
a backward pass, but for a small sample that says which step is accurate, and how accurate it is.

LossDiff is the loss of a pair at theta less that at theta_val, which is theta trained on by one epoch over the validation
set; IRM is the margin of a pair at theta. Both are columns beside it.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pairwright.core.influence import (
    LEAST_SAMPLE,
    Step,
    accurate,
    agreement,
    central_slope,
    choose_step,
    forward_slope,
    influence,
    lossdiff,
    losses,
    slope_of_influence,
    steps_for,
    warnings_of,
    weighted,
)
from pairwright.core.margins import spearman
from pairwright.core.pair_terms import positive
from pairwright.errors import ConfigError, DataError
from pairwright.store import atomic, digest, read_json, write_json, write_parquet
from pairwright.train.crossfit import IDS, TEXTS, Scores, check_pairs, fit, hash_of, normal_prompt, number

if TYPE_CHECKING:
    from pairwright.backends.gradients import Laid, PairModel

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
NATS = (0.1, 0.3, 0.03)  # change of the median pair's gap that a step is to make: tried always
MORE_NATS = (1.0, 3.0, 10.0, 0.01)  # and these where none of those is accurate
PART = 2**16  # tokens that are computed between two writes
NOTHING = 1e-7  # nats per token: a gap that differs from the reference by less does not differ
OFF = 0.05  # nats per token that an imported reference may be off
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


@dataclass(frozen=True, slots=True)
class InfluenceSettings:
    """`model` is the reference; `checkpoints` are folders with their learning rates, the last one being theta.

    A checkpoint is a PEFT adapter over `model`, or whole weights. `params`: "lora", or a pattern of the names of the
    parameters whose gradients count. `sample` pairs have a backward pass of their own, to check the step.
    """

    model: str
    checkpoints: Mapping[str, float]
    beta: float = 0.1
    params: str = "lora"
    max_length: int = 1024
    batch_tokens: int = 8192
    sample: int = 24
    seed: int = 0
    force: bool = False  # use scores in the folder although they are of another model, beta or validation set

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ConfigError(
                "checkpoints is empty; name the folder of a trained model or adapter, and its learning rate"
            )
        positive(beta=self.beta, **{f"checkpoints[{name}]": rate for name, rate in self.checkpoints.items()})
        if self.sample < LEAST_SAMPLE:
            raise ConfigError(f"sample = {self.sample}: below {LEAST_SAMPLE} pairs the step cannot be checked")


@dataclass(frozen=True, slots=True)
class ThetaVal:
    """theta trained on the validation set. `folder`: one that is there already; else it is made, starting at theta.

    The learning rate is theta's own where it is None: LossDiff stands for influence only where the step is small.
    """

    folder: str | None = None
    learning_rate: float | None = None
    epochs: float = 1.0
    pairs_per_step: int = 16


class _Checked(NamedTuple):
    """A checkpoint that is ready to score: the validation gradient, the step, and what was found on the way."""

    direction: Any  # u, flat
    norm: float
    step: Step
    about: dict[str, Any]


def influence_table(
    pairs: pl.DataFrame,
    validation: pl.DataFrame,
    settings: InfluenceSettings,
    folder: Path | None = None,
    *,
    theta_val: ThetaVal | None = ThetaVal(),
) -> Scores:
    """One row per pair, in the order given, and how the numbers came about.

    Columns: the ids of the pairs; `influence` (validation loss per unit of squared step, above 0 where a step on the
    pair lowers it; mean over checkpoints weighted by learning rate), `irm` (m at theta, logits), `loss`, `loss_val`
    (nats, at theta and theta_val), `lossdiff`, `n_tokens_chosen`, `n_tokens_rejected`, `truncated`, `reason` (why null).
    `theta_val=None` leaves LossDiff out. Reference columns of the pairs (ref_chosen_logps, ref_rejected_logps: summed
    nats) are used where they agree with the model's own on the sample.

    With a folder what is finished is kept, and a stopped run goes on. DataError where prompts of `pairs` and
    `validation` overlap, where theta is the reference or theta_val is theta, and where the folder's scores belong to
    another model, template, beta or validation set (unless `settings.force`).
    """
    for name, frame in (("pairs", pairs), ("validation", validation)):
        check_pairs(frame, where=name)
    _disjoint(pairs, validation)
    with _folder(folder) as out:
        begun = time.perf_counter()
        runs, ref_SI, forced = [], _given(pairs), []
        last = len(settings.checkpoints) - 1
        for k, checkpoint in enumerate(settings.checkpoints):
            run = _Run(pairs, validation, settings, out, k, checkpoint)
            forced += run.forced
            runs.append(run.scored(ref_SI))
            ref_SI = runs[-1][0].select(REFERENCE).to_numpy().T
            if k == last:
                gap_val_I, about_val = run.aligned(theta_val) if theta_val is not None else (None, None)
        frame = _frame(pairs, runs, gap_val_I, np.array(list(settings.checkpoints.values())), beta=run.beta)
        about = {
            "beta": run.beta,
            "params": settings.params,
            "validation_hash": runs[-1][1]["validation_hash"],
            "pairs_hash": run.pairs_hash,
            "checkpoints": [each for _, each in runs],
            "theta_val": about_val,
            "forced": forced,
            **_facts(frame, about_val),
            "seconds": time.perf_counter() - begun,
        }
        if not forced:
            write_parquet(out / "influence.parquet", frame)
            write_json(out / "influence.json", about)
    for warning in about["warnings"]:
        log.warning("%s", warning)
    return Scores(frame, about)


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    made = Path(tempfile.mkdtemp(prefix="pairwright-influence-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _disjoint(pairs: pl.DataFrame, validation: pl.DataFrame) -> None:
    known = {normal_prompt(messages) for messages in validation["prompt"]}
    rows = [row for row, messages in enumerate(pairs["prompt"]) if normal_prompt(messages) in known]
    if rows:
        names = next((pairs[name][rows[0]] for name in IDS if name in pairs.columns), f"row {rows[0]}")
        raise DataError(
            f"{len(rows)} of {pairs.height} pairs have a prompt that is in the validation set too, first {names}: their "
            "influence would be on themselves; take them out of one of the two"
        )


def _given(pairs: pl.DataFrame) -> Floats | None:
    """The reference of both sides as the columns have it, (2, I), nats; None where they are not there in full."""
    if not set(REFERENCE) <= set(pairs.columns) or any(pairs[name].null_count() for name in REFERENCE):
        return None
    return np.asarray(pairs.select(REFERENCE).to_numpy().T, np.float64)


class _Run:
    """One checkpoint: its model in memory, its pairs as tokens, and its files in the folder."""

    def __init__(
        self,
        pairs: pl.DataFrame,
        validation: pl.DataFrame,
        settings: InfluenceSettings,
        out: Path,
        k: int,
        checkpoint: str,
    ) -> None:
        from pairwright.backends.gradients import PairModel

        self.settings, self.validation, self.checkpoint, self.k, self.out = settings, validation, checkpoint, k, out
        self.model = self._load(PairModel, checkpoint)
        self.laid = self.model.lay(*(pairs[name].to_list() for name in TEXTS))
        self.held_out = self.model.lay(*(validation[name].to_list() for name in TEXTS))
        for where, laid in (("pairs", self.laid), ("validation", self.held_out)):
            if not laid.usable_I.any():
                raise DataError(f"none of the {where} can be read by the model; the first: {laid.reason_I[0]}")
        self.identity = {
            "model_hash": self.model.model_hash,
            "reference_hash": self.model.reference_hash,
            "template_hash": self.model.template_hash,
            "beta": settings.beta,
            "params": settings.params,
            "validation_hash": hash_of(validation, ordered=False),
        }
        self.pairs_hash = hash_of(pairs, ordered=True)
        self.beta = settings.beta
        self.ref_val_I = self.model.gaps(self.held_out, reference=True)
        self.gap_val_I = self.model.gaps(self.held_out)
        moved_I = np.abs(self.gap_val_I - self.ref_val_I) / np.maximum(self.held_out.n_tokens_SI.sum(axis=0), 1)
        if not np.nanmax(moved_I) > NOTHING:
            raise DataError(
                f"{checkpoint} says of the validation pairs what the reference {settings.model} says: every margin (IRM) is 0 "
                "and there is nothing to order; give a checkpoint that was trained, and the model it was trained from"
            )
        self.forced = self._claim()

    def _load(self, kind: "type[PairModel]", checkpoint: str) -> "PairModel":
        settings = self.settings
        sizes: dict[str, Any] = {"max_length": settings.max_length, "batch_tokens": settings.batch_tokens}
        return kind(settings.model, checkpoint, params=settings.params, **sizes)

    def _claim(self) -> list[str]:
        """Makes the folder's files those of this checkpoint; what they differ in where that is forced."""
        path = self.out / f"checkpoint-{self.k}.json"
        held = read_json(path)
        self.owner = self.model.model_hash  # of theta, where theta_val starts
        if "step" not in held:  # nothing was computed for whoever claimed it before
            write_json(path, {**self.identity, "pairs_hash": self.pairs_hash})
            return []
        if held["pairs_hash"] != self.pairs_hash:
            raise DataError(f"{self.out} holds the influence of other pairs; choose another folder, or delete it")
        other = [key for key, value in self.identity.items() if held.get(key) != value]
        if not other:
            return []
        told = [f"{key}: {held.get(key)}, not {self.identity[key]}" for key in other]
        if not self.settings.force:
            raise DataError(
                f"{self.out} holds the influence on another {', '.join(key.removesuffix('_hash') for key in other)} "
                f"({'; '.join(told)}). Influence belongs to one model, template, beta and validation set: choose another "
                "folder, or set force to use these scores as they are"
            )
        if not (self.out / "influence.json").exists():
            raise DataError(f"{self.out} holds another model's influence, and not all of it: force cannot complete it")
        self.beta, self.owner = float(str(held["beta"])), str(held["model_hash"])
        return [f"checkpoint {self.k}, {each}" for each in told]

    # -- parts --------------------------------------------------------------------------------------------------------

    def _cuts(self) -> list[list[int]]:
        """Groups in runs of so many tokens; one run is one part."""
        cuts: list[list[int]] = [[]]
        room = PART
        for at, group in enumerate(self.laid.groups):
            if cuts[-1] and group.cost > room:
                cuts.append([])
                room = PART
            cuts[-1].append(at)
            room -= group.cost
        return cuts

    def _in_parts(self, name: str, work: "Callable[[Laid, NDArray[np.int64]], dict[str, Floats]]") -> pl.DataFrame:
        """What `work` makes of the pairs, part by part; the parts that are there are read. One row per pair, or null."""
        there = sorted(self.out.glob(f"{name}-*.parquet")) if self.forced else []
        found = [pl.read_parquet(path) for path in there]
        for part, groups in enumerate([] if there else self._cuts()):
            path = self.out / f"{name}-{part:05d}.parquet"
            if not path.exists():
                rows = np.flatnonzero(np.isin(self.laid.group_I, groups))
                write_parquet(path, pl.DataFrame({"row": rows, **work(self.laid.select(rows), rows)}))
            found.append(pl.read_parquet(path))
        rows_ = pl.DataFrame({"row": np.arange(len(self.laid.group_I))})
        return rows_.join(pl.concat(found), on="row", how="left", maintain_order="left").fill_null(np.nan)

    # -- influence ----------------------------------------------------------------------------------------------------

    def scored(self, ref_SI: Floats | None) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Reference, gap, slope and influence of every pair at this checkpoint, and how they came about."""
        begun = time.perf_counter()
        checked = self._checked(ref_SI)
        ready = time.perf_counter()
        step, model = checked.step.step, self.model

        def work(laid: "Laid", rows: NDArray[np.int64]) -> dict[str, Floats]:
            here_I = model.gaps(laid)
            told_SI = model.logps(laid, reference=True) if ref_SI is None else ref_SI[:, rows]
            with model.moved(checked.direction, step):
                ahead_I = model.gaps(laid)
            if checked.step.scheme == "central":
                with model.moved(checked.direction, -step):
                    slope_I = central_slope(ahead_I, model.gaps(laid), step)
            else:
                slope_I = forward_slope(ahead_I, here_I, step)
            return {**dict(zip(REFERENCE, told_SI, strict=True)), "gap": here_I, "slope": slope_I}

        frame = self._in_parts(f"scored-{self.k}", work)
        beta, n_SI = self.beta, self.laid.n_tokens_SI.astype(np.int32)
        margin_I = beta * (frame["gap"].to_numpy() - _gap(frame))
        made_I = influence(frame["slope"].to_numpy(), margin_I, beta=beta, norm=checked.norm)
        lost = pl.when(~pl.Series(np.isfinite(made_I))).then(pl.lit("no_log_probability"))
        frame = frame.with_columns(
            influence=made_I,
            n_tokens_chosen=n_SI[0],
            n_tokens_rejected=n_SI[1],
            truncated=self.laid.truncated_I,
            reason=pl.coalesce(pl.Series(self.laid.reason_I, dtype=pl.String), lost),
        )
        about = {"checkpoint": self.checkpoint, "learning_rate": self.settings.checkpoints[self.checkpoint],
                 **self.model.about, **self.identity, **checked.about,
                 "seconds_to_prepare": ready - begun, "seconds_to_score": time.perf_counter() - ready}  # fmt: skip
        return frame, about

    def _checked(self, ref_SI: Floats | None) -> _Checked:
        """The validation gradient and the step, from the folder where they are there."""
        import torch

        path = self.out / f"checkpoint-{self.k}.json"
        held: dict[str, Any] = read_json(path)
        vector = self.out / f"direction-{self.k}.npy"
        if "step" in held and vector.exists():
            chosen = held["step"]
            step = Step(chosen["step"], chosen["scheme"], agreement(np.empty(0), np.empty(0)))
            direction = torch.as_tensor(np.load(vector), device=self.model.held.device)
            return _Checked(direction, held["gradient_norm"], step, held)
        half_WV, used = self._halves()
        both = self.model.gradient(self.held_out, self.ref_val_I, beta=self.settings.beta, weight_WI=half_WV)
        g = both.sum(0)
        norm = float(g.double().norm())
        if not norm > 0:
            raise DataError(
                "the gradient of the validation loss is 0 in the chosen parameters: no pair has an influence on it; take "
                "parameters that the loss depends on, or another validation set"
            )
        direction = g / norm
        found = self._sweep(direction, norm, both, ref_SI)
        margin_V = self.settings.beta * (self.gap_val_I - self.ref_val_I)
        about = {
            "gradient_norm": norm,
            "validation_pairs": used,
            "validation_loss": float(np.nanmean(losses(margin_V))),
            **found,
        }
        with atomic(vector) as temporary, temporary.open("wb") as file:
            np.save(file, direction.cpu().numpy())
        write_json(path, {**held, **about})
        chosen = found["step"]
        step = Step(chosen["step"], chosen["scheme"], agreement(np.empty(0), np.empty(0)))
        return _Checked(direction, norm, step, about)

    def _halves(self) -> tuple[Floats, int]:
        """(2, V): 1/n for the pairs of either half, so that the sum of both rows is the mean. Halves by prompt."""
        usable = np.flatnonzero(self.held_out.usable_I & np.isfinite(self.gap_val_I) & np.isfinite(self.ref_val_I))
        rng = np.random.default_rng([self.settings.seed, 1])
        half_G = rng.permutation(len(self.held_out.groups)) % 2
        weight_WV = np.zeros((2, len(self.held_out.group_I)))
        weight_WV[half_G[self.held_out.group_I[usable]], usable] = 1 / len(usable)
        return weight_WV, len(usable)

    def _sweep(self, direction: Any, norm: float, half_WP: Any, ref_SI: Floats | None) -> dict[str, Any]:
        """Steps tried on the sample against backward passes, the one chosen, and the agreement of the two halves of V."""
        model, beta = self.model, self.settings.beta
        rng = np.random.default_rng([self.settings.seed, 2])
        usable = np.flatnonzero(self.laid.usable_I)
        rows = np.sort(rng.permutation(usable)[: self.settings.sample])
        laid = self.laid.select(rows)
        own_SI = model.logps(laid, reference=True)
        if ref_SI is not None:
            _compare(ref_SI[:, rows], own_SI, laid)
        own_I = own_SI[0] - own_SI[1]
        here_I = model.gaps(laid)
        margin_I = beta * (here_I - own_I)
        exact_I, half_WI = np.full(len(rows), np.nan), np.full((2, len(rows)), np.nan)
        for row, _, g in model.pair_gradients(laid, own_I, beta=beta):
            half_WI[:, row] = (half_WP.double() @ g.double()).cpu().numpy()
            exact_I[row] = half_WI[:, row].sum()
        slope_I = slope_of_influence(exact_I, margin_I, beta=beta, norm=norm)
        tried = self._tried(laid, direction, here_I, steps_for(slope_I, NATS), (margin_I, exact_I, norm))
        if not _accurate(tried):
            more = steps_for(slope_I, MORE_NATS)
            tried += self._tried(laid, direction, here_I, more, (margin_I, exact_I, norm))
        chosen = choose_step(tried)
        return {
            "step": _told(chosen),
            "sweep": [_told(each) for each in sorted(tried, key=lambda each: (each.scheme, each.step))],
            "sample": len(rows),
            "spearman_of_validation_halves": number(spearman(half_WI[0], half_WI[1])),
        }

    def _tried(
        self, laid: "Laid", direction: Any, here_I: Floats, steps: Sequence[float], known: tuple[Floats, Floats, float]
    ) -> list[Step]:
        margin_I, exact_I, norm = known
        told = []
        for step in steps:
            with self.model.moved(direction, step):
                ahead_I = self.model.gaps(laid)
            with self.model.moved(direction, -step):
                behind_I = self.model.gaps(laid)
            schemes = {
                "forward": forward_slope(ahead_I, here_I, step),
                "central": central_slope(ahead_I, behind_I, step),
            }
            for scheme, slope_I in schemes.items():
                made_I = influence(slope_I, margin_I, beta=self.settings.beta, norm=norm)
                told.append(Step(step, scheme, agreement(made_I, exact_I)))
        return told

    # -- theta_val ----------------------------------------------------------------------------------------------------

    def aligned(self, wanted: ThetaVal) -> tuple[Floats, dict[str, Any]]:
        """Gaps of the pairs at theta_val (nats), and how it was made and what it did to the validation loss."""
        from pairwright.backends.gradients import PairModel

        named = digest([self._rate(wanted), wanted.epochs, wanted.pairs_per_step, self.settings.seed, self.owner])
        place = wanted.folder or str(self.out / f"theta-val-{named}")
        made: dict[str, Any] = {"folder": wanted.folder, "started_at": "given" if wanted.folder else "theta"}
        if wanted.folder is None:
            made |= self._train(wanted, Path(place))
        other = self._load(PairModel, place)
        if other.template_hash != self.model.template_hash:
            raise DataError(
                f"theta_val ({place}) writes the tokens of a conversation differently from {self.checkpoint}"
            )
        made |= {"model_hash": other.model_hash, "distance": self._distance(other)}
        ours, self.model = self.model, other
        try:
            name = f"scored-val-{other.model_hash}"
            gap_I = self._in_parts(name, lambda laid, rows: {"gap": other.gaps(laid)})["gap"].to_numpy()
        finally:
            self.model = ours
        beta = self.beta
        before, after = (
            float(np.nanmean(losses(beta * (gap_V - self.ref_val_I))))
            for gap_V in (self.gap_val_I, other.gaps(self.held_out))
        )
        return gap_I, {**made, "validation_loss": [before, after]}

    def _rate(self, wanted: ThetaVal) -> float:
        """The learning rate of theta_val: theta's own where none is given."""
        return self.settings.checkpoints[self.checkpoint] if wanted.learning_rate is None else wanted.learning_rate

    def _train(self, wanted: ThetaVal, place: Path) -> dict[str, Any]:
        if (place / "made.json").exists():
            return read_json(place / "made.json")
        chosen, rejected = self.model.logps(self.held_out, reference=True)
        kept = np.flatnonzero(np.isfinite(chosen) & np.isfinite(rejected))
        rows = self.validation.select(TEXTS)[kept.tolist()].with_columns(
            ref_chosen_logps=chosen[kept], ref_rejected_logps=rejected[kept]
        )
        size = min(wanted.pairs_per_step, len(kept))
        trl = {
            "learning_rate": self._rate(wanted), "num_train_epochs": wanted.epochs, "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "per_device_train_batch_size": 1, "gradient_accumulation_steps": size, "max_length": self.settings.max_length,
            "seed": self.settings.seed,
        }  # fmt: skip
        start = self.checkpoint
        told = fit(rows.to_dicts(), place, model=self.settings.model, beta=self.settings.beta, start=start, trl=trl)
        write_json(place / "made.json", told)
        return told

    def _distance(self, other: "PairModel") -> float:
        """||theta_val - theta|| over the parameters that count."""
        if [p.shape for p in other.params] != [p.shape for p in self.model.params]:
            raise DataError(f"theta_val has other parameters than {self.checkpoint}; train it from there")
        squares = [
            float((a.double() - b.double()).square().sum())
            for a, b in zip(other.params, self.model.params, strict=True)
        ]
        return float(np.sqrt(sum(squares)))


def _gap(frame: pl.DataFrame) -> Floats:
    """The reference's log-ratio gap, nats."""
    return np.asarray(frame[REFERENCE[0]].to_numpy() - frame[REFERENCE[1]].to_numpy(), np.float64)


def _compare(given_SI: Floats, own_SI: Floats, laid: "Laid") -> None:
    """The imported reference of the sample is the reference model's own."""
    off = np.nanmax(np.abs(given_SI - own_SI) / np.maximum(laid.n_tokens_SI, 1))
    if not off <= OFF:
        raise DataError(
            f"ref_chosen_logps and ref_rejected_logps are {off:.3g} nats per token away from what the reference says of the "
            "sample: another model, template or max_length made them, or they are means per token where sums are meant; "
            "make them again, or leave the columns out"
        )


def _accurate(tried: Sequence[Step]) -> bool:
    found = [each.agreement for each in tried]
    return any(map(accurate, found))


def _told(step: Step) -> dict[str, Any]:
    rho, off, n = step.agreement
    return {"step": step.step, "scheme": step.scheme, "spearman": number(rho), "max_relative": number(off), "n": n}


def _frame(
    pairs: pl.DataFrame,
    runs: Sequence[tuple[pl.DataFrame, Mapping[str, Any]]],
    gap_val_I: Floats | None,
    rate_K: Floats,
    *,
    beta: float,
) -> pl.DataFrame:
    last = runs[-1][0]
    ref_I = _gap(last)
    irm_I = beta * (last["gap"].to_numpy() - ref_I)
    val_I = np.full(pairs.height, np.nan) if gap_val_I is None else beta * (gap_val_I - ref_I)
    if gap_val_I is not None and not np.nanmax(np.abs(val_I - irm_I)) > 0:
        raise DataError("theta_val says what theta says: every LossDiff is 0; train it on the validation set first")
    made_I = weighted(np.stack([frame["influence"].to_numpy() for frame, _ in runs]), rate_K)
    return pairs.select(name for name in IDS if name in pairs.columns).with_columns(
        pl.Series("influence", made_I).fill_nan(None),
        pl.Series("irm", irm_I).fill_nan(None),
        pl.Series("loss", losses(irm_I)).fill_nan(None),
        pl.Series("loss_val", losses(val_I)).fill_nan(None),
        pl.Series("lossdiff", lossdiff(irm_I, val_I)).fill_nan(None),
        *(last[name] for name in ("n_tokens_chosen", "n_tokens_rejected", "truncated", "reason")),
    )


def _facts(frame: pl.DataFrame, about_val: Mapping[str, Any] | None) -> dict[str, Any]:
    scores = {name: frame[name].to_numpy().astype(np.float64) for name in ("influence", "irm", "lossdiff")}
    gap_I = (frame["n_tokens_chosen"] - frame["n_tokens_rejected"]).cast(pl.Float64).to_numpy()
    known = frame["influence"].is_not_null()
    pairs = (("lossdiff", "irm"), ("lossdiff", "influence"), ("irm", "influence"))
    return {
        "rows": frame.height,
        "scored": int(known.sum()),
        "reasons": dict(frame["reason"].drop_nulls().value_counts(sort=True).iter_rows()),
        "truncated": int(frame["truncated"].sum()),
        **{f"spearman_{a}_{b}": number(spearman(scores[a], scores[b])) for a, b in pairs},
        "spearman_with_length_gap": {name: number(spearman(values, gap_I)) for name, values in scores.items()},
        "warnings": warnings_of(scores, loss_val=None if about_val is None else tuple(about_val["validation_loss"])),
    }
