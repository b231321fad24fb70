"""Rules by name: one number per pair, larger is kept first.

A rule reads columns and says no more than it knows: pairs that it cannot rank have nan, pairs that its own threshold
sets aside stand in `out_I` with a reason. Caps, bands and the budget are those of `rank`.

    margins        external, implicit and further margins fused          lowest, lowest_gap, random
    selective      easiest by cross-fitted loss (Selective DPO)           irm_large, irm_small, irm_extremes
    rs_dpo         large reward gaps, capped per prompt                   tif, lossdiff_irm: bands
    fdpo           chosen beats what the policy writes now                wpo, ensemble, perpcorrect
    length_matched, length_balanced                                       controls against length
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.special

from pairwright.core import flips
from pairwright.core import margins as core
from pairwright.core.segments import Bools, Floats, Ints, Keys
from pairwright.errors import ConfigError, DataError, NotConverged, NotIdentifiable
from pairwright.select.margins import Fused, column_of, fuse, modelled, stem
from pairwright.select.pool import SIDES, Pool
from pairwright.select.settings import Selection

Band = tuple[float, float]
MIDDLE: Band = (0.1, 0.9)
CAP = 3  # pairs of one prompt, for rs_dpo


class Scored(NamedTuple):
    """What a rule makes of the pool. `last_I` stands after everything else; `bands` are asked of `rank`.

    A rule whose `score_I` is None is ranked by how near a pair is to the middle of its bands.
    """

    score_I: Floats | None
    missing: dict[str, Floats] = {}  # noqa: RUF012  (never written to) columns that had to be there, for the reasons
    tie_I: Floats | None = None
    last_I: Bools | None = None
    out_I: Bools | None = None
    why_out: str = ""
    bands: dict[str, Band] = {}  # noqa: RUF012
    per_prompt: int | None = None
    numbers: dict[str, Floats | Bools] = {}  # noqa: RUF012  columns that the table gets
    facts: dict[str, Any] = {}  # noqa: RUF012
    warnings: tuple[str, ...] = ()


class Rule(NamedTuple):
    """`keep` is the share that its source keeps; `reads` the columns of its own, or the sources of the settings that it
    ranks by; `options` what it reads of `Options`.
    """

    score: Callable[[Pool, Selection, Bools], Scored]
    about: str
    keep: float
    reads: tuple[str, ...] | Literal["first", "all"] = ()
    options: tuple[str, ...] = ()


def columns_read(pool: Pool, settings: Selection) -> set[str]:
    """The columns that have a say in a selection: those of the rule and of the bands."""
    rule, bands = rule_of(settings.rule), set(settings.limited.bands)
    if settings.tuned.column and "column" in rule.options:
        return bands | {settings.tuned.column}
    if settings.rule == "ensemble":
        return bands | set(_members(pool, settings))
    if settings.rule == "fdpo":
        return bands | {"score_chosen", *_rounds(pool)}
    if isinstance(rule.reads, tuple):
        return bands | set(rule.reads)
    return bands | {column_of(pool, name) for name in settings.margins[: 1 if rule.reads == "first" else None]}


def model_based(pool: Pool, settings: Selection) -> bool:
    """Whether pairs that a model was trained on look better to this selection than they are."""
    return any(map(modelled, columns_read(pool, settings)))


def refuse_unread(pool: Pool, settings: Selection, *, all_rules: bool) -> None:
    """ConfigError for settings that would do nothing, and for an id that is taken for a number."""
    rule = rule_of(settings.rule)
    read = {name for each in RULES.values() for name in each.options} if all_rules else set(rule.options)
    if idle := [name for name in settings.options if name not in read]:
        readers = [name for name, each in RULES.items() if idle[0] in each.options]
        raise ConfigError(
            f"options.{idle[0]} does nothing with rule {settings.rule}; it belongs to {', '.join(readers)}"
        )
    ids = columns_read(pool, settings) | {column_of(pool, name) for name in settings.margins}
    if wrong := sorted(ids & {*pool.ids, "prompt_id", "pair_id", *SIDES}):
        raise ConfigError(f"{wrong[0]} is an id and says nothing about a pair; name a column of numbers")


def margins(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    fused: Fused = fuse(pool, settings, usable_I)
    numbers: dict[str, Floats | Bools] = {f"p_{name}": score_I for name, score_I in fused.scores.items()}
    if len(settings.margins) > 1:
        numbers |= {"conflict": fused.conflict_I, "near_conflict": fused.near_I}
    facts = {"sources": fused.facts, "combine": settings.combine, "conflicts": int(fused.conflict_I.sum())}
    last = settings.combine == "bayes" and settings.scored.conflict == "last"  # only the product rule is 0/0 there
    last_I = fused.conflict_I if last else None
    return Scored(
        fused.score_I, fused.raw, fused.tie_I, last_I, numbers=numbers, facts=facts, warnings=tuple(fused.warnings)
    )


def _one(pool: Pool, settings: Selection, column: str) -> tuple[str, Floats]:
    """The column that a rule ranks by: its own, or the one that `options.column` names."""
    name = settings.tuned.column or column
    return name, pool.number(name)


def _margin(pool: Pool, settings: Selection) -> tuple[str, Floats]:
    return _one(pool, settings, column_of(pool, settings.margins[0]))


def random(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """A number drawn per pair from (seed, ids)."""
    keys_I = pool.keys(settings.seed) >> np.uint64(11)  # 53 bits: exact as floats
    return Scored(keys_I.astype(np.float64) / 2.0**53)


def lowest(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """The smallest margins of the first source: what a selection by large margins leaves (BOT)."""
    name, margin_I = _margin(pool, settings)
    return Scored(-margin_I, {name: margin_I})


def lowest_gap(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """The smallest |margin| of the first source, as Qi et al. 2025 keep of the implicit one."""
    name, margin_I = _margin(pool, settings)
    return Scored(-np.abs(margin_I), {name: margin_I})


def irm_large(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    name, irm_I = _one(pool, settings, "irm")
    return Scored(irm_I, {name: irm_I})


def irm_small(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    name, irm_I = _one(pool, settings, "irm")
    return Scored(-np.abs(irm_I), {name: irm_I})


def irm_extremes(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Both ends of the implicit reward margin: the rank farthest from the middle."""
    name, irm_I = _one(pool, settings, "irm")
    return Scored(np.abs(core.midrank_share(np.where(usable_I, irm_I, np.nan)) - 0.5), {name: irm_I})


