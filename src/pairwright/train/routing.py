"""Routing: the preference loss for clear pairs, SFT on the chosen side for ambiguous ones.

After MixDPO (Pang et al. 2026, arXiv 2602.00954), which trains easy pairs first (order "easy_first"); the cut by rank, the
policies, the controls and the default order, in which SFT pairs are spread over the training, are ours.

    ease       a margin, or another signal of known direction; large = easy
    objective  "dpo" or "sft", one per pair; the loss reads this column and never cuts again
    order      0 .. n-1, the place in training for a sequential sampler; the rows come back in this order

Pairs in = dpo + sft + dropped by reason.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
import polars as pl

from pairwright.core import segments
from pairwright.core.losses import sft
from pairwright.core.pair_terms import Array, PairTerms, namespace, need
from pairwright.core.segments import Bools, Floats, Ints, Keys
from pairwright.errors import ConfigError, DataError
from pairwright.tables import Split, drops

TieSide = Literal["easy", "hard"]
ROUTED = ("objective", "order", "stage", "difficulty", "swapped")  # the columns that `route` adds
ROUNDING = 1e-6  # how far a margin may stand from the difference of its scores, relative


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What makes a pair hard, and what becomes of rows that cannot be trusted.

    `margin` is the signed margin column (None: there is none); its sign says whether the scores agree with the label.
    `by` orders the pairs where the margin itself does not; `hard` says which end of it is hard ("high" for a loss).
    Missing: null, not finite, or a score outside scale_min .. scale_max (sentinels); "easy" trains them first, with
    the preference loss. Negative margins: "swap" trusts the score, "sft_best" makes them SFT on the better side, "keep"
    trusts the label. A swap leaves `by` as it is.
    """

    margin: str | None = "margin"
    by: str | None = None
    hard: Literal["low", "high"] = "low"
    missing: Literal["error", "easy", "drop"] = "error"
    negative: Literal["error", "swap", "drop", "sft_best", "keep"] = "error"
    scale_min: float | None = None
    scale_max: float | None = None

    def __post_init__(self) -> None:
        if self.margin is None and self.by is None:
            raise ConfigError("labels alone have no difficulty: name a margin, or another column with `by`")
        if self.by is None and self.hard == "high":
            raise ConfigError("a large margin is easy; hard = 'high' is for another column, named with `by`")


@dataclass(frozen=True, slots=True)
class Routing:
    """Which pairs are trained with SFT, and in which order.

    `hardest` takes a share by rank (0.1 unless share or tau says otherwise) or all below tau, in the column's own units.
    Pairs equal to the cut go to tie_side as one. `easiest` and `random` are controls: exactly as many pairs as
    `hardest` takes. `band` takes the rank shares low .. high, counted from the hardest. More than most_ties exact ties,
    or as much on the level of the cut, is refused.
    """

    to_sft: Literal["hardest", "easiest", "band", "random", "none", "all"] = "hardest"
    share: float | None = None
    tau: float | None = None
    band: tuple[float, float] | None = None
    tie_side: TieSide = "easy"
    most_ties: float = 0.5
    order: Literal["easy_first", "hard_first", "shuffled", "as_given"] = "shuffled"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.share is not None and self.tau is not None:
            raise ConfigError("share and tau are two ways to cut; give one of them")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ConfigError(f"share is a number from 0 to 1, not {self.share}")
        if self.tau is not None and self.tau != self.tau:
            raise ConfigError("tau is a number in the units of the margin, not nan")
        if (self.band is not None) != (self.to_sft == "band"):
            raise ConfigError("band = [low, high] belongs to to_sft = 'band', and only there")
        if self.band is not None and not 0 <= self.band[0] < self.band[1] <= 1:
            raise ConfigError(f"band is two rank shares, low below high, from 0 (hardest) to 1; not {self.band}")
        if not 0 <= self.most_ties <= 1:
            raise ConfigError(f"most_ties is a number from 0 to 1, not {self.most_ties}")


