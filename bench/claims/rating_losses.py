"""Losses that read a rating gap, at equal aim: exact, noisy, mis-scaled, swapped ratings. World: answers, exact fits.

All arms aim at the KL coefficient 0.5: rating_dpo at (0.5 / w, 0.5 / (1 - w)) has c = (1 - w) / w. The error is the KL to the
best policy for that coefficient, which is the lost regularised reward over 0.5.
"""

from collections.abc import Mapping
from typing import Any

import learn
import numpy as np
import world
from book import Book
from cells import named

AIM = 0.5
WORLDS = {
    "exact": {},
    "small_noise": {"sd": 0.5 * np.sqrt(2)},
    "heavy_noise": {"sd": 2 * np.sqrt(2)},
    "scale_3": {"sd": 0.5 * np.sqrt(2), "scale": 3.0},
    "swapped_30": {"swapped": 0.3},
    "per_response": {"response_sd": 1.0},
    "shuffled": {"shuffled": True},
    "all_zero": {"scale": 0.0},
}


class Rated:
    """Labelled pairs of a log-linear world: features' differences, true gaps and labels by Bradley-Terry."""

    def __init__(self, seeds: list[int], most: int, *, prompts: int = 40, answers: int = 8, d: int = 12) -> None:
        self.seeds = seeds
        rng_S = world.rngs(seeds, "rated")
        self.phi = world.each(rng_S, "standard_normal", (prompts, answers, d))
        w = world.each(rng_S, "standard_normal", d)
        w *= 1.5 / np.linalg.norm(w, axis=1, keepdims=True)
        self.gold = np.einsum("spad,sd->spa", self.phi, w)
        prompt = world.each(rng_S, "integers", prompts, size=most)
        first = world.each(rng_S, "integers", answers, size=most)
        other = (first + 1 + world.each(rng_S, "integers", answers - 1, size=most)) % answers
        s = np.arange(len(seeds))[:, None]
        gap = self.gold[s, prompt, first] - self.gold[s, prompt, other]
        wins = world.each(rng_S, "random", most) < 1 / (1 + np.exp(-gap))
        chosen, rejected = np.where(wins, first, other), np.where(wins, other, first)
        self.error = world.each(rng_S, "standard_normal", (prompts, answers))
        self.error_gap = self.error[s, prompt, chosen] - self.error[s, prompt, rejected]
        self.gap = np.where(wins, gap, -gap)
        self.difference = self.phi[s, prompt, chosen] - self.phi[s, prompt, rejected]

    def ratings(
        self,
        sd: float = 0.0,
        scale: float = 1.0,
        swapped: float = 0.0,
        response_sd: float = 0.0,
        shuffled: bool = False,
    ) -> np.ndarray:
        rng_S = world.rngs(self.seeds, "ratings")
        most = self.gap.shape[1]
        gap = scale * self.gap + sd * world.each(rng_S, "standard_normal", most) + response_sd * self.error_gap
        gap = np.where(world.each(rng_S, "random", most) < swapped, -gap, gap)
        return np.stack([rng.permutation(g) for rng, g in zip(rng_S, gap, strict=True)]) if shuffled else gap

    def fit(self, rating: np.ndarray, n: int, arm: Mapping[str, Any]) -> np.ndarray:
        loss = learn.preference(arm["loss"], **{k: float(v) for k, v in arm.items() if k != "loss"})
        return learn.newton(self.difference[:, :n], loss, ridge=1.0, gap_SI=rating[:, :n])

    def measures(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        logit = np.einsum("spad,sd->spa", self.phi, theta)
        share, log_share = learn.shares(logit)
        _, best = learn.shares(self.gold / AIM)
        told = learn.listed(self.gold, logit, np.zeros_like(logit))
        return {**told, "error": (share * (log_share - best)).sum(-1).mean(1)}


def fits(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    rated = Rated(seeds, max(at["n"]))
    for name, kind in WORLDS.items():
        rating = rated.ratings(**kind)
        for n in at["n"]:
            for arm, said in at["arms"].items():
                book.add("", named(ratings=name, n=n), arm, **rated.measures(rated.fit(rating, n, said)))


def same_beta(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """The trap: rating_dpo and dpo at the same beta do not aim at the same distance from the start policy."""
    rated = Rated(seeds, max(at["n"]))
    rating = rated.ratings()
    arms = {
        "dpo": {"loss": "dpo", "beta": AIM},
        "rating_dpo, same beta": {"loss": "rating_dpo", "beta": AIM, "beta1": AIM},
        "dpo at effective beta": {"loss": "dpo", "beta": AIM / 2},
    }
    for arm, said in arms.items():
        book.add("", "trap=same_beta", arm, **rated.measures(rated.fit(rating, max(at["n"]), said)))


PARTS = {"fits": fits, "same_beta": same_beta}
