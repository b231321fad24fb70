"""Pair construction against what people use today: seconds and peak memory, each job alone in a process of its own.

    python bench/speed/pairing.py [numeric|text|growth] [--scale 1.0] [--rounds 2]

numeric   156,250 prompts x 64 scores in flat Parquet: read, mean, sd, max and nearest to mean - 2 sd of every prompt
text      61,135 prompts x 5 responses of about 1.3 kB, nested Parquet: TRL rows out. `floor` reads the columns and writes
          the first response of every prompt as chosen: nothing can be faster that reads and writes the same
growth    10k, 100k and 1M prompts x 8 through the whole of `pairwright pair`

Jobs are run in turns; the best of the rounds is printed, with its ratio to ours. Seeds are fixed, nothing is asserted.
"""

import argparse
import json
import resource
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

SEED = 0


def make_numeric(path: Path, prompts: int, each: int) -> None:
    rng = np.random.default_rng(SEED)
    n = prompts * each
    columns = {"prompt_id": np.repeat(np.arange(prompts), each), "response_id": np.tile(np.arange(each), prompts)}
    pl.DataFrame({**columns, "score": rng.normal(size=n)}).write_parquet(path)


def make_text(path: Path, prompts: int) -> None:
    """Words at random, 5 responses of 0.5 to 2 kB, 5 % ties."""
    rng = np.random.default_rng(SEED)
    ends = ["nto", "rel", "mis", "kad", "vor"]
    words = np.array([a + b for a in ["ba", "de", "fi", "go", "lu", "ma", "ne", "pa", "ro", "su"] for b in ends])
    stock = [" ".join(words[rng.integers(0, 50, int(size))]) for size in rng.integers(80, 340, 4000)]
    picked = rng.integers(0, 4000, (prompts, 5))
    scores = np.round(rng.normal(size=(prompts, 5)), 3)
    tied = rng.random(prompts) < 0.05
    scores[tied] = scores[tied, :1]
    responses = [[f"{i} {j} {stock[at]}" for j, at in enumerate(row)] for i, row in enumerate(picked)]
    data = {"prompt": [f"Question {i}: {stock[i % 4000][:200]}" for i in range(prompts)], "responses": responses}
    pl.DataFrame({**data, "scores": scores.tolist()}).write_parquet(path)


def ours_numeric(path: Path, _: Path) -> int:
    from pairwright.engine import ahead
    from pairwright.io.candidates import read_candidates
    from pairwright.pair.build import Pairing, build_pairs

    settings = Pairing(rejected="mu-2sigma")
    return sum(built.pairs.height for built in ahead(lambda batch: build_pairs(batch, settings), read_candidates(path)))


def numpy_numeric(path: Path, _: Path) -> int:
    data = pl.read_parquet(path)
    prompt, score = data["prompt_id"].to_numpy(), data["score"].to_numpy()
    start = np.concatenate(([0], np.flatnonzero(prompt[1:] != prompt[:-1]) + 1, [len(prompt)]))
    size = np.diff(start)
    mean = np.add.reduceat(score, start[:-1]) / size
    sd = np.sqrt(np.add.reduceat((score - np.repeat(mean, size)) ** 2, start[:-1]) / size)
    best = np.flatnonzero(score == np.repeat(np.maximum.reduceat(score, start[:-1]), size))
    away = np.abs(score - np.repeat(mean - 2 * sd, size))
    near = np.flatnonzero(away == np.repeat(np.minimum.reduceat(away, start[:-1]), size))
    return min(len(best), len(near))


def polars_numeric(path: Path, _: Path) -> int:
    score = pl.col("score")
    target = score.mean() - 2 * score.std(ddof=0)
    picks = (
        pl.scan_parquet(path)
        .group_by("prompt_id")
        .agg(
            chosen=pl.col("response_id").get(score.arg_max()),
            rejected=pl.col("response_id").get((score - target).abs().arg_min()),
        )
    )
    return picks.collect(engine="streaming").height


def duckdb_numeric(path: Path, _: Path) -> int:
    import duckdb

    query = f"""
        with m as (select prompt_id, avg(score) - 2 * stddev_pop(score) as t, arg_max(response_id, score) as c
                   from '{path}' group by prompt_id),
        r as (select s.prompt_id, arg_min(s.response_id, abs(s.score - m.t)) as l
              from '{path}' s join m using (prompt_id) group by s.prompt_id)
        select count(*) from m join r using (prompt_id) where c <> l"""
    return int(duckdb.sql(query).fetchall()[0][0])


