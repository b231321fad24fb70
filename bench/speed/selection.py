"""Selection over numeric columns against what people do today: seconds and peak memory, each job in a process of its own.

    python bench/speed/selection.py [select|growth] [--pairs 10000000] [--rounds 2]

select    two margins, lengths and ids of 10 M pairs in Parquet: scores, fusion, the best tenth. Ours also checks ids, orders
          all pairs, gives reasons, draws three random subsets and describes all of them; `no controls` leaves the last two
          out. The others return the row numbers of the kept pairs alone
growth    ours with 100k, 1M and 10M pairs

The published script joins by row order, searches bounds step by step, divides the product form and takes the end of an
argsort: pairs where it is 0/0 are nan and come out first. How many of its picks those are is printed beside it.
The influence scores themselves are timed in influence.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import polars as pl

from machine import describe

SEED, SHARE, LOW = 0, 0.1, -2.0
BLOCK = 1_000_000


def make(path: Path, n: int) -> None:
    """Margins that share a truth, with heavy tails, so that bounds, saturation and contradictions are all there."""
    rng = np.random.default_rng(SEED)
    truth = rng.normal(0.8, 1.5, n)
    columns = {
        "prompt_id": np.arange(n) // 4,
        "pair_id": np.arange(n),
        "margin": 5 * (truth + rng.standard_t(4, n)),
        "margin_implicit": 8 * (truth + rng.standard_t(4, n)),
        "n_tokens_chosen": rng.integers(5, 400, n).astype(np.int32),
        "n_tokens_rejected": rng.integers(5, 400, n).astype(np.int32),
    }
    pl.DataFrame(columns).write_parquet(path, row_group_size=BLOCK)


def ours(path: Path, controls: int = 3) -> dict[str, float]:
    from pairwright.select.run import Selection, select

    settings = Selection(margins=["external", "implicit"], keep=SHARE, controls={"n": controls})
    done = select(pl.read_parquet(path), settings)
    return {"rows": done.facts["kept"]}


def ours_alone(path: Path) -> dict[str, float]:
    """The choice without its description."""
    from pairwright.select.pool import Pool
    from pairwright.select.rank import choose
    from pairwright.select.settings import Selection

    pool = Pool(pl.read_parquet(path))
    chosen = choose(pool, Selection(margins=["external", "implicit"], keep=SHARE))
    return {"rows": int(chosen.keep_I.sum())}


def bound(margin: np.ndarray, divisor: float) -> float:
    top, x = float(margin.max()), float(np.trunc(margin.max() / divisor))
    while not ((above := int((margin > x).sum())) < 30 or above < top - x or x > top):
        x += 1
    return min(x, top)


def published(path: Path) -> dict[str, float]:
    """Clip, divide, argsort, the last k."""
    data = pl.read_parquet(path, columns=["margin", "margin_implicit"])
    scores = []
    for name, divisor in (("margin", 1.5), ("margin_implicit", 2.0)):
        m = data[name].to_numpy()
        high = bound(m, divisor)
        scores.append((np.clip(m, LOW, high) - LOW) / (high - LOW))
    a, b = scores
    with np.errstate(invalid="ignore"):
        p = a * b / (a * b + (1 - a) * (1 - b))
    kept = np.argsort(p)[-int(SHARE * len(p)) :]
    return {"rows": len(kept), "nan": int(np.isnan(p[kept]).sum())}


def _polars(frame: pl.LazyFrame, bounds: dict[str, float]) -> pl.LazyFrame:
    odds = [
        ((pl.col(name).clip(LOW, high) - LOW) / (high - LOW)).clip(1e-6, 1 - 1e-6).pipe(lambda p: (p / (1 - p)).log())
        for name, high in bounds.items()
    ]
    return frame.with_columns(score=odds[0] + odds[1])


def polars(path: Path) -> dict[str, float]:
    scanned = pl.scan_parquet(path)
    names = {"margin": 1.5, "margin_implicit": 2.0}
    bounds = {name: bound(pl.read_parquet(path, columns=[name])[name].to_numpy(), d) for name, d in names.items()}
    k = int(SHARE * scanned.select(pl.len()).collect().item())
    return {"rows": _polars(scanned, bounds).top_k(k, by="score").select("pair_id").collect(engine="streaming").height}


def pandas(path: Path) -> dict[str, float]:
    import pandas as pd

    data = pd.read_parquet(path)
    score = 0.0
    for name, divisor in (("margin", 1.5), ("margin_implicit", 2.0)):
        high = bound(data[name].to_numpy(), divisor)
        p = ((data[name].clip(LOW, high) - LOW) / (high - LOW)).clip(1e-6, 1 - 1e-6)
        score = score + np.log(p / (1 - p))
    data["score"] = score
    return {"rows": len(data.sort_values("score", ascending=False).head(int(SHARE * len(data))))}


JOBS: dict[str, Callable[[Path], dict[str, float]]] = {
    "pairwright": ours,
    "pairwright, no controls": ours_alone,
    "numpy script, as published": published,
    "polars, top_k": polars,
    "pandas, sort_values": pandas,
}


def alone(job: str, path: Path) -> dict[str, float] | None:
    """A job in a fresh process; None where its package is not installed."""
    command = [sys.executable, __file__, "--job", job, "--file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {job:28} not run: {done.stderr.strip().splitlines()[-1][:90]}")
        return None
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def line(job: str, told: dict[str, float], ours: float) -> str:
    extra = f", {told['nan']:.0f} of them 0/0" if told.get("nan") else ""
    ratio = told["seconds"] / ours
    return f"  {job:28} {told['seconds']:8.2f} s {told['peak']:8.0f} MB {ratio:6.2f} x ours, {told['rows']:.0f} kept{extra}"


def own_peak() -> float:
    """Highest resident size of this process, MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM"))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["select", "growth", "all"], default="all")
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.job:
        job = JOBS[options.job]
        with tempfile.TemporaryDirectory() as name:  # a few rows first: imports and first calls are not timed
            small = Path(name) / "small.parquet"
            pl.read_parquet(options.file, n_rows=1000).write_parquet(small)
            job(small)
        begun = time.perf_counter()
        told = job(options.file)
        print(json.dumps({**told, "seconds": time.perf_counter() - begun, "peak": own_peak()}))
        return
    print(describe("pairwright", "polars", "numpy", "pandas"))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "pairs.parquet"
        if options.part in ("select", "all"):
            make(path, options.pairs)
            print(f"\nselect: {options.pairs} pairs, {path.stat().st_size / 1e6:.0f} MB, the best {SHARE:.0%}")
            best: dict[str, dict[str, float]] = {}
            for turn in range(options.rounds):
                for job in JOBS:
                    if (turn == 0 or job in best) and (told := alone(job, path)):
                        kept = best.setdefault(job, told)
                        best[job] = min(kept, told, key=lambda each: each["seconds"])
            for job, told in best.items():
                print(line(job, told, best["pairwright"]["seconds"]))
        if options.part in ("growth", "all"):
            print("\ngrowth: the whole of select, three controls")
            for n in (options.pairs // 100, options.pairs // 10, options.pairs):
                make(path, n)
                if told := alone("pairwright", path):
                    print(f"  {n:>9} pairs {told['seconds']:8.2f} s {told['peak']:8.0f} MB")


if __name__ == "__main__":
    main()
