"""Real raters: what is left out is predicted from the rest, by simple means and by ours; planted errors in real matrices.

wmt23, hanna       rankings of 10 or 11 responses: the left-out rater's Spearman correlation within prompts
pandalm, llmfao    one pair per item: the left-out label
dices              many raters: the majority of k against the majority of the others
alpacafarm         8 draws of one judge: its flip rate, and what pooling draws gives
qa_feedback        4 responses, 6 comparisons of one person: cycles, and each comparison from the other five
wildbench, alpaca_eval   judges side by side, and prompts x models: 5 % of the cells moved to the far end; cells held out

Under each table a line says whether anything beats the simple method named there (paired 95 % interval), and what loses
to it. Intervals are over prompts or items, for planted errors over seeds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from book import Book, auc, precision_at
from planted_scores import Found, altproj, column_z, columns, pcp, two_means, two_way_lad, two_way_residual

from pairwright.core import lowrank, noise, orders, ratings, robust
from pairwright.core.agreement import spearman_within
from pairwright.core.comparisons import Comparisons, all_pairs, gather, sum_at
from pairwright.core.dawid_skene import fit_dawid_skene
from pairwright.core.graphs import majority_cycles
from pairwright.core.rewards import mean_rank, mean_z
from pairwright.core.segments import starts
from pairwright.core.twoway import fit_two_way, noise_floor
from pairwright.errors import NotConverged, NotIdentifiable

TIE = 2  # label codes of a pair: 0 right, 1 left, 2 tie
PRIOR = 1.0  # ridge of the pooled Bradley-Terry fits
SETTLED = 1e-4  # Dawid-Skene on pairs of many raters: at 1e-6 2000 rounds are not enough


def against(book: Book, experiment: str, cell: str, simple: str, metric: str, *, less: bool = False) -> None:
    """Who beats the simple method, who loses to it; the rest cannot be told apart. `less`: a low value is good."""
    over = {a: book.over(experiment, cell, a, simple, metric) for a in book.values[experiment][cell] if a != simple}
    told = {arm: f"{arm} {at.mean:+.3f} ±{at.half:.3f}" for arm, at in over.items() if at.n}
    higher = [words for arm, words in told.items() if over[arm].low > 0]
    lower = [words for arm, words in told.items() if over[arm].high < 0]
    better, worse = (lower, higher) if less else (higher, lower)
    words = f"better: {', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}"
    book.verdict(experiment, f"{cell}: nothing beats {simple} ({metric})", not better, words)


# ---- rankings -------------------------------------------------------------------------------------------------------


def pair_votes(score_RJ: np.ndarray, start_P: np.ndarray) -> tuple[Comparisons, np.ndarray]:
    """Each rater's scores as votes on all pairs of a prompt, and label_IJ (-1: not rated). Equal scores are ties."""
    left_I, right_I = all_pairs(start_P)
    away_IJ = score_RJ[left_I] - score_RJ[right_I]
    known_IJ = np.isfinite(away_IJ)
    label_IJ = np.where(known_IJ, np.select([away_IJ > 0, away_IJ < 0], [1, 0], TIE), -1)
    ties_I = (label_IJ == TIE).sum(1).astype(float)
    wins_I = (label_IJ == 1).sum(1) + ties_I / 2
    votes_I = known_IJ.sum(1).astype(float)
    return Comparisons(left_I, right_I, wins_I, votes_I, ties_I, np.zeros(len(left_I)), start_P), label_IJ


def by_dawid_skene(pairs: Comparisons, label_IJ: np.ndarray) -> np.ndarray:
    """Dawid-Skene over pairs with the labels left, right, tie; each response gets the sum of its soft wins."""
    item, judge = np.nonzero(label_IJ >= 0)
    try:
        told = fit_dawid_skene(item, judge, label_IJ[item, judge], classes=3, tol=SETTLED)
    except (NotIdentifiable, NotConverged):
        return np.full(int(pairs.item_start_P[-1]), np.nan)
    soft_I = told.soft_IK[:, 1] + told.soft_IK[:, TIE] / 2
    n = int(pairs.item_start_P[-1])
    return sum_at(pairs.left_I, soft_I, n) + sum_at(pairs.right_I, 1 - soft_I, n)