def route(pairs: pl.DataFrame, routing: Routing | None = None, difficulty: Difficulty | None = None) -> Split:
    """Adds objective, order, stage, difficulty (large = hard, null = unknown) and swapped; rows in training order.

    `pairs` needs prompt, chosen, rejected (message lists), prompt_id and the columns that `difficulty` names;
    tokens_chosen and tokens_rejected are used where they are there. `stage` is 0, 1 when each objective is one run of
    the order, else 0 throughout.
    """
    routing, difficulty = routing or Routing(), difficulty or Difficulty()
    _check(pairs, difficulty)
    rows, dropped = _set_aside(_read(pairs, difficulty), difficulty)
    known_I = rows["_ease"].is_not_null().to_numpy()
    ease_I = rows["_ease"].fill_null(np.inf).to_numpy()
    negative_I = rows["_negative"].to_numpy()
    forced_I = negative_I & (difficulty.negative == "sft_best")
    key_I = pair_keys(rows, routing.seed)
    tie_I = known_I & (rows[difficulty.margin] == 0).fill_null(False).to_numpy() if difficulty.margin else ~known_I
    _refuse_ties(ease_I[known_I], tie_I[known_I], routing)
    sft_I = to_sft(ease_I, key_I, routing, known_I=known_I, forced_I=forced_I, high=difficulty.hard == "high")
    swap_I = negative_I & (difficulty.negative in ("swap", "sft_best"))
    rows = exchange(rows.drop("_negative"), swap_I, margins=[difficulty.margin] if difficulty.margin else [])
    place_I = training_order(ease_I, key_I, routing)
    kept = rows.with_columns(
        objective=pl.Series(np.where(sft_I, "sft", "dpo"), dtype=pl.String),
        difficulty=0.0 - pl.col("_ease"),
        swapped=pl.Series(swap_I, dtype=pl.Boolean),
    ).drop("_ease")[place_I]
    staged = stages(sft_I[place_I])
    columns = [name for name in pairs.columns if name in kept.columns]
    kept = kept.with_columns(order=pl.int_range(pl.len()), stage=pl.Series(staged, dtype=pl.Int32))
    return Split(kept.select(*columns, *ROUTED), dropped)


def to_sft(
    ease_I: Floats, key_I: Keys, routing: Routing, *, known_I: Bools, forced_I: Bools, high: bool = False
) -> Bools:
    """The pairs that are trained with SFT. Unknown ones never are, unless all are; forced ones always.

    The controls draw as many pairs as `hardest` takes beyond the forced ones, from the rest of the known ones.
    """
    match routing.to_sft:
        case "none":
            return np.array(forced_I, bool)
        case "all":
            return np.ones(len(ease_I), bool)
        case "hardest":
            return forced_I | _hardest(ease_I, known_I, routing, high=high)
        case "band":
            low, top = routing.band or (0.0, 1.0)
            taken_I = np.zeros(len(ease_I), bool)
            inner_I = cut_by_rank(ease_I[known_I], low, tie_side=routing.tie_side)
            taken_I[known_I] = cut_by_rank(ease_I[known_I], top, tie_side=routing.tie_side) & ~inner_I
            return forced_I | taken_I
        case "easiest" | "random":
            free = np.flatnonzero(known_I & ~forced_I)
            count = int((_hardest(ease_I, known_I, routing, high=high) & ~forced_I).sum())
            first = (-ease_I[free],) if routing.to_sft == "easiest" else ()
            control_I = forced_I.copy()
            control_I[free[np.lexsort((key_I[free], *first))[:count]]] = True
            return control_I
        case _:
            assert_never(routing.to_sft)


def _hardest(ease_I: Floats, known_I: Bools, routing: Routing, *, high: bool) -> Bools:
    hard_I = np.zeros(len(ease_I), bool)
    if routing.tau is not None:
        hard_I[known_I] = cut_at(ease_I[known_I], -routing.tau if high else routing.tau, tie_side=routing.tie_side)
    else:
        share = 0.1 if routing.share is None else routing.share
        hard_I[known_I] = cut_by_rank(ease_I[known_I], share, tie_side=routing.tie_side)
    return hard_I