def selective(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Easy pairs first: low loss under models that did not train on them (Gao et al. 2025).

    Column loss_cross; `loss` beside `scored_by`, as cross-fitting writes it; else loss_val, which is taken on trust.
    """
    crossed = "loss" if "scored_by" in pool.frame.columns and not pool.has("loss_cross") else "loss_cross"
    name, loss_I = _one(pool, settings, crossed if pool.has(crossed) else "loss_val")
    told = "loss_val is taken for a loss under models that did not train on the pair; that of an influence run is none"
    return Scored(-loss_I, {name: loss_I}, warnings=(told,) if name == "loss_val" else ())


def tif(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """The middle of the influence, both ends cut off (Zhang et al. 2025)."""
    name, influence_I = _one(pool, settings, "influence")
    _refuse_flat(influence_I, name, "the influence is the same for all pairs, so that it has no middle")
    return Scored(None, {name: influence_I}, bands={name: MIDDLE})


def lossdiff_irm(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """The middle of LossDiff and of the implicit reward margin (Zhang et al. 2025)."""
    held = {name: pool.number(name) for name in ("lossdiff", "irm")}
    _refuse_flat(held["irm"], "irm", "the model is its own reference; train it on the pairs first (warm-up)")
    _refuse_flat(held["lossdiff"], "lossdiff", "the validation model is the model itself; train it on validation pairs")
    some = _sample(pool, settings)
    rho = core.spearman(held["lossdiff"][some], held["irm"][some])
    told = f"Spearman(lossdiff, irm) = {rho:.2f}, below -0.5: the validation model probably started at the reference, and then "
    warned = (
        (f"{told}LossDiff is nearly minus IRM and adds nothing; start it at the current model",) if rho < -0.5 else ()
    )
    facts = {"spearman_lossdiff_irm": rho}
    return Scored(None, held, bands=dict.fromkeys(held, MIDDLE), facts=facts, warnings=warned)


def _refuse_flat(value_I: Floats, name: str, why: str) -> None:
    known_I = value_I[~np.isnan(value_I)]
    if not len(known_I):
        raise DataError(f"column {name} has no number in any row; nothing can be ranked by it")
    if known_I.min() == known_I.max():
        raise NotIdentifiable(f"{name} is {known_I[0]:g} in every pair: {why}")


def _sample(pool: Pool, settings: Selection, most: int = 200_000) -> Any:
    """Rows that stand for all in a rank correlation: every row, or those with the smallest seeded numbers."""
    if pool.n <= most:
        return slice(None)
    return np.flatnonzero(pool.keys(settings.seed) < np.uint64(int(2**64 * (most / pool.n))))


def rs_dpo(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Pairs with sigmoid((r_i - r_j) / tau) > eta, largest gap first, at most 3 of a prompt (Khaki et al. 2024)."""
    name, gap_I = _margin(pool, settings)
    least = settings.tuned.tau * float(scipy.special.logit(settings.tuned.eta))
    facts: dict[str, Any] = {"least_gap": least}
    out_I = ~(gap_I > least) & ~np.isnan(gap_I)
    if "prompt_id" in pool.frame.columns:
        prompt_I = pool.codes("prompt_id")
        of_prompt, having = len(np.unique(prompt_I)), len(np.unique(prompt_I[gap_I > least]))
        facts |= {"prompts": of_prompt, "prompts_without_a_pair": of_prompt - having}
    cap = CAP if "prompt_id" in pool.frame.columns else None
    return Scored(gap_I, {name: gap_I}, out_I=out_I, why_out="gap_too_small", per_prompt=cap, facts=facts)


def fdpo(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """A pair lives while no fresh answer of the policy scores threshold above its chosen one (Morimura et al. 2024).

    Columns reward_fresh, reward_fresh_2, ... are rounds: what died in one stays dead.
    """
    rounds = _rounds(pool)
    if not rounds:
        pool.number("reward_fresh")  # says what is missing
    chosen_I = pool.number("score_chosen")
    held = {"score_chosen": chosen_I, **{name: pool.number(name) for name in rounds}}
    over_I = np.full(pool.n, -np.inf)
    alive = []
    for name in rounds:
        over_I = np.maximum(over_I, held[name] - chosen_I)  # nan stays
        alive.append(int((over_I < settings.tuned.threshold).sum()))
    known = int((~np.isnan(over_I)).sum())
    warned: tuple[str, ...] = ()
    if known and alive[-1] < 0.1 * known:
        warned = (
            f"{alive[-1]} of {known} pairs survive, below 10 %: stop here, the policy has outgrown these answers",
        )
    out_I = over_I >= settings.tuned.threshold
    facts = {"rounds": dict(zip(rounds, alive, strict=True)), "of": known}
    return Scored(-over_I, held, out_I=out_I, why_out="policy_is_better", facts=facts, warnings=warned)


def _rounds(pool: Pool) -> list[str]:
    return [name for name in pool.frame.columns if name == "reward_fresh" or name.startswith("reward_fresh_")]


def wpo(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """The pairs that the policy itself would write: weight clamped at 1, as the authors' code has it (Zhou et al. 2024)."""
    name, weight_I = _one(pool, settings, "wpo_weight")
    if (weight_I < 0).any():
        raise DataError(
            f"column {name} is below 0 in row {int(np.argmax(weight_I < 0))}; a weight is exp of a mean, above 0"
        )
    clamped_I = np.minimum(weight_I, 1.0)
    facts = {"clamped": int((weight_I > 1).sum()), "effective_pairs": _effective(clamped_I)}
    return Scored(clamped_I, {name: weight_I}, weight_I, numbers={"weight": clamped_I}, facts=facts)


def _effective(weight_I: Floats) -> float | None:
    """(sum w)^2 / sum w^2: the number of equal weights that would vary as little."""
    known_I = weight_I[~np.isnan(weight_I)]
    square = float(known_I @ known_I)
    return float(known_I.sum() ** 2 / square) if square > 0 else None


def perpcorrect(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Pairs whose label a surrogate finds likelier flipped than not are set aside (Kong et al. 2024)."""
    if not settings.tuned.warm_up:
        raise NotIdentifiable(
            "perpcorrect needs a surrogate that was aligned on labels known to be clean; without one perplexity reads "
            "length and style. Say options.warm_up = true if yours was"
        )
    name, diff_I = _one(pool, settings, "ppl_diff")
    rows = _sample(pool, settings)
    some_I = diff_I[rows]
    facts: dict[str, Any] = {}
    lengths = pool.lengths()
    if lengths is not None:
        facts["spearman_length_gap"] = core.spearman(some_I, lengths.gap_I[rows])
    try:
        fit = flips.fit_mirrored(some_I[~np.isnan(some_I) & usable_I[rows]])
        facts |= {"right": fit.a, "mu": fit.mu, "s": fit.s, "separation": fit.separation}
        why = flips.why_not_separable(fit)
    except NotConverged as error:
        why = f"not separable: {error}; nothing is flagged"
    if why:
        return Scored(-diff_I, {name: diff_I}, facts={**facts, "flagged": 0, "why": why}, warnings=(why,))
    cut = flips.bayes_cut(fit)
    out_I = diff_I > cut
    facts |= {"cut": cut, "flagged": int(out_I.sum())}
    return Scored(-diff_I, {name: diff_I}, out_I=out_I, why_out="label_suspect", facts=facts)


def ensemble(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Mean margin less lam times the disagreement of the members, each scaled to sd 1; lam = inf: the worst member."""
    names = _members(pool, settings)
    if len(names) < 2 or len({stem(name) for name in names}) < len(names):
        raise NotIdentifiable(
            f"an ensemble of {len({stem(name) for name in names})}: one model has no disagreement with itself. Give margins "
            "of two raters or more (columns margin_NAME)"
        )
    held = {name: pool.number(name) for name in names}
    stacked_KI = np.stack([np.where(usable_I, margin_I, np.nan) for margin_I in held.values()])
    mean_I, sd_I, k_I = core.ensemble(stacked_KI)
    scaled_KI = stacked_KI / np.array([row[~np.isnan(row)].std() for row in stacked_KI])[:, None]
    if np.isinf(settings.tuned.lam):
        score_I = np.where(k_I > 1, np.fmin.reduce(scaled_KI), np.nan)
    else:
        score_I = mean_I - settings.tuned.lam * sd_I
    flip_I = np.nansum(scipy.special.expit(-scaled_KI), axis=0) / np.where(k_I > 0, k_I, np.nan)
    numbers: dict[str, Floats | Bools] = {"ensemble_mean": mean_I, "ensemble_sd": sd_I, "ensemble_flip": flip_I}
    facts = {"members": names, "pairs_with_one_member": int((k_I == 1).sum())}
    correlated = "members trained from one base share errors, so that their sd understates"
    return Scored(score_I, {"ensemble_sd": sd_I}, mean_I, numbers=numbers, facts={**facts, "caution": correlated})


def _members(pool: Pool, settings: Selection) -> list[str]:
    """Columns of the ensemble: the sources that are named, else all margins of raters; no trained model's is one."""
    if settings.margins != ["external"]:
        return [column_of(pool, name) for name in settings.margins]
    numeric = [name for name, kind in pool.frame.schema.items() if kind.is_numeric()]
    return ["margin"] * pool.has("margin") + [
        name for name in numeric if name.startswith("margin_") and not modelled(name)
    ]


def length_matched(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """Only pairs of about equal length; among them the largest margins of the first source."""
    lengths = _lengths(pool, "length_matched")
    name, margin_I = _margin(pool, settings)
    longest_I = np.maximum(np.maximum(lengths.chosen_I, lengths.rejected_I), 1)
    out_I = np.abs(lengths.gap_I) / longest_I > settings.tuned.match
    held = {name: margin_I, "length": lengths.gap_I}
    return Scored(np.where(np.isnan(lengths.gap_I), np.nan, margin_I), held, out_I=out_I, why_out="lengths_differ")


def length_balanced(pool: Pool, settings: Selection, usable_I: Bools) -> Scored:
    """In every bin of the margin as many pairs with the chosen side longer as with the rejected side; the rest at random."""
    lengths = _lengths(pool, "length_balanced")
    name, margin_I = _margin(pool, settings)
    able_I = usable_I & ~np.isnan(margin_I) & ~np.isnan(lengths.gap_I)
    share_I = core.midrank_share(np.where(able_I, margin_I, np.nan))
    bins = settings.tuned.bins
    bin_I = np.minimum((np.nan_to_num(share_I) * bins).astype(np.int64), bins - 1)
    key_I = pool.keys(settings.seed)
    out_I, place_I = np.zeros(pool.n, bool), np.full(pool.n, np.nan)
    told = []
    for at in range(bins):
        mine_I = able_I & (bin_I == at)
        longer, shorter, equal = (_drawn(mine_I & hit_I, key_I) for hit_I in _sides(lengths.gap_I))
        most = min(len(longer), len(shorter))
        out_I[longer[most:]] = out_I[shorter[most:]] = True
        for rows in (longer, shorter, equal):  # the same share of each side before every cut
            place_I[rows] = (np.arange(len(rows)) + 0.5) / max(1, most if rows is not equal else len(rows))
        unequal = len(longer) + len(shorter)
        told.append(
            {
                "bin": at,
                "pairs": int(mine_I.sum()),
                "lost": unequal - 2 * most,
                "longer_before": len(longer) / unequal if unequal else None,
                "longer_after": 0.5 if most else None,
            }
        )
    held = {name: margin_I, "length": lengths.gap_I}
    return Scored(-place_I, held, out_I=out_I, why_out="length_balance", facts={"bins": told})


def _sides(gap_I: Floats) -> tuple[Bools, Bools, Bools]:
    return gap_I > 0, gap_I < 0, gap_I == 0


def _drawn(hit_I: Bools, key_I: Keys) -> Ints:
    """Rows in the order of their seeded numbers."""
    rows = np.flatnonzero(hit_I)
    drawn: Ints = rows[np.argsort(key_I[rows])]
    return drawn


def _lengths(pool: Pool, rule: str) -> Any:
    lengths = pool.lengths()
    if lengths is None:
        raise DataError(f"{rule} needs the lengths of both sides: n_tokens_chosen and n_tokens_rejected, or the texts")
    return lengths


COLUMN = ("column",)
RULES = {
    "margins": Rule(margins, "margins fused, the largest first (Deng et al. 2025)", 0.1, "all"),
    "selective": Rule(
        selective, "lowest cross-fitted loss first (Selective DPO)", 0.5, ("loss_cross", "loss", "loss_val"), COLUMN
    ),
    "tif": Rule(tif, "the middle of the influence (TIF)", 1.0, ("influence",), COLUMN),
    "lossdiff_irm": Rule(lossdiff_irm, "the middle of LossDiff and of IRM", 1.0, ("lossdiff", "irm")),
    "irm_large": Rule(irm_large, "largest implicit reward margin under the current model", 0.1, ("irm",), COLUMN),
    "irm_small": Rule(irm_small, "implicit reward margin nearest to 0", 0.1, ("irm",), COLUMN),
    "irm_extremes": Rule(irm_extremes, "both ends of the implicit reward margin", 0.1, ("irm",), COLUMN),
    "lowest_gap": Rule(lowest_gap, "smallest |margin| of the first source", 0.1, "first", COLUMN),
    "lowest": Rule(lowest, "smallest margin of the first source", 0.1, "first", COLUMN),
    "rs_dpo": Rule(
        rs_dpo, "reward gap above a threshold, capped per prompt (RS-DPO)", 1.0, "first", ("column", "eta", "tau")
    ),
    "fdpo": Rule(fdpo, "chosen better than fresh answers of the policy (fDPO)", 1.0, ("score_chosen",), ("threshold",)),
    "wpo": Rule(wpo, "most on-policy first (WPO weights)", 0.1, ("wpo_weight",), COLUMN),
    "ensemble": Rule(ensemble, "mean margin less disagreement of raters", 0.1, "all", ("lam",)),
    "perpcorrect": Rule(
        perpcorrect,
        "labels that a clean surrogate does not call flipped (PerpCorrect)",
        1.0,
        ("ppl_diff",),
        ("column", "warm_up"),
    ),
    "length_matched": Rule(
        length_matched, "sides of about equal length, largest margins first", 0.1, "first", ("column", "match")
    ),
    "length_balanced": Rule(
        length_balanced, "chosen side longer as often as shorter, in every margin bin", 1.0, "first", ("column", "bins")
    ),
    "random": Rule(random, "drawn at random", 0.1),
}


def rule_of(name: str) -> Rule:
    if name not in RULES:
        raise ConfigError(f"unknown rule {name!r}; known: {', '.join(RULES)}")
    return RULES[name]
