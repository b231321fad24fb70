"""What cleaning can find and repair, measured: planted errors (E1 to E7), and real raters against a rater left out.

    python bench/claims/cleaning.py [--small] [--only E1,E5,data] [--data DIR] [--json FILE]

Tables give means and 95 % intervals over seeds, the arms that lose as well as those that win; under them a line for each
thing that was expected: holds, or DOES NOT HOLD, with its numbers. Controls in every cell of comparisons: raw Copeland,
plain maximum likelihood, no corruption, `oracle` (the wrong pairs removed) and `random` (as many pairs removed at random
as were flagged). All numbers are computed in the run. --data is the folder of real sets (cleaning_data.py).
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import planted_comparisons
import planted_scores
from book import Book

from machine import describe

REAL = Path(__file__).parents[3] / "shared" / "data"
EXPERIMENTS = {
    "E1": (planted_comparisons.e1, 20),
    "E2": (planted_comparisons.e2, 20),
    "E3": (planted_comparisons.e3, 20),
    "E4": (planted_comparisons.e4, 20),
    "E5": (planted_scores.e5, 10),
    "E6": (planted_comparisons.e6, 20),
    "E7": (planted_scores.e7, 20),
}


def main(small: bool, names: list[str], data: Path) -> Book:
    print(describe("pairwright", "numpy", "scipy"))
    book = Book()
    for name, (experiment, seeds) in EXPERIMENTS.items():
        if names and name not in names:
            continue
        begun = time.perf_counter()
        experiment(book, small=small, seeds=5 if small else seeds)
        print(f"  {name}: {time.perf_counter() - begun:.0f} s")
    if not names or "data" in names:
        real_sets(book, data, small)
    for what, planted in (("expectations hold", True), ("times nothing beats the simple method on real data", False)):
        held = [v["holds"] for v in book.verdicts if v["experiment"].startswith("E") == planted]
        print(f"{sum(held)} of {len(held)} {what}")
    return book


def real_sets(book: Book, data: Path, small: bool) -> None:
    if not data.exists():
        print(f"\nreal data: not run, no folder {data}; pass --data DIR")
        return
    import cleaning_data

    cleaning_data.run(book, data, small=small)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer seeds and smaller problems, under three minutes")
    parser.add_argument("--only", default="", help="experiments, by comma: E1 .. E7, data")
    parser.add_argument("--data", type=Path, default=REAL)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    told = main(options.small, [name for name in options.only.split(",") if name], options.data)
    if options.json:
        told.write(options.json, small=options.small)
