"""E5 and E7: score matrices with planted gross cells, and the parser fault of the first UltraFeedback release.

E5  additive truth u_i + v_j (sd 1 and 0.5), noise of sd 0.3, 5 % of the cells off by 1.5 to 4 either way; with a rank-1
    interaction of sd 0.4; and 17 models of which 4 answered each prompt, rounded to 1 .. 5, 5 % of the cells scale-flipped.
    Scored by AUC and precision at k = the number of gross cells; error: ||fit - truth|| / ||truth||.
E7  20,000 completions, four aspects 1 .. 5 and an overall score 1 .. 10 written as text; 1 % are "1", which the parser
    reads as 10. Which completions are wrong is known.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from book import Book, auc, interval, precision_at

from pairwright.core import completion, lowrank, twoway
from pairwright.errors import NotConverged, NotIdentifiable

RANKS = (1, 2, 3, 4)
GROSS = 1e-6


class Scores(NamedTuple):
    """Missing cells are nan; gross: cells that are not what was meant."""

    value_PJ: np.ndarray
    truth_PJ: np.ndarray
    gross_PJ: np.ndarray


class Found(NamedTuple):
    """How suspect each cell is (nan where missing), the matrix without noise and errors, cells in S or listed, rank."""

    suspect_PJ: np.ndarray
    fit_PJ: np.ndarray | None
    listed_PJ: np.ndarray
    rank: float = np.nan


def additive(rows: int, columns: int, rng: np.random.Generator, *, interaction: float = 0.0) -> Scores:
    truth_PJ = rng.normal(size=(rows, 1)) + rng.normal(scale=0.5, size=columns)
    truth_PJ += interaction * rng.normal(size=(rows, 1)) * rng.normal(size=columns)
    gross_PJ = rng.random(truth_PJ.shape) < 0.05
    off_PJ = rng.uniform(1.5, 4, truth_PJ.shape) * rng.choice([-1, 1], truth_PJ.shape)
    return Scores(truth_PJ + rng.normal(scale=0.3, size=truth_PJ.shape) + gross_PJ * off_PJ, truth_PJ, gross_PJ)


def rated(rows: int, noise: float, rng: np.random.Generator, *, models: int = 17, seen: int = 4) -> Scores:
    """Ratings 1 .. 5 of `seen` of the models per prompt; a flip that changes nothing (of a 3) is no error."""
    truth_PJ = 3 + rng.normal(scale=0.7, size=(rows, 1)) + rng.normal(scale=0.7, size=models)
    value_PJ = np.clip(np.rint(truth_PJ + rng.normal(scale=noise, size=truth_PJ.shape)), 1, 5)
    flipped_PJ = np.where(rng.random(value_PJ.shape) < 0.05, 6 - value_PJ, value_PJ)
    shown_PJ = rng.permuted(np.tile(np.arange(models) < seen, (rows, 1)), axis=1)
    return Scores(np.where(shown_PJ, flipped_PJ, np.nan), truth_PJ, shown_PJ & (flipped_PJ != value_PJ))


def column_z(value_PJ: np.ndarray) -> Found:
    """Distance from the median of the column: what needs no model."""
    with np.errstate(invalid="ignore"):
        away_PJ = value_PJ - np.nanmedian(value_PJ, axis=0)
    z_PJ = np.abs(twoway.standardised(away_PJ, twoway.robust_scale(away_PJ)))
    return Found(z_PJ, None, z_PJ > 5)


def two_means(value_PJ: np.ndarray) -> Found:
    """Row and column means, least squares: the additive fit that is not robust."""
    known_PJ = np.isfinite(value_PJ)
    filled_PJ = np.where(known_PJ, value_PJ, 0.0)
    count_P, count_J = np.maximum(known_PJ.sum(1), 1), np.maximum(known_PJ.sum(0), 1)
    row_P, column_J = np.zeros(len(value_PJ)), np.zeros(value_PJ.shape[1])
    for _ in range(100):
        row_P = (filled_PJ - known_PJ * column_J).sum(1) / count_P
        column_J = (filled_PJ - known_PJ * row_P[:, None]).sum(0) / count_J
    fit_PJ = row_P[:, None] + column_J
    away_PJ = np.abs(value_PJ - fit_PJ)
    return Found(away_PJ, fit_PJ, away_PJ > 5 * np.nanstd(value_PJ - fit_PJ))


def two_way_lad(value_PJ: np.ndarray) -> Found:
    fit = twoway.fit_two_way(value_PJ)
    if not fit.converged:
        raise NotConverged("median polish")
    z_PJ = np.abs(twoway.standardised(fit.residual_PJ, twoway.robust_scale(fit.residual_PJ)))
    return Found(z_PJ, fit.row_P[:, None] + fit.column_J, z_PJ > 5)


def two_way_residual(value_PJ: np.ndarray) -> Found:
    """The same fit, one noise level for all columns: no column's MAD of coarse ratings can collapse."""
    fit = twoway.fit_two_way(value_PJ)
    if not fit.converged:
        raise NotConverged("median polish")
    away_PJ = np.abs(fit.residual_PJ)
    return Found(away_PJ, fit.row_P[:, None] + fit.column_J, away_PJ > 5 * max(twoway.noise_floor(fit), GROSS))