def pooled(score_RJ: np.ndarray, start_P: np.ndarray) -> dict[str, np.ndarray]:
    """A score of each response from raters J (nan: not rated) by every method."""
    weight_J = np.ones(score_RJ.shape[1])
    pairs, label_IJ = pair_votes(score_RJ, start_P)
    told = robust.repair(pairs, strict=False)
    return {
        "mean": np.nanmean(score_RJ, axis=1),
        "median": np.nanmedian(score_RJ, axis=1),
        "mean z": mean_z(score_RJ, start_P, weight_J),
        "mean rank": mean_rank(score_RJ, start_P, weight_J),
        "majority (Copeland)": orders.copeland(pairs),
        "Bradley-Terry": ratings.fit_newton(pairs, ridge=PRIOR).strength_R,
        "LAD of votes": told.lad_R,
        "LAD, flag, refit": told.strength_R,
        "two-way LAD": fit_two_way(score_RJ).row_P,
        "Dawid-Skene": by_dawid_skene(pairs, label_IJ),
    }


def left_out(score_RJ: np.ndarray, start_P: np.ndarray, slot_RS: np.ndarray) -> dict[str, np.ndarray]:
    """Mean over the left-out slots of the within-prompt Spearman correlation, per prompt.

    slot_RS: the column of each slot's rater. A method that ties all responses of a prompt predicts nothing: 0; a prompt
    whose left-out rater ties them all says nothing: not counted.
    """
    rows, found = np.arange(len(score_RJ)), {}
    for slot_R in slot_RS.T:
        truth_R, rest_RJ = score_RJ[rows, slot_R], score_RJ.copy()
        rest_RJ[rows, slot_R] = np.nan
        top, low = np.maximum.reduceat(truth_R, start_P[:-1]), np.minimum.reduceat(truth_R, start_P[:-1])
        for arm, score_R in pooled(rest_RJ, start_P).items():
            if np.isnan(score_R).all():
                continue  # no fit: two raters left for Dawid-Skene
            score_R = np.round(score_R, 9)  # ties that rounding would break stay ties
            rho_P = np.where(top > low, np.nan_to_num(spearman_within(score_R, truth_R, start_P)), np.nan)
            found.setdefault(arm, []).append(rho_P)
    return {arm: _mean_known(np.array(told)) for arm, told in found.items()}


def _mean_known(value_SP: np.ndarray) -> np.ndarray:
    known_SP = np.isfinite(value_SP)
    count_P = known_SP.sum(0)
    return np.where(count_P > 0, np.where(known_SP, value_SP, 0).sum(0) / np.maximum(count_P, 1), np.nan)


def rank_cell(book: Book, cell: str, rho: dict[str, np.ndarray], cluster_P: np.ndarray | None = None) -> None:
    for arm, rho_P in rho.items():
        if cluster_P is not None:  # prompts that share their responses are one unit
            rho_P = np.array([_mean_known(rho_P[cluster_P == c][:, None])[0] for c in np.unique(cluster_P)])
        book.add("ranking", cell, arm, spearman=rho_P)


def wmt(book: Book, data: Path) -> None:
    frame = pl.read_parquet(data / "wmt23_mqm_ratings.parquet").sort("prompt_id", "system", "rater")
    rater = pl.concat_str("lp", "rater").rank("dense").cast(pl.Int64) - 1
    frame = frame.with_columns(column=rater)
    slot_RS = frame["column"].to_numpy().reshape(-1, 3)
    score_RJ = np.full((len(slot_RS), int(slot_RS.max()) + 1), np.nan)
    np.put_along_axis(score_RJ, slot_RS, -frame["mqm_penalty"].to_numpy().reshape(-1, 3), axis=1)
    start_P = starts(frame["prompt_id"].rle_id().to_numpy()[::3])
    rank_cell(book, "wmt23, 2 of 3 experts", left_out(score_RJ, start_P, slot_RS))
    against(book, "ranking", "wmt23, 2 of 3 experts", "mean", "spearman")


