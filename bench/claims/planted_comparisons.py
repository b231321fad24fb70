"""E1 to E4 and E6: comparisons with planted errors, where the truth is known. A batch holds one problem per seed.

Truth w ~ N(0, 1) of n items. Corruption `invert`: a share f of the pairs is set to 0.98 against the truth; `targeted`: the top
tenth of the items loses a share f of its comparisons with the others at 0.98. K votes a pair; infinite K: the
probabilities themselves. A matrix fit that refuses or does not converge is counted, and repairs nothing: its order is Copeland's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from book import Book, Interval, interval

from pairwright.core import lad, orders, ratings, robust
from pairwright.core.comparisons import Comparisons, all_pairs, only, pair_start, prompt_of, sum_at
from pairwright.core.curatron import rank_repaired
from pairwright.core.graphs import part_count
from pairwright.core.lowrank import project, split_convex, split_low_rank
from pairwright.core.segments import order_within, owner
from pairwright.errors import NotConverged, NotIdentifiable

AGAINST = 0.98
ENDLESS = 0  # K infinite
GROSS = 1e-6  # a residual of noise-free data that counts as an error


class Problem(NamedTuple):
    """One problem per seed. m: psi of the (smoothed) shares, weight: 1 / its sd, or 1 without noise."""

    pairs: Comparisons
    truth_R: np.ndarray
    bad_I: np.ndarray
    m_I: np.ndarray
    weight_I: np.ndarray
    votes: int


def some_within(start_P: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the rows of each group, at random, rounded to whole rows."""
    size_P = np.diff(start_P)
    chosen = np.zeros(int(start_P[-1]), bool)
    order = order_within(rng.random(len(chosen)), start_P)
    place = np.arange(len(chosen)) - start_P[:-1][owner(start_P)]
    chosen[order[place < np.rint(share * size_P)[owner(start_P)]]] = True
    return chosen