def pandas_numeric(path: Path, _: Path) -> int:
    import pandas as pd

    def pick(group: "pd.DataFrame") -> "pd.Series":
        score = group["score"].to_numpy()
        target = score.mean() - 2 * score.std()
        return pd.Series({"c": score.argmax(), "l": np.abs(score - target).argmin()})

    return len(pd.read_parquet(path).groupby("prompt_id")[["score"]].apply(pick))


def datasets_numeric(path: Path, folder: Path) -> int:
    from datasets import Dataset

    nested = folder / "nested.parquet"
    if not nested.exists():
        pl.scan_parquet(path).group_by("prompt_id", maintain_order=True).agg("score").sink_parquet(nested)
    rows = Dataset.from_parquet(str(nested), cache_dir=str(folder / f"cache{time.time_ns()}"))

    def pick(row: dict) -> dict:
        score = row["score"]
        mean = sum(score) / len(score)
        target = mean - 2 * (sum((s - mean) ** 2 for s in score) / len(score)) ** 0.5
        ranked = range(len(score))
        return {"c": max(ranked, key=score.__getitem__), "l": min(ranked, key=lambda i: abs(score[i] - target))}

    return len(rows.map(pick, load_from_cache_file=False))


def ours_text(path: Path, folder: Path) -> int:
    from pairwright.export import Export, export_file
    from pairwright.io.candidates import read_candidates
    from pairwright.pair.build import Pairing
    from pairwright.wiring import file_manifest

    settings = Pairing(rejected="min")
    told = file_manifest(path, settings, {})
    return int(export_file(read_candidates(path), folder / "ours", settings, Export(), told)["pairs"])


def floor_text(path: Path, folder: Path) -> int:
    """Reads all columns, writes prompt + first response as chosen + second as rejected, as messages."""
    user = pl.concat_list(pl.struct(role=pl.lit("user"), content="prompt"))
    said = [
        pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col("responses").list.get(i))) for i in (0, 1)
    ]
    score = pl.col("scores").list.max()
    rows = pl.scan_parquet(path).select(prompt=user, chosen=said[0], rejected=said[1], score=score)
    rows.sink_parquet(folder / "floor.parquet", compression="zstd", compression_level=1)
    return pl.scan_parquet(folder / "floor.parquet").select(pl.len()).collect().item()


def simpo_text(path: Path, folder: Path) -> int:
    """The loop that is copied around: JSON in, arg-max and arg-min, JSON out."""
    scored = folder / "scored.json"
    if not scored.exists():
        scored.write_text(json.dumps(pl.read_parquet(path).to_dicts()))
        return -1
    rows = json.loads(scored.read_text())
    for row in rows:
        best, worst = np.argmax(row["scores"]), np.argmin(row["scores"])
        for side, at in (("chosen", best), ("rejected", worst)):
            messages = [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["responses"][at]},
            ]
            row[side] = messages
    (folder / "simpo.json").write_text(json.dumps(rows, indent=4))
    return len(rows)


def datasets_text(path: Path, folder: Path, workers: int = 1) -> int:
    from datasets import Dataset

    rows = Dataset.from_parquet(str(path), cache_dir=str(folder / f"cache{time.time_ns()}"))

    def pick(row: dict) -> dict:
        best, worst = int(np.argmax(row["scores"])), int(np.argmin(row["scores"]))
        return {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["responses"][best]}],
            "rejected": [{"role": "assistant", "content": row["responses"][worst]}],
            "score_chosen": row["scores"][best],
            "score_rejected": row["scores"][worst],
        }

    num_proc = workers if workers > 1 else None
    pairs = rows.map(pick, remove_columns=rows.column_names, num_proc=num_proc, load_from_cache_file=False)
    pairs.to_parquet(folder / "datasets.parquet")
    return len(pairs)


def datasets2_text(path: Path, folder: Path) -> int:
    return datasets_text(path, folder, workers=2)


