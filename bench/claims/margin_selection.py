"""Keeping the pairs with the largest margins: direction, size, labels. World: pairs of features, ranked by `select.rank`.

A pair is a difference x of unit-normal features; its label is the sign of <x, w> + noise (or of somebody else's taste); t is
the true margin in the labelled direction. External margin 5 (t + e1), implicit margin 8 (t + e2). A fit is exact logistic
regression, which is DPO of a log-linear policy; its gain is read off lists of 12 answers, as it stands and at a KL of one nat.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import learn
import numpy as np
import polars as pl
import world
from book import Book
from cells import named

from pairwright.select.pool import Pool as Table
from pairwright.select.rank import choose
from pairwright.select.settings import Selection

D, NORM, NAT = 20, 2.0, 1.0
FUSED = ("external", "implicit")
ARMS: dict[str, dict[str, Any]] = {
    "external": {"margins": ["external"]},
    "implicit": {"margins": ["implicit"]},
    "add": {"margins": [*FUSED], "combine": "add"},
    "product": {"margins": [*FUSED], "combine": "bayes"},
    "min_rank": {"margins": [*FUSED], "combine": "min_rank"},
    "low_gap": {"rule": "lowest_gap"},
    "lowest": {"rule": "lowest"},
    "random": {"rule": "random"},
}
WORLDS: dict[str, dict[str, float]] = {
    "independent": {},
    "outliers": {"wild": 0.03},
    "useless_external": {"useless": 1.0},
    "inverted_external": {"inverted": 0.5},
    "shared_bias": {"bias": 1.5},
    "taste_20": {"taste": 0.2, "noise": 0.5},
    "taste_40": {"taste": 0.4, "noise": 0.5},
}


class Pool(NamedTuple):
    x: np.ndarray  # (seeds, pairs, D), chosen - rejected as labelled
    right: np.ndarray
    external: np.ndarray
    implicit: np.ndarray
    w: np.ndarray  # (seeds, D)


def pool(seeds: list[int], n: int, *, noise: float = NORM, **kind: float) -> Pool:
    rng_S = world.rngs(seeds, "selection", sorted(kind))
    w = _direction(rng_S) * NORM
    x = world.each(rng_S, "standard_normal", (n, D))
    true = np.einsum("sid,sd->si", x, w)
    label = np.sign(true + noise * world.each(rng_S, "standard_normal", n))
    if share := kind.get("taste"):
        other = np.einsum("sid,sd->si", x, _across(rng_S, w))
        label = np.where(world.each(rng_S, "random", n) < share, np.sign(other), label)
    t = label * true
    e1, e2 = (NORM * world.each(rng_S, "standard_normal", n) for _ in range(2))
    if kind.get("bias"):
        shared = kind["bias"] * label * np.einsum("sid,sd->si", x, _across(rng_S, w))
        e1, e2 = e1 + shared, e2 + shared
    external = 5 * (t + e1)
    if share := kind.get("wild"):
        wild = world.each(rng_S, "random", n) < share
        external = np.where(wild, 60 * np.sign(world.each(rng_S, "standard_normal", n)), external)
    if kind.get("useless"):
        external = 5 * np.sqrt(2) * e1
    if share := kind.get("inverted"):
        external = np.where(world.each(rng_S, "random", n) < share, -external, external)
    return Pool(x * label[..., None], t > 0, external, 8 * (t + e2), w)


def _direction(rng_S: list[np.random.Generator]) -> np.ndarray:
    w = world.each(rng_S, "standard_normal", D)
    return w / np.linalg.norm(w, axis=1, keepdims=True)


def _across(rng_S: list[np.random.Generator], w: np.ndarray) -> np.ndarray:
    """A direction of the same length at a right angle to w."""
    v = world.each(rng_S, "standard_normal", w.shape[1])
    v -= w * (v * w).sum(1, keepdims=True) / (w**2).sum(1, keepdims=True)
    return v * NORM / np.linalg.norm(v, axis=1, keepdims=True)


def chosen(at: Pool, arm: Mapping[str, Any], keep: float, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that the select stage keeps, (seeds, k), and how many conflicts it counts. Its page of facts is not made."""
    rows, conflicts = [], []
    for s, seed in enumerate(seeds):
        n = at.external.shape[1]
        pairs = {"pair_id": np.arange(n), "margin": at.external[s], "margin_implicit": at.implicit[s]}
        told = choose(Table(pl.DataFrame(pairs)), Selection(**arm, keep=keep, seed=seed))
        rows.append(np.flatnonzero(told.keep_I))
        conflicts.append(told.counts().get("conflict", 0))
    return np.stack(rows), np.array(conflicts, float)


def fit(at: Pool, rows: np.ndarray, *, ridge: float = 1e-3) -> np.ndarray:
    s = np.arange(len(rows))[:, None]
    return learn.newton(at.x[s, rows], learn.preference("dpo", beta=1.0), ridge=ridge * rows.shape[1])


