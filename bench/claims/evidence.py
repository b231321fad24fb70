"""From the results of a claim to verdicts: rows on disk, and tests that say what must be above what, and by a rule whether it is.

A row is (claim, part, cell, arm, seed, metric, value). A test compares two of them seed by seed; its outcome is

    same    the whole 95 % interval lies within the tolerance, which stands beside the test
    above   not that, and the interval lies above 0;  below: below 0
    open    the interval holds 0 and reaches beyond the tolerance: more seeds would be needed
    absent  a cell or arm of it was not run
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import yaml
from book import Book, Interval, interval

HERE = Path(__file__).parent
SCHEMA = {
    "claim": pl.String, "part": pl.String, "cell": pl.String, "arm": pl.String, "seed": pl.Int64, "metric": pl.String,
    "value": pl.Float64,
}  # fmt: skip
TOLERANCE = {"gain": 0.05, "gain_at_kl": 0.05, "gain_far": 0.05}  # in spreads of the start policy
Outcome = Literal["above", "below", "same", "open", "absent"]


def rows(book: Book, claim: str, part: str, seeds: list[int]) -> pl.DataFrame:
    """What a book holds; a metric with another number of values than there are seeds is numbered from 0."""
    out = []
    for experiment, cells in book.values.items():
        for cell, arms in cells.items():
            whole = f"{experiment} {cell}".strip()
            for arm, metrics in arms.items():
                for metric, value in metrics.items():
                    number = seeds if len(value) == len(seeds) else range(len(value))
                    out += [(claim, part, whole, arm, s, metric, float(v)) for s, v in zip(number, value, strict=True)]
    return pl.DataFrame(out, schema=SCHEMA, orient="row").with_columns(pl.col("value").fill_nan(None))


class Results:
    """Rows of one claim by (cell, arm, metric): one value per seed, in the order of the seeds, nan where missing."""

    def __init__(self, table: pl.DataFrame) -> None:
        grouped = table.sort("seed").group_by("cell", "arm", "metric", maintain_order=True).agg("value")
        self.values = {
            (c, a, m): np.array([np.nan if v is None else v for v in value]) for c, a, m, value in grouped.iter_rows()
        }

    def get(self, cell: str, arm: str, metric: str) -> np.ndarray | None:
        return self.values.get((cell, arm, metric))

    def cells(self) -> list[str]:
        return list(dict.fromkeys(cell for cell, _, _ in self.values))


@dataclass(frozen=True)
class Test:
    """(cell, arm, metric) less (over_cell, over, metric), seed by seed; and less `minus`, another such difference.

    Without `over` and `over_cell` it is the value itself. `claim` is the outcome that the source (or we) claim, `expect` the
    one that we wrote down before the first run; none where nothing was expected.
    """

    when: str
    cell: str
    arm: str
    over: str | None = None
    over_cell: str | None = None
    metric: str = "gain"
    claim: str | None = None
    expect: str | None = None
    minus: Mapping[str, str] = field(default_factory=dict)
    tolerance: float | None = None
    id: str = ""

    @property
    def width(self) -> float:
        return TOLERANCE.get(self.metric, 0.01) if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class Told:
    """A test and what came of it."""

    test: Test
    size: Interval
    outcome: Outcome

    @property
    def holds(self) -> str:
        """yes, no, or open: whether the claim stands in this condition."""
        if self.outcome in ("open", "absent"):
            return "open"
        return "yes" if self.outcome == self.test.claim else "no"

    @property
    def surprise(self) -> bool:
        return self.test.expect not in (None, self.outcome) and self.outcome not in ("open", "absent")


def judge(size: Interval, tolerance: float) -> Outcome:
    if size.n == 0:
        return "absent"
    if -tolerance < size.low and size.high < tolerance:
        return "same"
    if size.low > 0:
        return "above"
    return "below" if size.high < 0 else "open"


def ask(results: Results, test: Test) -> Told:
    size = difference(results, test)
    return Told(test, size, judge(size, test.width))


def difference(results: Results, test: Test) -> Interval:
    value = _one(results, test.cell, test.arm, test.over, test.over_cell, test.metric)
    if test.minus and value is not None:
        m = {"cell": test.cell, "arm": test.arm, "over": None, "over_cell": None, "metric": test.metric, **test.minus}
        less = _one(results, m["cell"], m["arm"], m["over"], m["over_cell"], m["metric"])
        value = None if less is None else value - less
    return interval(np.array([]) if value is None else value)


def _one(
    results: Results, cell: str, arm: str, over: str | None, over_cell: str | None, metric: str
) -> np.ndarray | None:
    value = results.get(cell, arm, metric)
    if over is None and over_cell is None:
        return value
    other = results.get(over_cell or cell, over or arm, metric)
    return None if value is None or other is None else value - other


# ---- the arms file of a claim ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table of claims."""

    text: str
    tests: list[Test]
    controls: list[Test]


@dataclass(frozen=True)
class Claim:
    """What NAME.yaml says: settings, seeds, and the rows with their tests."""

    name: str
    title: str
    source: str
    world: str
    settings: Mapping[str, Any]
    seeds: Mapping[str, int]
    rows: list[Row]
    defaults: list[Mapping[str, Any]]
    plots: list[Mapping[str, Any]]

    def tests(self) -> list[Test]:
        return [test for row in self.rows for test in (*row.tests, *row.controls)]


def read(name: str) -> Claim:
    raw = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    made = [
        Row(row["text"], [Test(**t) for t in row["tests"]], [Test(**t) for t in row.get("controls", [])])
        for row in raw["claims"]
    ]
    keys = ("title", "source", "world", "settings", "seeds")
    return Claim(name, *(raw[key] for key in keys), made, raw.get("defaults", []), raw.get("plots", []))


# ---- fingerprints ---------------------------------------------------------------------------------------------------


def closure(module: str, root: Path = HERE) -> list[Path]:
    """The files of ours that a module runs: it, what it imports of the claims and of the product, and so on."""
    found: dict[Path, None] = {}
    todo = [root / f"{module}.py"]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = None
        todo += [file for name in _imports(path, path.stat().st_mtime_ns) if (file := _file(name, root)) is not None]
    return sorted(found)


@cache
def _imports(path: Path, _: int) -> list[str]:
    """Of a file as it stands at a time."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _file(name: str, root: Path) -> Path | None:
    if (own := root / f"{name}.py").exists():
        return own
    if not name.startswith("pairwright"):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def fingerprint(module: str, said: Mapping[str, Any]) -> str:
    """Names code (comments and docstrings apart), settings and seeds: the same name, the same results."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for path in closure(module):
        digest.update(_bare(path, path.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:12]


@cache
def _bare(path: Path, _: int) -> str:
    """Its code without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return ast.dump(tree)