def hanna(book: Book, data: Path) -> None:
    frame = pl.read_parquet(data / "hanna_ratings.parquet").filter(pl.col("criterion") != "coherence")
    wide = frame.pivot("rater", index=["prompt_id", "criterion", "model"], values="score", aggregate_function="mean")
    wide = wide.sort("prompt_id", "criterion", "model")
    people = sorted(name for name in wide.columns if name.startswith("human"))
    others = sorted(set(wide.columns[3:]) - set(people))
    start_P = starts(wide.select(pl.struct("prompt_id", "criterion").rle_id()).to_series().to_numpy())
    prompt_P = wide["prompt_id"].rle_id().to_numpy()[start_P[:-1]]
    slot_RS = np.tile(np.arange(3), (len(wide), 1))
    for cell, names in (("hanna, 2 of 3 people", people), ("hanna, 2 people + 20 judges", people + others)):
        rho = left_out(wide.select(names).to_numpy().astype(float), start_P, slot_RS)
        rank_cell(book, cell, rho, prompt_P)
        against(book, "ranking", cell, "mean", "spearman")


# ---- one pair per item ----------------------------------------------------------------------------------------------


def majority(label_IJ: np.ndarray, classes: int = 3) -> np.ndarray:
    """The most frequent label, a tie of labels is TIE; -1 without votes."""
    count_IK = np.stack([(label_IJ == k).sum(1) for k in range(classes)], axis=1)
    top_I = count_IK.max(1)
    many_I = (count_IK == top_I[:, None]).sum(1) > 1
    return np.where(top_I == 0, -1, np.where(many_I, TIE, count_IK.argmax(1)))


def dawid_skene_label(label_IJ: np.ndarray, **settings: str) -> np.ndarray:
    item, judge = np.nonzero(label_IJ >= 0)
    classes = int(label_IJ.max()) + 1
    told = fit_dawid_skene(item, judge, label_IJ[item, judge], classes=classes, tol=SETTLED, **settings)
    label_I = np.full(len(label_IJ), -1)
    label_I[: len(told.soft_IK)] = told.soft_IK.argmax(1)
    return label_I


def crowdkit_label(label_IJ: np.ndarray) -> np.ndarray:
    import pandas
    from crowdkit.aggregation import DawidSkene

    item, judge = np.nonzero(label_IJ >= 0)
    votes = pandas.DataFrame({"task": item, "worker": judge, "label": label_IJ[item, judge]})
    told = DawidSkene(n_iter=200).fit_predict(votes)
    label_I = np.full(len(label_IJ), -1)
    label_I[told.index.to_numpy()] = told.to_numpy()
    return label_I


def pandalm(book: Book, data: Path) -> None:
    frame = pl.read_parquet(data / "pandalm_testset.parquet")
    code = {"0": TIE, "Tie": TIE, "1": 1, "2": 0}
    names = ["annotator1", "annotator2", "annotator3", "gpt_35_turbo", "pandalm_7b"]
    coded = [frame[n].cast(pl.String).replace_strict(code, default=-1, return_dtype=pl.Int64) for n in names]
    label_IJ = np.stack([column.to_numpy() for column in coded], axis=1)
    found: dict[str, list[np.ndarray]] = {}
    for out in range(3):
        people = np.delete(label_IJ[:, :3], out, axis=1)
        whole, truth_I = np.concatenate([people, label_IJ[:, 3:]], axis=1), label_IJ[:, out]
        arms: dict[str, Callable[[], np.ndarray]] = {
            "one annotator": lambda p=people: p[:, 0],
            "majority of 2": lambda p=people: majority(p),
            "2, judges decide splits": lambda p=people, w=whole: np.where(p[:, 0] == p[:, 1], p[:, 0], majority(w)),
            "majority of 2 + 2 judges": lambda w=whole: majority(w),
            "Dawid-Skene 2 + 2 judges": lambda w=whole: dawid_skene_label(w),
            "one-coin 2 + 2 judges": lambda w=whole: dawid_skene_label(w, judges="one_coin"),
            "crowd-kit DS 2 + 2 judges": lambda w=whole: crowdkit_label(w),
            "judge gpt-3.5": lambda w=whole: w[:, 2],
            "judge pandalm-7b": lambda w=whole: w[:, 3],
        }
        for arm, job in arms.items():
            try:
                found.setdefault(arm, []).append((job() == truth_I).astype(float))
            except ImportError as missing:
                if out == 0:
                    print(f"  pandalm: {arm} not run: {missing}")
    for arm, told in found.items():
        if told:
            book.add("labels", "pandalm, 2 of 3", arm, right=np.mean(told, axis=0))
    for simple in ("majority of 2", "one annotator"):
        against(book, "labels", "pandalm, 2 of 3", simple, "right")


