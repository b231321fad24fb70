"""The planted errors of `cleaning.py` (E1 to E7) as a claim of the page; that script prints every table and expectation."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import planted_comparisons
import planted_scores
from book import Book

JOBS: dict[str, Callable[..., None]] = {
    "E1": planted_comparisons.e1,
    "E2": planted_comparisons.e2,
    "E3": planted_comparisons.e3,
    "E4": planted_comparisons.e4,
    "E5": planted_scores.e5,
    "E7": planted_scores.e7,
}


def _part(job: Callable[..., None]) -> Callable[[Book, Mapping[str, Any], list[int]], None]:
    def run(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            job(book, small=at["small"], seeds=len(seeds), seed=seeds[0] // 1000)

    return run


PARTS = {name: _part(job) for name, job in JOBS.items()}