def cut_at(ease_I: Floats, tau: float, *, tie_side: TieSide = "easy") -> Bools:
    """ease < tau; ease <= tau with tie_side "hard". The two differ exactly by the pairs equal to tau."""
    return np.asarray(ease_I <= tau if tie_side == "hard" else ease_I < tau)


def cut_by_rank(ease_I: Floats, share: float, *, tie_side: TieSide = "easy") -> Bools:
    """The hardest k = round(share * n) pairs; a level that straddles the cut goes to tie_side as a whole."""
    n = len(ease_I)
    k = _rank(share, n)
    if k in (0, n):
        return np.full(n, k > 0)
    below, above = np.partition(ease_I, (k - 1, k))[k - 1 : k + 1]
    return np.asarray(ease_I <= below if tie_side == "hard" else ease_I < above)


def _rank(share: float, n: int) -> int:
    return int(np.floor(share * n + 0.5))


def training_order(ease_I: Floats, key_I: Keys, routing: Routing) -> Ints:
    """The rows in training order; the seeded key decides between pairs of equal ease, and nothing else."""
    match routing.order:
        case "easy_first":
            return np.lexsort((key_I, -ease_I))
        case "hard_first":
            return np.lexsort((key_I, ease_I))
        case "shuffled":
            return np.argsort(key_I, kind="stable")
        case "as_given":
            return np.arange(len(ease_I))
        case _:
            assert_never(routing.order)


def stages(sft_I: Bools) -> Ints:
    """0 before the one change of objective and 1 after it; all 0 when the objectives alternate."""
    change = np.flatnonzero(sft_I[1:] != sft_I[:-1]) + 1
    return (np.arange(len(sft_I)) >= change[0]).astype(np.int64) if len(change) == 1 else np.zeros(len(sft_I), np.int64)


def exchange(pairs: pl.DataFrame, swap_I: Bools, *, margins: Sequence[str] = ()) -> pl.DataFrame:
    """Chosen and rejected exchanged where `swap_I`; twice is the identity.

    Every column named after one side trades with its namesake of the other, signed margins (margin, *_margin, *.margin
    and `margins`) change sign, p_chosen becomes 1 - p_chosen, the keys of `meta` are renamed. Raises DataError for a
    column of one side alone: it would describe the wrong response.
    """
    if not swap_I.any():
        return pairs
    here = pl.col("_swap")
    changed: dict[str, pl.Expr] = {}
    for name in pairs.columns:
        other = _other(name)
        if name == "p_chosen":
            changed[name] = pl.when(here).then(1 - pl.col(name)).otherwise(pl.col(name))
        elif other != name and other not in pairs.columns:
            raise DataError(f"column {name} is of one side alone and cannot be exchanged; add {other} or take it out")
        elif other != name:
            changed[name] = pl.when(here).then(pl.col(other)).otherwise(pl.col(name))
        elif name == "margin" or name.endswith(("_margin", ".margin")) or name in margins:
            changed[name] = pl.when(here).then(-pl.col(name)).otherwise(pl.col(name))
    out = pairs.with_columns(_swap=pl.Series(swap_I)).with_columns(**changed).drop("_swap")
    return out.with_columns(meta=_renamed(out["meta"], swap_I)) if "meta" in out.columns else out


def _other(name: str) -> str:
    return "chosen".join(part.replace("chosen", "rejected") for part in name.split("rejected"))


def _renamed(meta: pl.Series, swap_I: Bools) -> pl.Series:
    texts = meta.to_list()
    for row in np.flatnonzero(swap_I):
        if isinstance(texts[row], str):
            facts = {_other(key): value for key, value in json.loads(texts[row]).items()}
            texts[row] = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    return pl.Series("meta", texts, meta.dtype)