def llmfao(book: Book, data: Path, rounds: int) -> None:
    """One decisive crowd vote of each pair with three or more is left out; right: the predicted side, none counts 1/2."""
    votes = pl.read_parquet(data / "llmfao_votes.parquet").join(
        pl.read_parquet(data / "llmfao_pairs.parquet"), on="pair_id"
    )
    votes = votes.sort("pair_id", "rater")
    item_V = votes["pair_id"].rle_id().to_numpy().astype(np.int64)
    judge_V = (votes["rater"].rank("dense").cast(pl.Int64) - 1).to_numpy()
    label_V = votes["winner"].replace_strict({"a": 1, "b": 0, "tie": TIE}, return_dtype=pl.Int64).to_numpy()
    crowd_V = votes["rater"].str.starts_with("crowd").to_numpy()
    names = sorted(set(votes["model_a"]) | set(votes["model_b"]))
    place = {name: at for at, name in enumerate(names)}
    side_V = [np.array([place[name] for name in votes[column]]) for column in ("model_a", "model_b")]
    items = int(item_V.max()) + 1
    many_V = (np.bincount(item_V, crowd_V, items) >= 3)[item_V]
    right: dict[str, list[np.ndarray]] = {}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        able = np.flatnonzero(many_V & crowd_V & (label_V != TIE))
        able = rng.permutation(able)
        _, first = np.unique(item_V[able], return_index=True)
        out = able[first]
        kept_V = np.ones(len(item_V), bool)
        kept_V[out] = False
        for arm, lean_I in _pair_leanings(item_V, judge_V, label_V, crowd_V, side_V, kept_V).items():
            said = np.sign(np.round(lean_I[item_V[out]] - 0.5, 9))
            truth = 2 * label_V[out] - 1
            right_I = np.full(items, np.nan)
            right_I[item_V[out]] = (1 + said * truth) / 2
            right.setdefault(arm, []).append(right_I)
    for arm, told in right.items():
        book.add("labels", "llmfao, a crowd vote", arm, right=_mean_known(np.array(told)))
    against(book, "labels", "llmfao, a crowd vote", "crowd majority", "right")


def _pair_leanings(
    item_V: np.ndarray,
    judge_V: np.ndarray,
    label_V: np.ndarray,
    crowd_V: np.ndarray,
    side_V: list[np.ndarray],
    kept_V: np.ndarray,
) -> dict[str, np.ndarray]:
    """Chance that side a of each pair is better, from the votes that are kept."""
    items, worth_V = int(item_V.max()) + 1, np.where(label_V == TIE, 0.5, label_V)

    def share(chosen_V: np.ndarray) -> np.ndarray:
        count = np.bincount(item_V[chosen_V], minlength=items)
        return (np.bincount(item_V[chosen_V], worth_V[chosen_V], items) + 0.5) / (count + 1)

    _, first_I = np.unique(item_V, return_index=True)
    a_I, b_I = side_V[0][first_I], side_V[1][first_I]
    models = int(max(side_V[0].max(), side_V[1].max())) + 1
    start_P = np.array([0, models])
    out = {"crowd majority": share(kept_V & crowd_V), "crowd + 2 judges": share(kept_V)}
    out["2 judges alone"] = share(~crowd_V)
    for arm, chosen in (("Dawid-Skene, all", kept_V), ("Dawid-Skene, crowd", kept_V & crowd_V)):
        told = fit_dawid_skene(item_V[chosen], judge_V[chosen], label_V[chosen], classes=3, tol=SETTLED)
        soft_IK = np.tile([0.5, 0.5, 0.0], (items, 1))
        soft_IK[: len(told.soft_IK)] = told.soft_IK
        out[arm] = soft_IK[:, 1] + soft_IK[:, TIE] / 2
    kept = kept_V & crowd_V
    pairs, _ = gather(side_V[0][kept], side_V[1][kept], worth_V[kept].astype(float), start_P)
    told = robust.repair(pairs, strict=False)
    w_R = ratings.fit_newton(pairs, ridge=PRIOR).strength_R
    out["models: Bradley-Terry"] = ratings.win_probability(w_R[a_I] - w_R[b_I])
    out["models: LAD"] = ratings.win_probability(told.lad_R[a_I] - told.lad_R[b_I])
    count_I = np.bincount(item_V[kept], minlength=items)
    own_I = np.bincount(item_V[kept], worth_V[kept], items)
    out["crowd, shrunk to models"] = (own_I + 2 * out["models: Bradley-Terry"]) / (count_I + 2)
    return out