def measures(at: Pool, rows: np.ndarray, theta: np.ndarray, lists: np.ndarray) -> dict[str, np.ndarray]:
    """right: share of right labels among the kept; cosine and ratio of lengths of the fit to w; gain and KL on lists."""
    size = np.linalg.norm(theta, axis=1)
    gold = np.einsum("spad,sd->spa", lists, at.w)
    logit = np.einsum("spad,sd->spa", lists, theta)
    near = np.einsum("spad,sd->spa", lists, _to_nat(lists, theta))
    zero = np.zeros_like(gold)
    s = np.arange(len(rows))[:, None]
    return {
        "right": at.right[s, rows].mean(1),
        "cosine": (theta * at.w).sum(1) / size / NORM,
        "ratio": size / NORM,
        **learn.listed(gold, logit, zero),
        "gain_at_kl": learn.listed(gold, near, zero)["gain"],
    }


def _to_nat(lists: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """theta scaled so that its policy stands one nat from the uniform one, by bisection."""
    low, high = np.full(len(theta), 1e-3), np.full(len(theta), 1e3)
    for _ in range(50):
        middle = np.sqrt(low * high)
        logit = np.einsum("spad,sd->spa", lists, theta * middle[:, None])
        above = learn.listed(logit, logit, np.zeros_like(logit))["kl"] > NAT
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return theta * low[:, None]


def _lists(seeds: list[int]) -> np.ndarray:
    return world.each(world.rngs(seeds, "lists"), "standard_normal", (100, 12, D))


def worlds(book: Book, at: Mapping[str, Any], seeds: list[int], *, names: tuple[str, ...]) -> None:
    lists = _lists(seeds)
    for name in names:
        here = pool(seeds, at["pairs"], **WORLDS[name])
        whole = np.tile(np.arange(at["pairs"]), (len(seeds), 1))
        book.add("", named(world=name, keep=1.0), "full", **measures(here, whole, fit(here, whole), lists))
        for arm, settings in ARMS.items():
            for keep in at["keep"] if name in at["curves"] else at["keep"][:1]:
                rows, conflicts = chosen(here, settings, keep, seeds)
                told = measures(here, rows, fit(here, rows), lists)
                book.add("", named(world=name, keep=keep), arm, **told, conflicts=conflicts)
        for keep in at["keep"]:
            book.add("", named(world=name, keep=keep), "full", **measures(here, whole, fit(here, whole), lists))


def noisy(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    names = ("independent", "outliers", "useless_external", "inverted_external")
    worlds(book, at, seeds, names=names)


def structured(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    worlds(book, at, seeds, names=("shared_bias", "taste_20", "taste_40"))


def shrinkage(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """Noise in the strength of labels against the size of the fit; what keeping the largest noisy margins does to it."""
    rng_S = world.rngs(seeds, "shrinkage")
    n, d = at["pairs"], 8
    w = world.each(rng_S, "standard_normal", d)
    w *= NORM / np.linalg.norm(w, axis=1, keepdims=True)
    x = world.each(rng_S, "standard_normal", (n, d))
    true = np.einsum("sid,sd->si", x, w)
    x, true = x * np.sign(true)[..., None], np.abs(true)
    zeta, toss = world.each(rng_S, "standard_normal", n), world.each(rng_S, "random", n)
    for sd in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        soft = 1 / (1 + np.exp(-(true + sd * zeta)))
        told = {"soft": soft, "hard": (toss < soft).astype(float)}
        for kind, p in told.items():
            _sized(book, named(shrinkage=kind, noise=sd), "all", (x, p, w), ridge=1e-6)
    noisy_margin, hard = true + 4.0 * zeta, (toss < 1 / (1 + np.exp(-(true + 4.0 * zeta)))).astype(float)
    for keep in (0.5, 0.1):
        for arm, settings in (("largest", ARMS["external"]), ("random", ARMS["random"]), ("low_gap", ARMS["low_gap"])):
            raw = Pool(x, true > 0, noisy_margin, noisy_margin, w)
            rows, _ = chosen(raw, {**settings, **({"combine": "add"} if arm == "largest" else {})}, keep, seeds)
            s = np.arange(len(seeds))[:, None]
            for l2 in (1e-6, 0.01):
                _sized(book, named(shrinkage="kept", keep=keep, l2=l2), arm, (x[s, rows], hard[s, rows], w), ridge=l2)


def _sized(book: Book, cell: str, arm: str, fitted: tuple[np.ndarray, np.ndarray, np.ndarray], *, ridge: float) -> None:
    x, p, w = fitted
    theta = learn.newton(x, learn.preference("soft_dpo", beta=1.0), ridge=ridge * x.shape[1], p_SI=p)
    size = np.linalg.norm(theta, axis=1)
    book.add("", cell, arm, ratio=size / NORM, cosine=(theta * w).sum(1) / size / NORM)


PARTS = {"noisy": noisy, "structured": structured, "shrinkage": shrinkage}