def altproj(value_PJ: np.ndarray) -> Found:
    """Rank by cells held out, threshold at four times the noise that the additive fit leaves."""
    sd = twoway.noise_floor(twoway.fit_two_way(value_PJ))
    centre = float(np.nanmedian(value_PJ))
    away_PJ = value_PJ - centre
    rank = completion.choose_rank(away_PJ, RANKS, rng=np.random.default_rng(0), folds=3, sd=sd).rank
    fit = lowrank.split_low_rank(away_PJ, rank=rank, sd=sd)
    return Found(np.abs(away_PJ - fit.low_PJ), fit.low_PJ + centre, fit.sparse_PJ != 0, rank)


def altproj_filled(value_PJ: np.ndarray) -> Found:
    """The same after the missing cells were filled with column means: completion before cleaning."""
    found = altproj(np.where(np.isfinite(value_PJ), value_PJ, np.nanmean(value_PJ, axis=0)))
    known_PJ = np.isfinite(value_PJ)
    return found._replace(suspect_PJ=np.where(known_PJ, found.suspect_PJ, np.nan), listed_PJ=found.listed_PJ & known_PJ)


def pcp(value_PJ: np.ndarray) -> Found:
    centre = float(np.nanmedian(value_PJ))
    fit = lowrank.split_convex(value_PJ - centre)
    size_PJ = np.where(np.isfinite(value_PJ), np.abs(fit.sparse_PJ), np.nan)
    return Found(size_PJ, fit.low_PJ + centre, size_PJ > GROSS, float((fit.singular_K > 1e-9).sum()))


def columns(value_PJ: np.ndarray) -> Found:
    """Huber regression of each column on the others."""
    fit = twoway.fit_columns(value_PJ)
    z_PJ = np.abs(fit.z_PJ)
    return Found(z_PJ, None, z_PJ > 5)


ARMS: dict[str, Callable[[np.ndarray], Found]] = {
    "column z": column_z,
    "two-way means": two_means,
    "two-way LAD": two_way_lad,
    "LAD residual": two_way_residual,
    "AltProj": altproj,
    "PCP": pcp,
}


def measures(at: Scores, arm: Callable[[np.ndarray], Found]) -> dict[str, float]:
    """auc, precision at k, relative error, rank, share of the observed cells in S (or listed); failed without a fit."""
    known_PJ = np.isfinite(at.value_PJ)
    try:
        found = arm(at.value_PJ)
    except (NotConverged, NotIdentifiable):
        return {"failed": 1.0, **dict.fromkeys(("auc", "precision", "error", "rank", "share"), np.nan)}
    suspect, gross = found.suspect_PJ[known_PJ], at.gross_PJ[known_PJ]
    out = {"auc": auc(suspect, gross), "precision": precision_at(suspect, gross), "rank": found.rank, "failed": 0.0}
    out["share"] = float((found.listed_PJ & known_PJ).sum() / known_PJ.sum())
    if found.fit_PJ is not None:
        there_PJ = np.isfinite(found.fit_PJ)
        off_PJ = np.where(there_PJ, found.fit_PJ - at.truth_PJ, 0.0)
        out["error"] = float(np.linalg.norm(off_PJ) / np.linalg.norm(np.where(there_PJ, at.truth_PJ, 0.0)))
    return out


