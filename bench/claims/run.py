"""The evidence bench: every claim at a small setting (or --full), and the page made of the results.

    python bench/claims/run.py [--full] [--seed 0] [--only sweet_spot,routing] [--jobs 2] [--out runs/claims] [--page FILE]

A part of a claim whose code, settings and seeds have not changed is not run again. The page is docs/evidence.md where the seed
is 0 and the setting small; else it stands beside the results, so that two seeds can be laid side by side.
"""

import argparse
import importlib
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import evidence
import page
import polars as pl
from book import Book

from machine import describe

ROOT = Path(__file__).parents[2]
CLAIMS = (
    "sweet_spot", "margin_selection", "conditioning", "rating_losses", "chosen_quality", "sft_routing", "influence",
    "planted_errors", "whole_pipeline",
)  # fmt: skip


def seeds_of(claim: evidence.Claim, setting: str, seed: int) -> list[int]:
    """Seeds of another --seed share none with these."""
    return [1000 * seed + s for s in range(claim.seeds[setting])]


def work(name: str, part: str, setting: str, seeds: list[int], path: Path) -> float:
    """One part of a claim into its file; seconds."""
    begun = time.perf_counter()
    book = Book()
    importlib.import_module(name).PARTS[part](book, evidence.read(name).settings[setting], seeds)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    evidence.rows(book, name, part, seeds).write_parquet(aside)
    aside.replace(path)
    return time.perf_counter() - begun


def jobs(names: list[str], setting: str, seed: int, out: Path) -> list[tuple[str, str, str, list[int], Path]]:
    made = []
    for name in names:
        claim = evidence.read(name)
        seeds = seeds_of(claim, setting, seed)
        said = {"settings": claim.settings[setting], "seeds": seeds}
        for part in importlib.import_module(name).PARTS:
            mark = evidence.fingerprint(name, {**said, "part": part})
            made.append((name, part, setting, seeds, out / name / f"{part}-{mark}.parquet"))
    return made


def run(todo: list[tuple[str, str, str, list[int], Path]], processes: int) -> None:
    if not todo:
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read by the workers: on small arrays two threads are slower than one
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(work, *job): job for job in todo}
        for done in as_completed(waiting):
            print(f"  {waiting[done][0]:18} {waiting[done][1]:24} {done.result():6.1f} s", flush=True)


def main(options: argparse.Namespace) -> None:
    setting = "full" if options.full else "small"
    names = [name for name in CLAIMS if not options.only or name in options.only.split(",")]
    names = [name for name in names if (evidence.HERE / f"{name}.yaml").exists()]
    begun = time.perf_counter()
    print(describe("pairwright", "numpy", "torch", "polars"))
    planned = jobs(names, setting, options.seed, options.out)
    todo = [job for job in planned if not job[4].exists()]
    print(f"{len(planned)} parts of {len(names)} claims, {len(planned) - len(todo)} of them done before")
    run(todo, options.jobs)
    tables = {name: pl.concat([pl.read_parquet(job[4]) for job in planned if job[0] == name]) for name in names}
    for name, table in tables.items():
        table.write_parquet(options.out / f"{name}-{setting}-{options.seed}.parquet")
    told = page.write(tables, options.page or where(options), setting=setting, seed=options.seed)
    print(f"{told}: {time.perf_counter() - begun:.0f} s")
    if options.seed != 0:
        beside(names, setting, options.seed, options.out)


def beside(names: list[str], setting: str, seed: int, out: Path) -> None:
    """Outcomes of two seeds side by side, where the results of seed 0 are there: how many agree, and each that does not."""
    agree, differ = 0, []
    for name in names:
        paths = [out / f"{name}-{setting}-{s}.parquet" for s in (0, seed)]
        if not all(path.exists() for path in paths):
            continue
        first, second = (evidence.Results(pl.read_parquet(path)) for path in paths)
        for test in evidence.read(name).tests():
            a, b = evidence.ask(first, test), evidence.ask(second, test)
            agree += a.outcome == b.outcome
            if a.outcome != b.outcome:
                told = f"{name}, {test.when}: {a.outcome} ({a.size}), {b.outcome} ({b.size})"
                differ.append(({a.outcome, b.outcome} == {"above", "below"}, told))
    opposed = sum(against for against, _ in differ)
    print(f"seeds 0 and {seed}: {agree} outcomes agree, {len(differ)} differ, {opposed} of them are opposed")
    for against, told in sorted(differ, reverse=True):
        print(f"  {'OPPOSED ' if against else ''}{told}")


def where(options: argparse.Namespace) -> Path:
    if options.seed == 0 and not options.full and not options.only:
        return ROOT / "docs" / "evidence.md"
    return options.out / f"{'full' if options.full else 'small'}-{options.seed}" / "evidence.md"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more seeds, larger problems")
    parser.add_argument("--seed", type=int, default=0, help="another number gives other seeds, none of them shared")
    parser.add_argument("--only", default="", help=f"claims, by comma: {', '.join(CLAIMS)}")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "claims")
    parser.add_argument("--page", type=Path, help="where the page goes")
    main(parser.parse_args())