def pair_keys(pairs: pl.DataFrame, seed: int) -> Keys:
    """A seeded number per pair that depends on its prompt_id and its place within the prompt: not on other rows."""
    if not pairs.height:
        return np.zeros(0, np.uint64)
    within = pairs.select(pl.int_range(pl.len()).over("prompt_id")).to_series()
    ids = [f"{name}:{k}".encode() for name, k in zip(pairs["prompt_id"].cast(pl.String), within, strict=True)]
    return segments.mix(
        segments.text_keys(np.array(ids, np.bytes_)) ^ segments.mix(np.array([seed % 2**64], np.uint64))
    )


def _check(pairs: pl.DataFrame, difficulty: Difficulty) -> None:
    wanted = ["prompt", "chosen", "rejected", "prompt_id", difficulty.margin, difficulty.by]
    lacks = [name for name in wanted if name is not None and name not in pairs.columns]
    if lacks:
        raise DataError(
            f"the pairs lack {', '.join(lacks)}; routing needs a number per pair: compute a margin from scores first, "
            "or name another column with `margin` or `by`"
        )
    if again := [name for name in ROUTED if name in pairs.columns]:
        raise DataError(f"the pairs have {', '.join(again)} already; route the pairs as they were before routing")
    for name in (difficulty.margin, difficulty.by):
        if name is not None and not (pairs.schema[name].is_numeric() or pairs.schema[name] == pl.Null):
            raise DataError(f"column {name} is {pairs.schema[name]}, not a number")


def _read(pairs: pl.DataFrame, difficulty: Difficulty) -> pl.DataFrame:
    """The pairs with _ease (null = missing) and _negative. Scores outside the scale count as missing."""
    names = [name for name in (difficulty.margin, difficulty.by) if name is not None]
    bad = [~_finite(name) for name in names]
    scored = difficulty.margin == "margin" and {"score_chosen", "score_rejected"} <= set(pairs.columns)
    if scored:
        low = -np.inf if difficulty.scale_min is None else difficulty.scale_min
        high = np.inf if difficulty.scale_max is None else difficulty.scale_max
        for name in ("score_chosen", "score_rejected"):
            bad += [~_finite(name), ~pl.col(name).is_between(low, high)]
    missing = pl.any_horizontal(bad).fill_null(True)
    value = pl.col(names[-1]).cast(pl.Float64)
    negative = pl.lit(False) if difficulty.margin is None else pl.col(difficulty.margin) < 0
    rows = pairs.with_columns(_missing=missing)
    if scored:
        _refuse_other_margins(rows)
    signed = value if difficulty.hard == "low" else -value
    if difficulty.by is None and difficulty.negative == "swap":
        signed = signed.abs()  # the margin that the pair has after the swap
    return rows.with_columns(
        _ease=pl.when("_missing").then(None).otherwise(signed + 0.0), _negative=negative.fill_null(False) & ~missing
    )


def _finite(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64).is_finite().fill_null(False)


def _refuse_other_margins(rows: pl.DataFrame) -> None:
    """An absolute difference, or the margin of another scorer under this name, would hide every conflict."""
    known = rows.with_row_index("_row").filter(~pl.col("_missing"))
    gap = pl.col("score_chosen") - pl.col("score_rejected")
    off = known.filter((pl.col("margin") - gap).abs() > ROUNDING * pl.max_horizontal(gap.abs(), pl.lit(1.0)))
    if off.height:
        first = off.row(0, named=True)
        raise DataError(
            f"row {first['_row']} (prompt {first['prompt_id']}): margin {first['margin']} is not score_chosen - "
            f"score_rejected = {first['score_chosen'] - first['score_rejected']}; it must be signed. Give the margin of "
            "another scorer a name of its own"
        )