def over_seeds(book: Book, experiment: str, cell: str, made: list[Scores], arms: dict[str, Callable]) -> None:
    for arm, job in arms.items():
        told = [measures(at, job) for at in made]
        names = dict.fromkeys(key for one in told for key in one)
        book.add(experiment, cell, arm, **{key: np.array([one.get(key, np.nan) for one in told]) for key in names})


def e5(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    shapes = [(200, 60), (200, 20), (800, 4)] if small else [(805, 200), (805, 20), (4000, 4)]
    rows = 800 if small else 4000
    jobs: list[tuple[str, Callable[[np.random.Generator], Scores], dict]] = [
        (f"{m}x{q}", lambda rng, m=m, q=q: additive(m, q, rng), ARMS) for m, q in shapes
    ]
    m, q = shapes[0]
    jobs.append((f"{m}x{q} interaction", lambda rng: additive(m, q, rng, interaction=0.4), ARMS))
    masked = {arm: job for arm, job in ARMS.items() if arm != "AltProj"}
    masked |= {"masked AltProj": altproj, "AltProj filled": altproj_filled}
    jobs += [(f"{rows}x17, 4 seen, {sd}", lambda rng, sd=sd: rated(rows, sd, rng), masked) for sd in (0.3, 0.7)]
    for at, (cell, make, arms) in enumerate(jobs):
        over_seeds(
            book, "E5", cell, [make(np.random.default_rng([5, at, 1000 * seed + s])) for s in range(seeds)], arms
        )
    for metric, title in (
        ("auc", "AUC of the gross cells"),
        ("precision", "precision at k = number of gross cells"),
        ("error", "relative error of the fit"),
        ("rank", "rank"),
        ("share", "share of the cells in S (means, LAD, z: listed beyond 5 sd)"),
        ("failed", "share of seeds without a fit"),
    ):
        book.table("E5", metric, title)
    e5_expect(book)


def e5_expect(book: Book, near: float = 0.01) -> None:
    cells = book.cells("E5")
    print()

    plain = [cell for cell in cells if "interaction" not in cell]
    for ours in ("two-way LAD", "LAD residual"):

        def top(cell: str, ours: str = ours) -> tuple[bool, str]:
            mean = {arm: interval(told["auc"]).mean for arm, told in book.values["E5"][cell].items()}
            best = max(mean, key=lambda arm: np.nan_to_num(mean[arm]))
            return mean[ours] >= mean[best] - near, f"{ours} {mean[ours]:.3f}, best {best} {mean[best]:.3f}"

        book.verdict_cells("E5", f"{ours} within {near} of the best AUC without interactions", plain, top)
    cell = next(cell for cell in cells if "interaction" in cell)
    told = book.over("E5", cell, "two-way LAD", "AltProj", "auc")
    book.verdict(
        "E5",
        "a small loss of two-way LAD with interactions (0 < loss < 0.1)",
        told.high < 0 < told.low + 0.1,
        f"LAD - AltProj {told}",
    )
    thin = next(cell for cell in cells if "x4" in cell)

    def versus(metric: str, arm: str) -> str:
        ours, other = (interval(book.get("E5", thin, which, metric)).mean for which in ("two-way LAD", arm))
        return f"{ours:.2f} against {other:.2f}"

    for arm in ("AltProj", "PCP"):
        told, failed = book.over("E5", thin, "two-way LAD", arm, "auc"), book.get("E5", thin, arm, "failed").mean()
        book.verdict(
            "E5",
            f"{arm} fails on the tall thin matrix (no fit, or AUC 0.05 below LAD)",
            failed > 0.5 or told.low > 0.05,
            f"LAD - {arm} {told}; no fit in {failed:.0%} of the seeds; "
            + ", ".join(f"{m} {versus(m, arm)}" for m in ("precision", "error")),
        )

    def dense(cell: str) -> tuple[bool, str]:
        share = interval(book.get("E5", cell, "PCP", "share"))
        return share.low > 0.2, f"share {share}"

    book.verdict_cells("E5", "S of PCP is not sparse under dense noise (over 20 % of the cells)", cells, dense)


def faulty_parse(text: str) -> float:
    """The parser of the first release: cut at the first dot, evaluate, keep if above 1, else times ten."""
    whole = text.split(".")[0].strip()
    above, _, below = whole.partition("/")
    value = float(above) / float(below) if below else float(above)
    return value if value > 1 else value * 10


class Completions(NamedTuple):
    """Aspects nan where the judge wrote N/A; overall as recorded; wrong: "1" recorded as 10."""

    value_RJ: np.ndarray
    wrong_R: np.ndarray


def completions(count: int, rng: np.random.Generator, *, share: float = 0.01) -> Completions:
    quality_R = rng.normal(size=count)
    noise_RJ = rng.normal(scale=0.6, size=(count, 4))
    aspect_RJ = np.clip(np.rint(3.2 + quality_R[:, None] + noise_RJ), 1, 5)
    meant_R = np.clip(np.rint(5.5 + 2.2 * quality_R + rng.normal(scale=0.7, size=count)), 1, 10).astype(int)
    low = np.flatnonzero(meant_R == 1)
    bare = rng.permutation(low)[: round(share * count)]
    form_R = rng.choice(3, count, p=[0.7, 0.2, 0.1])  # "8/10", "8", "8.5"
    form_R[low] = 0
    form_R[bare] = 1
    written = [(f"{m}/10", f"{m}", f"{m}.5")[form] for m, form in zip(meant_R.tolist(), form_R.tolist(), strict=True)]
    told_R = np.array([faulty_parse(text) for text in written])
    aspect_RJ = np.where(rng.random(aspect_RJ.shape) < 0.002, np.nan, aspect_RJ)
    return Completions(np.column_stack([aspect_RJ, told_R]), told_R != meant_R)


def overall_rule(value_RJ: np.ndarray) -> np.ndarray:
    """1 where overall is 10 and the mean aspect at most 2: the rule of the published repair."""
    return ((value_RJ[:, 4] == 10) & (np.nanmean(value_RJ[:, :4], axis=1) <= 2)).astype(float)


def e7(book: Book, *, small: bool, seeds: int, seed: int = 0) -> None:
    count = 4000 if small else 20_000
    for s in range(seeds):
        at = completions(count, np.random.default_rng([7, 1000 * seed + s]))
        regress, convex, lad = columns(at.value_RJ), pcp(at.value_RJ), two_way_residual(at.value_RJ)
        ten = (at.value_RJ[:, 4] == 10).astype(float)
        rule = overall_rule(at.value_RJ)
        arms = {
            "column regression": (regress.suspect_PJ[:, 4], regress.listed_PJ[:, 4], regress.listed_PJ),
            "LAD residual": (lad.suspect_PJ[:, 4], lad.listed_PJ[:, 4], lad.listed_PJ),
            "PCP": (convex.suspect_PJ[:, 4], convex.listed_PJ[:, 4], convex.listed_PJ),
            "plain rule": (rule, rule > 0, np.zeros_like(at.value_RJ, bool)),
            "overall = 10": (ten, ten > 0, np.zeros_like(at.value_RJ, bool)),
        }
        for arm, (suspect, listed, cells) in arms.items():
            hits = (listed & at.wrong_R).sum()
            told = {"auc": auc(suspect, at.wrong_R), "precision_k": precision_at(suspect, at.wrong_R)}
            told |= {
                "listed": listed.sum(),
                "precision": hits / max(listed.sum(), 1),
                "recall": hits / at.wrong_R.sum(),
            }
            if cells.any():
                told["share"] = cells.sum() / np.isfinite(at.value_RJ).sum()
            before = book.values.get("E7", {}).get(f"{count}", {}).get(arm, {})
            book.add("E7", f"{count}", arm, **{k: np.append(before.get(k, []), v) for k, v in told.items()})
    title = f"{count} completions, 1 % recorded as 10 for 1"
    book.report("E7", f"{count}", title, ("auc", "precision_k", "listed", "precision", "recall", "share"))
    print()
    cell = f"{count}"
    told = interval(book.get("E7", cell, "column regression", "auc"))
    found = [interval(book.get("E7", cell, "column regression", m)) for m in ("precision", "recall")]
    book.verdict(
        "E7",
        "column regression separates nearly perfectly (AUC, precision and recall of |z| > 5 over 0.95)",
        min(told.low, found[0].low, found[1].low) > 0.95,
        f"AUC {told}, precision {found[0]}, recall {found[1]}",
    )
    share = interval(book.get("E7", cell, "PCP", "share"))
    book.verdict("E7", "PCP marks most cells", share.low > 0.5, f"share of the cells in S {share}")
