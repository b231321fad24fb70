"""What the claims share: results by cell and arm, their intervals over seeds, tables, and a verdict per expectation."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """Mean and half width of its 95 % interval (Student's t) over the values that are not nan."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:.3f} (n=1)" if self.n else "-"
        return f"{self.mean:.3f} ±{self.half:.3f}"


def interval(value_S: np.ndarray) -> Interval:
    known = np.asarray(value_S, float)
    known = known[np.isfinite(known)]
    n = len(known)
    if n == 0:
        return Interval(np.nan, np.nan, 0)
    half = stats.t.ppf(0.975, n - 1) * known.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    return Interval(float(known.mean()), float(half), n)


class Book:
    """values[experiment][cell][arm][metric]: one number per seed (or per prompt of real data)."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]] = {}
        self.verdicts: list[dict[str, Any]] = []

    def add(self, experiment: str, cell: str, arm: str, **metrics: np.ndarray) -> None:
        at = self.values.setdefault(experiment, {}).setdefault(cell, {}).setdefault(arm, {})
        at.update({name: np.atleast_1d(np.asarray(value, float)) for name, value in metrics.items()})

    def get(self, experiment: str, cell: str, arm: str, metric: str) -> np.ndarray:
        return self.values[experiment][cell][arm][metric]

    def over(self, experiment: str, cell: str, arm: str, other: str, metric: str) -> Interval:
        """The paired difference arm - other."""
        return interval(self.get(experiment, cell, arm, metric) - self.get(experiment, cell, other, metric))

    def cells(self, experiment: str) -> list[str]:
        return list(self.values.get(experiment, {}))

    def table(self, experiment: str, metric: str, title: str) -> None:
        """Cells down, arms across."""
        cells = self.values[experiment]
        arms = list(dict.fromkeys(arm for by_arm in cells.values() for arm in by_arm if metric in by_arm[arm]))
        if not arms:
            return
        width = max(14, *(len(arm) + 1 for arm in arms))
        first = max(len(cell) for cell in cells) + 1
        print(f"\n{experiment}  {title}\n{'':{first}}" + "".join(f"{arm:>{width}}" for arm in arms))
        for cell, by_arm in cells.items():
            told = [str(interval(by_arm[arm][metric])) if metric in by_arm.get(arm, {}) else "" for arm in arms]
            print(f"{cell:{first}}" + "".join(f"{text:>{width}}" for text in told))

    def report(self, experiment: str, cell: str, title: str, metrics: Sequence[str]) -> None:
        """Arms down, metrics across, for one cell."""
        by_arm = self.values[experiment][cell]
        first = max(len(arm) for arm in by_arm) + 1
        print(f"\n{experiment}  {title}\n{'':{first}}" + "".join(f"{name:>18}" for name in metrics))
        for arm, told in by_arm.items():
            row = [str(interval(told[name])) if name in told else "" for name in metrics]
            print(f"{arm:{first}}" + "".join(f"{text:>18}" for text in row))

    def verdict(self, experiment: str, text: str, holds: bool, numbers: str) -> None:
        self.verdicts.append({"experiment": experiment, "expect": text, "holds": bool(holds), "numbers": numbers})
        print(f"  {'holds' if holds else 'DOES NOT HOLD':14} {experiment}: {text}: {numbers}")

    def verdict_cells(
        self, experiment: str, text: str, cells: Iterable[str], ask: Callable[[str], tuple[bool, str]]
    ) -> None:
        """One verdict from a question put to several cells: holds where it does in all of them."""
        told = {cell: ask(cell) for cell in cells}
        lost = [f"{cell} ({words})" for cell, (good, words) in told.items() if not good]
        numbers = f"in {len(told) - len(lost)} of {len(told)} cells"
        if lost:
            numbers += "; not in " + "; ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        elif told:
            numbers += "; last " + next(reversed(told.items()))[1][1]
        self.verdict(experiment, text, not lost and bool(told), numbers)

    def write(self, path: Path, **head: Any) -> None:
        out = [
            {"experiment": e, "cell": c, "arm": a, "metric": m, **interval(value)._asdict()}
            for e, cells in self.values.items()
            for c, arms in cells.items()
            for a, metrics in arms.items()
            for m, value in metrics.items()
        ]
        text = json.dumps({**head, "results": out, "verdicts": self.verdicts}, indent=1)
        path.write_text(text.replace("NaN", "null").replace("Infinity", "null") + "\n")


def auc(score: np.ndarray, hit: np.ndarray) -> float:
    """Chance that a hit scores above another cell, ties 1/2; nan scores are the lowest. nan without both kinds."""
    hits = int(hit.sum())
    if hits in (0, len(hit)):
        return np.nan
    rank = stats.rankdata(np.nan_to_num(score, nan=-1.0, posinf=1e300))
    return float((rank[hit].sum() - hits * (hits + 1) / 2) / (hits * (len(hit) - hits)))


def precision_at(score: np.ndarray, hit: np.ndarray) -> float:
    """Share of hits among the k highest scores, k the number of hits; equal scores at the edge share what is left."""
    k = int(hit.sum())
    if k == 0:
        return np.nan
    score = np.nan_to_num(score, nan=-1.0, posinf=1e300)
    edge = np.sort(score)[-k]
    above, level = score > edge, score == edge
    return float((hit[above].sum() + hit[level].mean() * (k - above.sum())) / k)