def dices(book: Book, data: Path, rounds: int) -> None:
    """k raters at random against the majority of the others (yes or no; unsure is no vote)."""
    frame = pl.read_parquet(data / "dices_safety.parquet")
    for subset in ("dices_990", "dices_350_crowdsourced"):
        lists = frame.filter(pl.col("subset") == subset)["ratings"].to_list()
        width = max(map(len, lists))
        vote_IJ = np.array([row + [2] * (width - len(row)) for row in lists])
        known_IJ, yes_IJ = vote_IJ != 2, vote_IJ == 1
        rng = np.random.default_rng(0)
        for k in (1, 3, 5, 9):
            right: dict[str, list[np.ndarray]] = {}
            for _ in range(rounds):
                slots = rng.permutation(width)[:k]  # the same slots for all items: a slot can be a judge
                rest = np.setdiff1d(np.arange(width), slots)
                lead_I = 2 * yes_IJ[:, rest].sum(1) - known_IJ[:, rest].sum(1)
                label_IJ = np.where(known_IJ[:, slots], yes_IJ[:, slots].astype(int), -1)
                said = {"majority": (label_IJ == 1).sum(1) - (label_IJ == 0).sum(1)}
                said["always the commoner side"] = np.full(len(lead_I), np.sign(np.sign(lead_I).sum()))
                if k >= 3:
                    soft_I = dawid_skene_label(label_IJ)
                    said["Dawid-Skene"] = np.where(soft_I < 0, 0, 2 * soft_I - 1)
                for arm, lean_I in said.items():
                    hit_I = np.where(lead_I == 0, np.nan, (1 + np.sign(lean_I) * np.sign(lead_I)) / 2)
                    right.setdefault(arm, []).append(hit_I)
            cell = f"{subset}, {k} raters"
            for arm, told in right.items():
                book.add("labels", cell, arm, right=_mean_known(np.array(told)))
            if k >= 3:
                against(book, "labels", cell, "majority", "right")
        rate = noise.flip_rate_from_repeats(yes_IJ.sum(1), known_IJ.sum(1), rng=rng)
        tell_rate(book, subset, rate)


def tell_rate(book: Book, cell: str, rate: noise.Rate) -> None:
    book.add("flip rate", cell, "all", value=rate.value, low=rate.low, high=rate.high, items=rate.n)
    told = (
        "undefined: " + rate.reason if rate.value is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
    )
    print(f"  flip rate, {cell}: {told} from {rate.n} items; a lower bound of the mean where items differ")