def distilabel_text(path: Path, folder: Path) -> int:
    from distilabel.steps import FormatTextGenerationDPO

    step = FormatTextGenerationDPO()
    step.load()
    rows = (
        pl.read_parquet(path)
        .rename({"prompt": "instruction", "responses": "generations", "scores": "ratings"})
        .to_dicts()
    )
    kept = [row for row in next(step.process(rows)) if row["chosen_rating"] > row["rejected_rating"]]
    columns = ("prompt", "chosen", "rejected", "chosen_rating", "rejected_rating")
    pl.DataFrame([{name: row[name] for name in columns} for row in kept]).write_parquet(folder / "distilabel.parquet")
    return len(kept)


JOBS: dict[str, dict[str, Callable[[Path, Path], int]]] = {
    "numeric": {
        "pairwright": ours_numeric,
        "numpy, flat arrays": numpy_numeric,
        "polars group_by": polars_numeric,
        "duckdb": duckdb_numeric,
        "datasets.map, row function": datasets_numeric,
        "pandas groupby.apply": pandas_numeric,
    },
    "text": {
        "pairwright": ours_text,
        "floor": floor_text,
        "SimPO-style loop": simpo_text,
        "datasets.map, 1 process": datasets_text,
        "datasets.map, 2 processes": datasets2_text,
        "distilabel": distilabel_text,
    },
    "growth": {"pairwright": ours_text},
}
SLOW = {"pandas groupby.apply", "datasets.map, row function"}  # one round


def alone(part: str, job: str, path: Path, folder: Path) -> dict[str, float] | None:
    """A job in a fresh process; None where its package is not installed."""
    command = [sys.executable, __file__, part, "--job", job, "--file", str(path), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {job:28} not run: {done.stderr.strip().splitlines()[-1][:90]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def compare(part: str, path: Path, folder: Path, rounds: int) -> None:
    best: dict[str, dict[str, float]] = {}
    for turn in range(rounds):
        for job in JOBS[part]:
            if turn and (job in SLOW or job not in best):
                continue
            told = alone(part, job, path, folder)
            if told and told["rows"] >= 0 and told["seconds"] < best.get(job, {"seconds": np.inf})["seconds"]:
                best[job] = told
            elif told and told["rows"] < 0:  # a job that had to make its own input first
                best[job] = {"seconds": np.inf, "peak": 0, "rows": 0}
    ours = best["pairwright"]["seconds"]
    for job, told in best.items():
        ratio = told["seconds"] / ours
        print(
            f"  {job:28} {told['seconds']:8.2f} s {told['peak']:8.0f} MB {told['rows']:>9.0f} rows   {ratio:6.2f} x ours"
        )


def own_peak() -> int:
    """Highest resident size of this process since its start, kB (ru_maxrss would carry over that of the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*JOBS, "all"], default="all")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.job:
        job = JOBS[options.part][options.job]
        with tempfile.TemporaryDirectory() as name:  # a few rows first: imports and first calls are not timed
            small = Path(name) / "small.parquet"
            pl.read_parquet(options.file, n_rows=640).write_parquet(small)
            job(small, Path(name))
        begun = time.perf_counter()
        rows = job(options.file, options.folder)
        seconds = time.perf_counter() - begun
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        peak = (own_peak() + children) / 1024
        print(json.dumps({"seconds": seconds, "peak": peak, "rows": rows}))
        return
    print(describe("pairwright", "polars", "numpy", "pandas", "duckdb", "datasets", "distilabel"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("numeric", "text") if options.part == "all" else [options.part][: options.part != "growth"]:
            path = folder / f"{part}.parquet"
            prompts = int((156_250 if part == "numeric" else 61_135) * options.scale)
            make_numeric(path, prompts, 64) if part == "numeric" else make_text(path, prompts)
            print(f"\n{part}: {prompts} prompts, {path.stat().st_size / 1e6:.0f} MB")
            compare(part, path, folder, options.rounds)
        if options.part in ("growth", "all"):
            print("\ngrowth: prompts x 8, whole `pairwright pair`, numbers only")
            for prompts in (10_000, 100_000, 1_000_000):
                path = folder / "growth.parquet"
                make_numeric(path, int(prompts * options.scale), 8)
                told = alone("growth", "pairwright", path, folder)
                if told:
                    print(f"  {prompts:>9} prompts {told['seconds']:8.2f} s {told['peak']:8.0f} MB")


if __name__ == "__main__":
    main()