def _set_aside(rows: pl.DataFrame, difficulty: Difficulty) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows that are routed, and the others as a `dropped` table. Raises where the policy is "error"."""
    for policy, column, said in (
        (difficulty.missing, "_missing", "no usable difficulty; pass missing = easy or drop"),
        (difficulty.negative, "_negative", "a negative margin; pass negative = swap, drop, sft_best or keep"),
    ):
        hit = rows.with_row_index("_row").filter(column)
        if policy == "error" and hit.height:
            row, name = hit.select("_row", "prompt_id").row(0)
            raise DataError(f"{hit.height} of {rows.height} pairs, first row {row} (prompt {name}), have {said}")
    tests = [(_empty(rows), "empty_side")]
    tests += [(pl.col("_missing"), "missing")] * (difficulty.missing == "drop")
    tests += [(pl.col("_negative"), "negative_margin")] * (difficulty.negative == "drop")
    reason = pl.coalesce(pl.when(test).then(pl.lit(name)) for test, name in tests)
    rows = rows.with_columns(_reason=reason)
    out = rows.filter(pl.col("_reason").is_not_null())
    return rows.filter(pl.col("_reason").is_null()).drop("_reason", "_missing"), drops("route", out, pl.col("_reason"))


def _empty(rows: pl.DataFrame) -> pl.Expr:
    """No text on a side, or no token of it left after truncation."""
    told = [said(side).str.strip_chars() == "" for side in ("chosen", "rejected")]
    told += [pl.col(name) <= 0 for name in ("tokens_chosen", "tokens_rejected") if name in rows.columns]
    return pl.any_horizontal(told).fill_null(True)


def said(side: str) -> pl.Expr:
    """The text of a side: the contents of its messages, joined."""
    return pl.col(side).list.eval(pl.element().struct.field("content")).list.join("\n")


def _refuse_ties(ease_I: Floats, tie_I: Bools, routing: Routing) -> None:
    """Where most pairs are tied, or have the same ease, a cut by difficulty has no meaning."""
    n = len(ease_I)
    if routing.to_sft in ("none", "all") or n < 2:
        return
    if (ease_I == ease_I[0]).all():
        raise DataError(f"all {n} pairs are equally hard ({ease_I[0]:g}): these are labels, not margins; add a score")
    if tie_I.mean() > routing.most_ties:
        raise DataError(
            f"{tie_I.mean():.0%} of the margins are ties (most_ties {routing.most_ties:.0%}); score them finer"
        )
    if routing.tau is not None:
        return
    for share in routing.band or [0.1 if routing.share is None else routing.share]:
        level = level_at(ease_I, share)
        if level > routing.most_ties:
            raise DataError(
                f"{level:.0%} of the pairs stand on the level of the cut (most_ties {routing.most_ties:.0%}); cut with "
                "tau, or score them finer"
            )


def level_at(ease_I: Floats, share: float) -> float:
    """Share of the pairs on the level that straddles the cut by rank; 0 where the cut falls between two levels."""
    k = _rank(share, len(ease_I))
    if k in (0, len(ease_I)):
        return 0.0
    below, above = np.partition(ease_I, (k - 1, k))[k - 1 : k + 1]
    return float((ease_I == below).mean()) if below == above else 0.0


def record(split: Split) -> dict[str, object]:
    """What came of every pair, JSON-ready: rows in = dpo + sft + dropped; ties, negative margins, lengths per route.

    Lengths are in tokens where tokens_chosen and tokens_rejected are there, else in characters. A route without a pair
    has null lengths.
    """
    kept, dropped = split
    by_token = {"tokens_chosen", "tokens_rejected"} <= set(kept.columns)
    routes = {}
    for name in ("dpo", "sft"):
        rows = kept.filter(pl.col("objective") == name)
        sides = [
            pl.col(f"tokens_{side}") if by_token else said(side).str.len_chars() for side in ("chosen", "rejected")
        ]
        chosen, rejected = rows.select(sides[0].mean().alias("chosen"), sides[1].mean().alias("rejected")).row(0)
        gap = None if chosen is None or rejected is None else chosen - rejected
        routes[name] = {"pairs": rows.height, "chosen": chosen, "rejected": rejected, "length_gap": gap}
    margin = kept["margin"].drop_nulls() if "margin" in kept.columns else pl.Series([], dtype=pl.Float64)
    return {
        "in": kept.height + dropped.height,
        "dpo": (kept["objective"] == "dpo").sum(),
        "sft": (kept["objective"] == "sft").sum(),
        "dropped": dict(dropped["reason"].value_counts().sort("reason").iter_rows()),
        "sft_share": (kept["objective"] == "sft").mean(),
        "unknown": kept["difficulty"].null_count(),
        "exact_ties": (margin == 0).sum(),
        "negative_kept": (margin < 0).sum(),
        "swapped": kept["swapped"].sum(),
        "length_unit": "tokens" if by_token else "characters",
        "routes": routes,
    }


def require_routed(columns: Mapping[str, Sequence[object]], counts: Mapping[str, object]) -> Bools:
    """SFT or not per row, at the door of the trainer: fails when routing was lost, shuffled or re-cut on the way.

    `columns` holds what is left of the routed rows, `counts` their `record`.
    """
    lacks = [name for name in ("objective", "order") if name not in columns]
    if lacks:
        raise ConfigError(
            f"the training rows lack {', '.join(lacks)}: a trainer with remove_unused_columns drops columns that it does "
            "not know; without them every pair would be trained with the preference loss"
        )
    objective = list(columns["objective"])
    for row, value in enumerate(objective):
        if value not in ("dpo", "sft"):
            raise DataError(f"row {row}: objective is {value!r}, not 'dpo' or 'sft'")
    for row, place in enumerate(columns["order"]):
        if place != row:
            raise DataError(f"row {row}: order is {place!r}; the rows were shuffled or cut, train on them as routed")
    sft_I = np.array([value == "sft" for value in objective], bool)
    seen = {"dpo": int((~sft_I).sum()), "sft": int(sft_I.sum())}
    if told := [f"{name} {seen[name]} of {counts[name]}" for name in seen if seen[name] != counts[name]]:
        raise DataError(f"the training rows are not those that were routed: {', '.join(told)}")
    return sft_I


def mixed_loss(
    t: PairTerms, sft_I: Array, *, preference: Callable[[PairTerms], Array], sft_weight: float = 1.0
) -> Array:
    """One value per pair: sft_weight * sft where `sft_I`, else `preference`; the batch loss is the mean over all pairs.

    Each pair is seen by its own loss alone: what only the other loss reads may be nan, and gets no gradient.
    """
    dpo_I = ~sft_I
    hard, easy = (PairTerms(*(None if x is None else x[mask] for x in t)) for mask in (sft_I, dpo_I))
    easy_loss = preference(easy)
    out = namespace(easy_loss).zeros_like(need(t, "chosen_logps"))
    out[dpo_I] = easy_loss
    out[sft_I] = sft_weight * sft(hard)
    return out


def check_batch(order_I: Ints, *, step: int, batch: int, n: int) -> None:
    """The pairs of one optimizer step, over all ranks and accumulated parts, must be the step's stretch of the order.

    A sampler that gives each rank a stretch of its own sorts the ranks and not the steps.
    """
    wanted = np.arange(step * batch, min((step + 1) * batch, n))
    if not np.array_equal(np.sort(order_I), wanted):
        raise DataError(
            f"step {step} trains pairs {order_I.min()} .. {order_I.max()} of the order, not {step * batch} .. "
            f"{wanted[-1] if len(wanted) else n}; use a sequential sampler, and continue where the last run stopped"
        )


def check_control(run: Mapping[str, object], control: Mapping[str, object], *, may_differ: Sequence[str]) -> None:
    """Refuses to call a run the control of another unless all settings outside `may_differ` are the same."""
    names = sorted({*run, *control} - {*may_differ})
    absent = "not set"
    if told := [
        f"{name} {run.get(name, absent)!r} against {control.get(name, absent)!r}"
        for name in names
        if run.get(name, absent) != control.get(name, absent)
    ]:
        raise ConfigError(f"not a control: {'; '.join(told)}. Only {', '.join(may_differ)} may differ")