def alpacafarm(book: Book, data: Path) -> None:
    frame = pl.read_parquet(data / "alpacafarm_gpt4_8draws.parquet")
    names = [f"b{b}_s{s}" for b in (1, 5) for s in range(4)]
    vote_ID = frame.select(names).to_numpy() == 1
    rng = np.random.default_rng(0)
    for cell, chosen in (("alpacafarm, all 8", slice(0, 8)), ("one pair a call", slice(0, 4)), ("five", slice(4, 8))):
        part = vote_ID[:, chosen]
        tell_rate(book, cell, noise.flip_rate_from_repeats(part.sum(1), np.full(len(part), part.shape[1]), rng=rng))
    judges = noise.judge_accuracy(vote_ID.astype(float), rng=rng)
    told = ", ".join(f"{a:.3f}" for a in judges.accuracy_J)
    print(f"  accuracy of each draw by the triangle identities: {told}")
    right: dict[str, list[np.ndarray]] = {}
    for d in range(8):
        lead_I = 2 * np.delete(vote_ID, d, axis=1).sum(1) - 7
        right.setdefault("1 draw", []).append((vote_ID[:, d] == (lead_I > 0)).astype(float))
    book.add("labels", "alpacafarm, majority of the other 7", "1 draw", right=np.mean(right["1 draw"], axis=0))
    pooling: dict[str, list[np.ndarray]] = {}
    for _ in range(200):
        order = rng.permutation(8)
        truth_I = vote_ID[:, order[:3]].sum(1) >= 2
        for k in (1, 3, 5):
            said_I = 2 * vote_ID[:, order[3 : 3 + k]].sum(1) > k
            pooling.setdefault(f"majority of {k}", []).append((said_I == truth_I).astype(float))
        soft_I = noise.soft_labels(vote_ID[:, order[3:]].astype(float), judges.accuracy_J[order[3:]])
        pooling.setdefault("5, weighted by accuracy", []).append(((soft_I > 0.5) == truth_I).astype(float))
    for arm, hits in pooling.items():
        book.add("labels", "alpacafarm, majority of 3 others", arm, right=np.mean(hits, axis=0))
    against(book, "labels", "alpacafarm, majority of 3 others", "majority of 1", "right")
    against(book, "labels", "alpacafarm, majority of 3 others", "majority of 5", "right")


def cyclic_share(flip: float) -> float:
    """Chance that 6 comparisons of 4 ranked responses, each flipped with that probability, hold a cycle."""
    flip_SE = (np.arange(64)[:, None] >> np.arange(6) & 1).astype(float)
    start_P = np.arange(65) * 4
    left_I, right_I = all_pairs(start_P)
    pairs, _ = gather(left_I, right_I, 1 - flip_SE.ravel(), start_P)
    chance_S = np.prod(np.where(flip_SE == 1, flip, 1 - flip), axis=1)
    return float(chance_S @ (majority_cycles(pairs).cycles_P > 0))


def most_flips(prompts: int) -> float:
    """The flip rate at which no cycle in so many prompts has a chance of 5 %."""
    low, high = 0.0, 0.5
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - cyclic_share(middle)) ** prompts > 0.05 else (low, middle)
    return high


def qa_feedback(book: Book, data: Path) -> None:
    chosen = pl.read_parquet(data / "qa_feedback_dev.parquet")["preference"].to_list()
    outcome_PE = np.array([[{1: 1.0, 2: 0.0, 0: 0.5}[said] for said in row] for row in chosen])
    start_P = np.arange(len(outcome_PE) + 1) * 4
    left_I, right_I = all_pairs(start_P)
    pairs, _ = gather(left_I, right_I, outcome_PE.ravel(), start_P)
    w_R = ratings.fit_newton(pairs, ridge=PRIOR).strength_R
    cycles = majority_cycles(pairs, ratings.win_probability(w_R[pairs.left_I] - w_R[pairs.right_I]))
    seen_P, ties = cycles.cycles_P > 0, float((outcome_PE == 0.5).mean())
    fair_P = (outcome_PE != 0.5).all(1)
    book.add("cycles", "qa_feedback", "seen", prompts=seen_P.astype(float), per_prompt=cycles.cycles_P)
    book.add("cycles", "qa_feedback", "expected", per_prompt=cycles.expected_P)
    print(
        f"\nqa_feedback: cycles in {seen_P.mean():.1%} of {len(seen_P)} prompts ({fair_P.sum()} of them without ties, "
        f"{seen_P[fair_P].mean():.1%}); {cycles.cycles_P.mean():.3f} per prompt, {cycles.expected_P.mean():.3f} expected "
        f"under the fitted strengths (1 at random); {ties:.0%} ties"
    )
    clear = int(fair_P.sum() if not seen_P[fair_P].any() else 0)
    most = most_flips(clear) if clear else np.nan
    book.add("cycles", "qa_feedback", "flip rate ruled out above", value=most)
    print(f"  with no cycle in {clear} such prompts, independent flips of more than {most:.2%} are ruled out (95 %)")
    side_E = (left_I[:6], right_I[:6])
    right: dict[str, list[np.ndarray]] = {}
    for e in range(6):
        outcome = outcome_PE.copy()
        outcome[:, e] = np.nan
        rest, _ = gather(left_I, right_I, outcome.ravel(), start_P)
        degree_R = np.bincount(np.concatenate((rest.left_I, rest.right_I)), minlength=len(w_R))
        told = robust.repair(rest, strict=False)
        arms = {"Copeland": orders.copeland(rest) / degree_R, "LAD": told.lad_R, "LAD, flag, refit": told.strength_R}
        arms["Bradley-Terry"] = ratings.fit_newton(rest, ridge=PRIOR).strength_R
        truth_P = np.sign(outcome_PE[:, e] - 0.5)
        for arm, score_R in arms.items():
            lean_P = np.sign(np.round(score_R[start_P[:-1] + side_E[0][e]] - score_R[start_P[:-1] + side_E[1][e]], 9))
            right.setdefault(arm, []).append(np.where(truth_P == 0, np.nan, (1 + lean_P * truth_P) / 2))
    for arm, hits in right.items():
        book.add("labels", "qa_feedback, one of six", arm, right=_mean_known(np.array(hits)))
    against(book, "labels", "qa_feedback, one of six", "Copeland", "right")