def corrupted(pairs: Comparisons, truth_R: np.ndarray, kind: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """The pairs to set against the truth."""
    if kind == "invert":
        return some_within(pair_start(pairs), share, rng)
    size_P = np.diff(pairs.item_start_P)
    place_R = np.empty(len(truth_R), np.int64)
    place_R[order_within(-truth_R, pairs.item_start_P)] = np.arange(len(truth_R))
    place_R -= pairs.item_start_P[:-1][owner(pairs.item_start_P)]
    top_R = place_R < np.maximum(1, np.rint(0.1 * size_P))[owner(pairs.item_start_P)]
    one = np.flatnonzero(top_R[pairs.left_I] != top_R[pairs.right_I])
    item = np.where(top_R[pairs.left_I[one]], pairs.left_I[one], pairs.right_I[one])
    one = one[np.argsort(item, kind="stable")]
    start = np.concatenate(([0], np.cumsum(np.bincount(item)[np.unique(item)])))
    bad_I = np.zeros(len(pairs.left_I), bool)
    bad_I[one[some_within(start, share, rng)]] = True
    return bad_I


def draw(
    n: int, seeds: int, votes: int, share: float, *, kind: str = "invert", observed: float = 1.0, seed: int = 0
) -> Problem:
    rng = np.random.default_rng([seed, n, votes, round(100 * share), round(100 * observed), kind == "invert"])
    start_P = np.arange(seeds + 1) * n
    left_I, right_I = all_pairs(start_P)
    zero_I = np.zeros(len(left_I))
    pairs = Comparisons(left_I, right_I, zero_I, zero_I, zero_I, zero_I, start_P)
    while observed < 1:  # until every graph is in one piece
        kept = only(pairs, some_within(pair_start(pairs), observed, rng))
        if (part_count(kept) == 1).all():
            pairs = kept
            break
    truth_R = rng.normal(size=start_P[-1])
    p_I = ratings.win_probability(truth_R[pairs.left_I] - truth_R[pairs.right_I])
    bad_I = corrupted(pairs, truth_R, kind, share, rng)
    p_I = np.where(bad_I, np.where(p_I > 0.5, 1 - AGAINST, AGAINST), p_I)
    if votes == ENDLESS:
        pairs = pairs._replace(wins_I=p_I, votes_I=np.ones(len(p_I)))
        return Problem(pairs, truth_R, bad_I, np.log(p_I / (1 - p_I)), np.ones(len(p_I)), votes)
    wins_I = rng.binomial(votes, p_I).astype(float)
    pairs = pairs._replace(wins_I=wins_I, votes_I=np.full(len(p_I), float(votes)))
    said_I = robust.smoothed(pairs.wins_I, pairs.votes_I)
    return Problem(pairs, truth_R, bad_I, np.log(said_I / (1 - said_I)), robust.omega(said_I, pairs.votes_I), votes)


class Answer(NamedTuple):
    """Scores of the items; the pairs taken for errors (None: the arm flags nothing); problems without a fit."""

    score_R: np.ndarray
    flagged_I: np.ndarray | None = None
    failed_P: np.ndarray | None = None


def copeland(at: Problem) -> Answer:
    """Share of the opponents beaten, equal shares by the mean smoothed log-odds."""
    pairs = at.pairs
    degree_R = np.bincount(np.concatenate((pairs.left_I, pairs.right_I)), minlength=len(at.truth_R))
    return Answer((orders.copeland(pairs) + 1e-6 * orders.row_sum(pairs)) / np.maximum(degree_R, 1))


def mle(at: Problem) -> Answer:
    return Answer(ratings.fit_newton(at.pairs).strength_R)


def least_absolute(at: Problem) -> Answer:
    told = lad.lad(at.pairs, at.m_I, at.weight_I)
    return Answer(told.strength_R, robust.outliers(at.pairs, at.m_I, told.strength_R, tol=GROSS))


def lad_and_refit(at: Problem) -> tuple[Answer, Answer]:
    """(LAD, refit without the flagged pairs). Without noise every residual is a flag."""
    if at.votes != ENDLESS:
        told = robust.repair(at.pairs, strict=False)
        return Answer(told.lad_R), Answer(told.strength_R, told.flagged_I)
    plain = least_absolute(at)
    left = only(at.pairs, ~plain.flagged_I)
    again_R = ratings.fit_newton(left).strength_R
    whole_R = (part_count(left) == 1)[owner(at.pairs.item_start_P)]
    return plain, Answer(np.where(whole_R, again_R, plain.score_R), plain.flagged_I)


def without(at: Problem, removed_I: np.ndarray) -> Answer:
    return Answer(ratings.fit_newton(only(at.pairs, ~removed_I)).strength_R)


def as_many(at: Problem, flagged_I: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs at random, in each problem as many as are flagged."""
    start_P = pair_start(at.pairs)
    count_P = sum_at(prompt_of(at.pairs), flagged_I.astype(float), len(start_P) - 1)
    order = order_within(rng.random(len(flagged_I)), start_P)
    place = np.arange(len(flagged_I)) - start_P[:-1][owner(start_P)]
    taken_I = np.zeros(len(flagged_I), bool)
    taken_I[order[place < count_P[owner(start_P)]]] = True
    return taken_I


Square = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def altproj(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One floor for the threshold: four times the median sd of the pairs seen."""
    seen_NN = mask_NN & ~np.eye(len(m_NN), dtype=bool)
    told = rank_repaired(m_NN, mask_NN=mask_NN, sd=float(np.median(sd_NN[seen_NN])))
    return told.fit.low_PJ, told.sparse_NN != 0


def altproj_cell(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A floor of each cell's own sd by the delta method, which is largest where the votes are unanimous."""
    told = rank_repaired(m_NN, mask_NN=mask_NN, sd=sd_NN)
    return told.fit.low_PJ, told.sparse_NN != 0


def altproj_bare(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No floor: S lists the noisiest cells too."""
    told = rank_repaired(m_NN, mask_NN=mask_NN)
    return told.fit.low_PJ, told.sparse_NN != 0


def pcp(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    told = split_convex(m_NN, mask_PJ=mask_NN)
    return (told.low_PJ - told.low_PJ.T) / 2, np.abs(told.sparse_PJ) > GROSS


def complete(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Iterated hard rank-2 imputation: a least squares completion, which no error escapes."""
    low_NN = np.zeros_like(m_NN)
    for _ in range(1000):
        before_NN = low_NN
        low_NN = project(np.where(mask_NN, m_NN, low_NN), 2).low_PJ
        low_NN = (low_NN - low_NN.T) / 2
        if np.linalg.norm(low_NN - before_NN) < 1e-7 * np.linalg.norm(m_NN):
            break
    return low_NN, np.zeros_like(mask_NN)


def complete_first(clean: Square) -> Square:
    def run(m_NN: np.ndarray, mask_NN: np.ndarray, sd_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        filled_NN = np.where(mask_NN, m_NN, complete(m_NN, mask_NN, sd_NN)[0])
        low_NN, sparse_NN = clean(filled_NN, np.ones_like(mask_NN), np.where(mask_NN, sd_NN, 0.0))
        return low_NN, sparse_NN & mask_NN

    return run


def by_matrix(at: Problem, clean: Square) -> Answer:
    """A matrix fit of each problem, ordered by Copeland of its low-rank part, ties by row sums."""
    score_R, flagged_I = copeland(at).score_R.copy(), np.zeros(len(at.bad_I), bool)
    items, rows = at.pairs.item_start_P, pair_start(at.pairs)
    failed_P = np.zeros(len(items) - 1)
    for p in range(len(items) - 1):
        here, own = slice(rows[p], rows[p + 1]), slice(items[p], items[p + 1])
        i, j, n = at.pairs.left_I[here] - items[p], at.pairs.right_I[here] - items[p], items[p + 1] - items[p]
        m_NN, sd_NN, mask_NN = np.zeros((n, n)), np.zeros((n, n)), np.eye(n, dtype=bool)
        m_NN[i, j], m_NN[j, i] = at.m_I[here], -at.m_I[here]
        mask_NN[i, j] = mask_NN[j, i] = True
        if at.votes != ENDLESS:
            sd_NN[i, j] = sd_NN[j, i] = 1 / at.weight_I[here]
        try:
            low_NN, sparse_NN = clean(m_NN, mask_NN, sd_NN)
        except (NotConverged, NotIdentifiable):
            failed_P[p] = 1
            continue
        flagged_I[here] = sparse_NN[i, j]
        beaten_N, sum_N = (low_NN > GROSS).sum(1) + 0.5 * (np.abs(low_NN) <= GROSS).sum(1), low_NN.sum(1)
        score_R[own] = beaten_N + 0.4 * sum_N / max(float(np.abs(sum_N).max()), 1e-300)
    return Answer(score_R, flagged_I, failed_P)


def measures(at: Problem, told: Answer) -> dict[str, np.ndarray]:
    """dist; and of the flags: recall weighted by |w_i - w_j|, precision, share of good pairs flagged, number."""
    score_R = np.round(told.score_R, 12)  # ties that rounding would break stay ties
    out = {"dist": orders.order_error(score_R, at.truth_R, at.pairs.item_start_P)}
    if told.failed_P is not None:
        out["failed"] = told.failed_P
    if told.flagged_I is None:
        return out
    prompt_I, count = prompt_of(at.pairs), len(at.pairs.item_start_P) - 1
    gap_I = np.abs(at.truth_R[at.pairs.left_I] - at.truth_R[at.pairs.right_I])
    hit_I, flag_I = at.bad_I & told.flagged_I, told.flagged_I

    def whole(value_I: np.ndarray) -> np.ndarray:
        return sum_at(prompt_I, value_I.astype(float), count)

    with np.errstate(invalid="ignore", divide="ignore"):
        out["recall"] = whole(hit_I * gap_I) / whole(at.bad_I * gap_I)
        out["precision"] = whole(hit_I) / whole(flag_I)
        out["false_flags"] = whole(flag_I & ~at.bad_I) / whole(~at.bad_I)
    return {**out, "flags": whole(flag_I)}


def fill(book: Book, experiment: str, cell: str, at: Problem, arms: dict[str, Answer]) -> None:
    for arm, told in arms.items():
        book.add(experiment, cell, arm, **measures(at, told))


def controls(at: Problem, flagged_I: np.ndarray, seed: int) -> dict[str, Answer]:
    taken_I = as_many(at, flagged_I, np.random.default_rng(seed))
    return {"oracle": without(at, at.bad_I), "random": without(at, taken_I)}


KINDS = ("invert", "targeted")
MATRIX: dict[str, Square] = {
    "AltProj": altproj,
    "AltProj cell sd": altproj_cell,
    "AltProj bare": altproj_bare,
    "PCP": pcp,
}
ARMS = ("Copeland", "MLE", *MATRIX, "LAD")


def name(n: int, votes: int, share: float, kind: str) -> str:
    return f"n={n} K={votes or 'inf'} f={share:g} {kind if share else 'clean'}"


def e1_cells(small: bool) -> list[tuple[int, int, float, str]]:
    sizes, shares = ((10, 30), (0.1, 0.4)) if small else ((10, 50, 100), (0.1, 0.2, 0.3, 0.4))
    clean = [(n, votes, 0.0, "invert") for n in sizes for votes in (20, ENDLESS)]
    return clean + [(n, k, f, kind) for kind in KINDS for n in sizes for k in (20, ENDLESS) for f in shares]


def e1(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    for n, votes, share, kind in e1_cells(small):
        at = draw(n, seeds, votes, share, kind=kind, seed=seed)
        plain, refit = lad_and_refit(at)
        arms = {"Copeland": copeland(at), "MLE": mle(at), **{a: by_matrix(at, c) for a, c in MATRIX.items()}}
        arms |= {"LAD": plain, "refit": refit, **controls(at, refit.flagged_I, n)}
        fill(book, "E1", name(n, votes, share, kind), at, arms)
    book.table("E1", "dist", "share of pairs ordered against the truth; mean and 95 % interval over seeds")
    for metric in ("recall", "precision", "false_flags", "failed"):
        book.table("E1", metric, f"{metric}, of the flags" if metric != "failed" else "share of seeds without a fit")
    e1_expect(book, small)


def lower(told: Interval) -> bool:
    return told.high < 0


def e1_expect(book: Book, small: bool) -> None:
    cells = e1_cells(small)
    bad = [name(*cell) for cell in cells if cell[2] > 0]
    print()

    def no_better(cell: str, arm: str, others: tuple[str, ...]) -> tuple[bool, str]:
        over = {other: book.over("E1", cell, other, arm, "dist") for other in others if other != arm}
        best = min(over, key=lambda other: over[other].mean)
        return not any(lower(told) for told in over.values()), f"{best} - {arm} {over[best]}"

    for arm in ("LAD", "refit"):
        book.verdict_cells(
            "E1", f"{arm} best or tied in every corrupted cell", bad, lambda c, arm=arm: no_better(c, arm, ARMS)
        )
    most = max(cell[0] for cell in cells)
    for arm in ("AltProj", "PCP"):

        def gain(cell: str, arm: str = arm) -> tuple[bool, str]:
            told, failed = book.over("E1", cell, arm, "MLE", "dist"), book.get("E1", cell, arm, "failed").mean()
            return lower(told) and failed <= 0.5, f"{arm} - MLE {told}" + (f", {failed:.0%} no fit" if failed else "")

        easy = [name(*cell) for cell in cells if cell[0] >= min(50, most) and 0 < cell[2] <= 0.2]
        hard = [name(*cell) for cell in cells if cell[2] and (cell[0] == 10 or cell[2] >= 0.4)]
        book.verdict_cells("E1", f"{arm} beats MLE clearly at large n and f <= 0.2", easy, gain)
        book.verdict_cells(
            "E1", f"{arm} not at n = 10, nor at f = 0.4", hard, lambda c, gain=gain: (not gain(c)[0], gain(c)[1])
        )

    def worse(cell: str) -> tuple[bool, str]:
        told = book.over("E1", cell, "MLE", "Copeland", "dist")
        return told.low > 0, f"MLE - Copeland {told}"

    for kind in KINDS:
        here = [cell for cell in bad if cell.endswith(kind)]
        book.verdict_cells("E1", f"MLE worse than raw Copeland under saturated corruption, {kind}", here, worse)
    clean = [name(*cell) for cell in cells if cell[2] == 0 and cell[1] != ENDLESS]
    book.verdict_cells("E1", "without corruption MLE is best", clean, lambda c: no_better(c, "MLE", ARMS))


def e2(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    n, shares = (30, (0.8, 0.3)) if small else (50, (0.8, 0.5, 0.3))
    for observed in shares:
        for share in (0.0, 0.1, 0.2):
            at = draw(n, seeds, ENDLESS, share, observed=observed, seed=seed)
            arms = {"Copeland": copeland(at), "MLE": mle(at), "complete": by_matrix(at, complete)}
            arms |= {"compl.>AltProj": by_matrix(at, complete_first(altproj))}
            arms |= {"compl.>PCP": by_matrix(at, complete_first(pcp)), "masked PCP": by_matrix(at, pcp)}
            arms |= {"masked AltProj": by_matrix(at, altproj), "LAD": least_absolute(at)}
            arms |= controls(at, arms["LAD"].flagged_I, n)
            fill(book, "E2", f"p={observed:g} f={share:g}", at, arms)
    book.table("E2", "dist", f"missing pairs, n = {n}, noise-free: share of pairs ordered against the truth")
    for metric in ("recall", "precision", "failed"):
        book.table("E2", metric, f"{metric}, of the flags" if metric != "failed" else "share of seeds without a fit")
    e2_expect(book)


def e2_expect(book: Book) -> None:
    cells = book.cells("E2")
    print()
    for arm in ("MLE", "complete", "compl.>AltProj", "compl.>PCP", "masked PCP", "masked AltProj", "LAD"):

        def exact(cell: str, arm: str = arm) -> tuple[bool, str]:
            told = book.get("E2", cell, arm, "dist")
            return bool((told == 0).all()), f"dist {interval(told)}, exact in {(told == 0).sum()} of {len(told)}"

        book.verdict_cells("E2", f"{arm} exact at f = 0", [c for c in cells if c.endswith("f=0")], exact)
    few = [cell for cell in cells if cell.startswith("p=0.3") and not cell.endswith("f=0")]
    for arm in ("compl.>AltProj", "compl.>PCP"):
        for nothing in ("Copeland", "MLE"):

            def lost(cell: str, arm: str = arm, nothing: str = nothing) -> tuple[bool, str]:
                told = book.over("E2", cell, arm, nothing, "dist")
                return told.low > 0, f"{arm} - {nothing} {told}"

            book.verdict_cells("E2", f"{arm} worse than doing nothing ({nothing}) with 30 % seen", few, lost)

    def best(cell: str) -> tuple[bool, str]:
        others = [arm for arm in book.values["E2"][cell] if arm not in ("LAD", "oracle", "random")]
        over = {arm: book.over("E2", cell, arm, "LAD", "dist") for arm in others}
        next_best = min(over, key=lambda arm: over[arm].mean)
        return not any(lower(told) for told in over.values()), f"{next_best} - LAD {over[next_best]}"

    book.verdict_cells("E2", "LAD best or tied", [c for c in cells if not c.endswith("f=0")], best)


def e3(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    n, same, quiet = 30 if small else 50, 0, 0
    cells = [(n, 20, 0.0), (n, 20, 0.1), (n, 20, 0.3), (n, 5, 0.2), (n, 5, 0.0), (n, 5, 0.1), (n, 3, 0.0), (n, 3, 0.1)]
    cells += [(5, votes, share) for votes in (20, 5, 3) for share in (0.0, 0.1)]
    for size, votes, share in cells:
        at = draw(size, seeds * (20 if size == 5 else 1), votes, share, seed=seed)
        plain, refit = lad_and_refit(at)
        arms = {"Copeland": copeland(at), "MLE": mle(at), "LAD": plain, "refit": refit}
        arms |= controls(at, refit.flagged_I, n)
        fill(book, "E3", ("" if size == n else f"n={size} ") + f"K={votes} f={share:g}", at, arms)
        if (size, votes, share) == cells[0]:
            none_P = measures(at, refit)["flags"] == 0
            equal_P = (arms["MLE"].score_R == refit.score_R).reshape(-1, n).all(1)
            same, quiet = int((equal_P & none_P).sum()), int(none_P.sum())
    book.table("E3", "dist", f"the pipeline, n = {n} where not said: share of pairs ordered against the truth")
    for metric in ("flags", "recall", "precision", "false_flags"):
        book.table("E3", metric, f"{metric}" + ("" if metric == "flags" else ", of the flags"))
    print()
    book.verdict(
        "E3", "refit = MLE at f = 0, to the last bit where nothing is flagged", same == quiet > 0, f"{same} of {quiet}"
    )

    def best(cell: str) -> tuple[bool, str]:
        over = {arm: book.over("E3", cell, arm, "refit", "dist") for arm in ("Copeland", "MLE", "LAD")}
        next_best = min(over, key=lambda arm: over[arm].mean)
        return not any(lower(told) for told in over.values()), f"{next_best} - refit {over[next_best]}"

    book.verdict_cells("E3", "refit best or tied at K = 20", ["K=20 f=0.1", "K=20 f=0.3"], best)
    told = book.over("E3", "K=5 f=0.2", "refit", "LAD", "dist")
    flags, pairs = interval(book.get("E3", "K=5 f=0.2", "refit", "flags")), n * (n - 1) // 2
    words = f"refit - LAD {told}; {flags.mean:.1f} flags for {round(0.2 * pairs)} wrong pairs"
    book.verdict(
        "E3", "at K = 5 few flags, refit not better than LAD", not lower(told) and flags.mean < 0.1 * pairs, words
    )
    e3_few_votes(book)


def e3_few_votes(book: Book) -> None:
    """What it costs to give out LAD strengths where votes are too few for flags (status no_power)."""
    for share in ("0", "0.1"):
        few = [c for c in book.cells("E3") if ("K=5" in c or "K=3" in c) and c.endswith(f"f={share}")]

        def no_worse(cell: str) -> tuple[bool, str]:
            told = book.over("E3", cell, "refit", "MLE", "dist")
            return told.low <= 0, f"refit - MLE {told}"

        book.verdict_cells("E3", f"with K <= 5 and f = {share} refit is no worse than MLE", few, no_worse)


def at_one_item(n: int, wrong: int, seeds: int, seed: int = 0) -> Problem:
    """All pairs without noise; `wrong` of item 0's pairs are shifted alike, by 2 to 20 logits either way."""
    rng = np.random.default_rng([seed, n, wrong])
    start_P = np.arange(seeds + 1) * n
    left_I, right_I = all_pairs(start_P)
    zero_I, one_I = np.zeros(len(left_I)), np.ones(len(left_I))
    pairs = Comparisons(left_I, right_I, zero_I, one_I, zero_I, zero_I, start_P)
    truth_R = rng.normal(size=start_P[-1])
    first = np.flatnonzero(left_I % n == 0)
    bad_I = np.zeros(len(left_I), bool)
    bad_I[first[some_within(np.arange(seeds + 1) * (n - 1), wrong / (n - 1), rng)]] = True
    shift_P = rng.uniform(2, 20, seeds) * rng.choice([-1, 1], seeds)
    m_I = truth_R[left_I] - truth_R[right_I] + np.where(bad_I, shift_P[prompt_of(pairs)], 0.0)
    return Problem(pairs._replace(wins_I=1 / (1 + np.exp(-m_I))), truth_R, bad_I, m_I, one_I, ENDLESS)


def exact_by_matrix(at: Problem, n: int, clean: Square) -> np.ndarray:
    """1 where the low-rank part is the truth to 1e-3 logits."""
    right, mask_NN = [], np.ones((n, n), bool)
    for w, m in zip(at.truth_R.reshape(-1, n), at.m_I.reshape(-1, n * (n - 1) // 2), strict=True):
        m_NN = np.zeros((n, n))
        m_NN[np.triu_indices(n, 1)] = m
        try:
            low_NN = clean(m_NN - m_NN.T, mask_NN, np.zeros((n, n)))[0]
        except (NotConverged, NotIdentifiable):
            right.append(0.0)
            continue
        right.append(float(np.abs(low_NN - (w[:, None] - w)).max() < 1e-3))
    return np.array(right)


def lad_exact(at: Problem, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 where LAD is the truth, 1 where it says that it is unique), per problem."""
    told = lad.lad(at.pairs, at.m_I, at.weight_I)
    away_R = told.strength_R.reshape(-1, n) - at.truth_R.reshape(-1, n)
    away_R = np.abs(away_R - away_R.mean(1, keepdims=True)).max(1)
    return (away_R < GROSS).astype(float), told.unique_P.astype(float)


def e4(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    sizes = (4, 5, 6, 8, 12) if small else (4, 5, 6, 8, 12, 20)
    for n in sizes:
        for wrong in range(n):
            at, cell = at_one_item(n, wrong, seeds, seed), f"n={n} t={wrong}"
            exact, unique = lad_exact(at, n)
            book.add("E4", cell, "LAD", exact=exact, unique=unique)
            for arm, clean in (("AltProj", altproj), ("PCP", pcp)):
                book.add("E4", cell, arm, exact=exact_by_matrix(at, n, clean))
    book.table("E4", "exact", "t errors of a common shift at one item of n: share of seeds with the exact answer")
    print()

    def bound(cell: str) -> tuple[bool, str]:
        n, t = (int(part.split("=")[1]) for part in cell.split())
        share, alone = book.get("E4", cell, "LAD", "exact").mean(), book.get("E4", cell, "LAD", "unique").mean()
        words = f"exact {share:.2f}, unique {alone:.2f}"
        if t <= (n - 2) // 2:
            return share == 1 and alone == 1, words
        return (share == 0, words) if 2 * t > n - 1 else (alone == 0, words)

    book.verdict_cells(
        "E4", "LAD exact up to floor((n-2)/2), wrong beyond (n-1)/2, not unique at it", book.cells("E4"), bound
    )
    for arm in ("AltProj", "PCP"):
        caps = [f"n={n} t={(n - 2) // 2}" for n in sizes]
        shares = [float(book.get("E4", cell, arm, "exact").mean()) for cell in caps]
        one = [float(book.get("E4", f"n={n} t=1", arm, "exact").mean()) for n in sizes]
        words = ", ".join(f"n={n} {a:.2f} / {b:.2f}" for n, a, b in zip(sizes, one, shares, strict=True))
        book.verdict(
            "E4",
            f"{arm} unreliable for small n, improving with n (one error / as many as LAD bears)",
            one[0] < 0.9 and one[-1] > one[0],
            words,
        )


def e6(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    """Two responses and 2 x 2 matrices: nothing is ever an error."""
    draws = 50 * seeds
    rng = np.random.default_rng(6 if not seed else [6, seed])
    value = rng.normal(size=(draws, 2, 2)) * 10 ** rng.uniform(-3, 3, (draws, 1, 1))
    dense = [np.count_nonzero(fit.sparse_PJ) for x in value for fit in (split_low_rank(x, rank=1), split_convex(x))]
    start_P = np.arange(draws + 1) * 2
    left_I, right_I = all_pairs(start_P)
    votes_I = rng.integers(1, 50, draws).astype(float)
    zero_I = np.zeros(draws)
    wins_I = rng.binomial(votes_I.astype(int), rng.random(draws)).astype(float)
    told = robust.repair(Comparisons(left_I, right_I, wins_I, votes_I, zero_I, zero_I, start_P))
    flags = int(told.flagged_I.sum())
    refused = bool((told.status_C == robust.STATUSES.index("not_identifiable")).all())
    book.add("E6", f"{draws} draws", "cells in S", count=np.array(dense))
    print()
    words = f"{sum(dense)} cells in {2 * draws} fits; {flags} flags in {draws} prompts of two responses, all refused: {refused}"
    book.verdict("E6", "2 x 2: S = 0 always", not sum(dense) and not flags and refused, words)