# ---- score matrices -------------------------------------------------------------------------------------------------


def row_means(value_PJ: np.ndarray) -> Found:
    """Distance from the mean of the others in the row."""
    known_PJ = np.isfinite(value_PJ)
    sum_P1 = np.nansum(value_PJ, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        away_PJ = np.abs(value_PJ - (sum_P1 - value_PJ) / (known_PJ.sum(1, keepdims=True) - 1))
    return Found(away_PJ, None, away_PJ > np.inf)


FINDERS: dict[str, Callable[[np.ndarray], Found]] = {
    "column z": column_z,
    "row mean": row_means,
    "two-way means": two_means,
    "two-way LAD": two_way_lad,
    "LAD residual": two_way_residual,
    "columns": columns,
    "AltProj": altproj,
    "PCP": pcp,
}


def planted(book: Book, cell: str, value_PJ: np.ndarray, ends: tuple[float, float], seeds: int) -> None:
    """5 % of the observed cells moved to the far end of the scale."""
    low, high = ends
    known_PJ = np.isfinite(value_PJ)
    far_PJ = np.where(value_PJ > (low + high) / 2, low, high)
    told: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng([11, seed])
        bad_PJ = known_PJ & (rng.random(value_PJ.shape) < 0.05)
        dirty_PJ = np.where(bad_PJ, far_PJ, value_PJ)
        for arm, finder in FINDERS.items():
            try:
                suspect = finder(dirty_PJ).suspect_PJ[known_PJ]
            except (NotConverged, NotIdentifiable):
                continue
            bad = bad_PJ[known_PJ]
            told.setdefault(arm, []).append((auc(suspect, bad), precision_at(suspect, bad), np.isnan(suspect).mean()))
    for arm, rows in told.items():
        if len(rows) == seeds:
            found = np.array(rows)
            book.add("planted", cell, arm, auc=found[:, 0], precision=found[:, 1], silent=found[:, 2])
    missing = [arm for arm in FINDERS if len(told.get(arm, [])) < seeds]
    if missing:
        print(f"  planted, {cell}: no fit in some seeds, left out: {', '.join(missing)}")
    against(book, "planted", cell, "two-way means", "auc")


def held_out(book: Book, cell: str, value_PJ: np.ndarray, seeds: int) -> None:
    """A tenth of the cells hidden and predicted: mean |error| and root mean square, in units of the scale."""
    known_PJ = np.isfinite(value_PJ)
    told: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng([12, seed])
        hidden_PJ = known_PJ & (rng.random(value_PJ.shape) < 0.1)
        seen_PJ = np.where(hidden_PJ, np.nan, value_PJ)
        centre, sd = float(np.nanmean(seen_PJ)), noise_floor(fit_two_way(seen_PJ))
        fits = {"column mean": np.broadcast_to(np.nanmean(seen_PJ, axis=0), value_PJ.shape)}
        fits |= {"two-way means": two_means(seen_PJ).fit_PJ, "two-way LAD": two_way_residual(seen_PJ).fit_PJ}
        for rank in (1, 2, 3):
            try:
                fits[f"AltProj rank {rank}"] = (
                    lowrank.split_low_rank(seen_PJ - centre, rank=rank, sd=sd).low_PJ + centre
                )
            except (NotConverged, NotIdentifiable):
                continue
        for arm, fit_PJ in fits.items():
            away = np.abs(fit_PJ - value_PJ)[hidden_PJ]
            told.setdefault(arm, []).append((np.nanmean(away), np.nanmean(away**2) ** 0.5))
    for arm, pairs in told.items():
        if len(pairs) == seeds:
            book.add("held out", cell, arm, mean=np.array(pairs)[:, 0], rms=np.array(pairs)[:, 1])
        else:
            print(f"  held out, {cell}: {arm} has a fit in {len(pairs)} of {seeds} seeds, left out")
    for metric in ("mean", "rms"):
        against(book, "held out", cell, "two-way means", metric, less=True)


def matrix(frame: pl.DataFrame, row: str | list[str], column: str, value: str) -> np.ndarray:
    wide = frame.pivot(column, index=row, values=value, aggregate_function="first")
    return wide.drop(row).to_numpy().astype(float)


def score_matrices(book: Book, data: Path, seeds: int) -> None:
    bench = pl.read_parquet(data / "wildbench_scores.parquet").filter(pl.col("version") == "v2.0522")
    bench = bench.sort("session_id", "model")
    scale = (1.0, 10.0)
    judges = matrix(bench, ["session_id", "model"], "judge", "score")
    planted(book, "wildbench, 2 judges", judges[np.isfinite(judges).all(1)], scale, seeds)
    for judge in ("gpt-4-turbo-2024-04-09", "gpt-4o-2024-05-13"):
        wide = matrix(bench.filter(pl.col("judge") == judge), "session_id", "model", "score")
        cell = f"wildbench, {wide.shape[0]}x{wide.shape[1]}"
        planted(book, cell, wide, scale, seeds)
        held_out(book, cell, wide, seeds)
    notes = pl.read_parquet(data / "alpaca_eval_annotations.parquet")
    notes = notes.filter((pl.col("run") == 0) & (pl.col("baseline") != "gpt4_0613")).sort(
        "prompt_id", "model", "annotator"
    )
    four = ["alpaca_eval_cot_gpt4_turbo_fn", "alpaca_eval_gpt4", "alpaca_eval_gpt4_turbo_fn"]
    for names in (["alpaca_eval_gpt4", "claude"], four):
        names = [*names, "weighted_alpaca_eval_gpt4_turbo"]
        side = matrix(notes.filter(pl.col("annotator").is_in(names)), ["prompt_id", "model"], "annotator", "p_win")
        side = side[np.isfinite(side).all(1)]
        planted(book, f"alpaca_eval, {len(names)} judges", side, (0.0, 1.0), seeds)
    adversarial = ["NullModel", "gpt4_gamed", "gpt4_1106_preview"]
    for judge in ("weighted_alpaca_eval_gpt4_turbo", "alpaca_eval_gpt4"):
        here = notes.filter((pl.col("annotator") == judge) & ~pl.col("model").is_in(adversarial))
        wide = matrix(here, "prompt_id", "model", "p_win")
        cell = f"{judge.split('_eval')[0]}.., {wide.shape[0]}x{wide.shape[1]}"
        planted(book, cell, wide, (0.0, 1.0), seeds)
        held_out(book, cell, wide, seeds)


def run(book: Book, data: Path, *, small: bool) -> None:
    seeds, rounds = (2, 2) if small else (10, 20)
    print("\nreal data\n")
    wmt(book, data)
    hanna(book, data)
    pandalm(book, data)
    llmfao(book, data, rounds)
    dices(book, data, rounds)
    alpacafarm(book, data)
    qa_feedback(book, data)
    score_matrices(book, data, seeds)
    for cell in book.cells("ranking"):
        book.report("ranking", cell, f"{cell}: Spearman with the rater left out", ("spearman",))
    for cell in book.cells("labels"):
        book.report("labels", cell, f"{cell}: share right", ("right",))
    book.table("planted", "auc", "5 % of the cells moved to the far end: AUC over seeds")
    book.table("planted", "precision", "the same: precision at k")
    book.table("planted", "silent", "the same: share of the cells that the method says nothing of")
    book.table("held out", "mean", "a tenth of the cells hidden: mean |error|")
    book.table("held out", "rms", "the same: root mean square error")
