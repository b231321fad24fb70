"""Does the chosen side decide? One side held, the other varied. World: answers, a table of logits and one shared direction.

Eight candidates of a prompt, drawn without replacement, ranked by the exact reward: best, high, medium, low, worst are the
ranks 1, 3, 4, 6, 8, taken by the rules rank(k) of the pair stage. Full-batch gradient steps, looked at early and late.
"""

from collections.abc import Mapping
from typing import Any

import learn
import numpy as np
import world
from book import Book
from cells import named

from pairwright.pair.build import Pairing, build_pairs

BETA = 0.1
DRAWN, ANSWERS, FEATURES = 8, 40, 10
TIER = {"best": 1, "high": 3, "medium": 4, "mid5": 5, "low": 6, "worst": 8}
PAIRS = ("best/worst", "best/low", "best/high", "high/worst", "medium/worst", "low/worst", "best/medium", "mid5/worst")
RATES = {"table": 100.0, "line": 0.5}


class Tiers:
    """Prompts with a list of answers; the second half of the prompts is held out."""

    def __init__(self, seeds: list[int], prompts: int) -> None:
        self.seeds, self.train = seeds, prompts
        rng_S = world.rngs(seeds, "tiers")
        self.phi = world.each(rng_S, "standard_normal", (2 * prompts, ANSWERS, FEATURES))
        w = world.each(rng_S, "standard_normal", FEATURES)
        self.gold = np.einsum("spad,sd->spa", self.phi, w / np.linalg.norm(w, axis=1, keepdims=True))
        self.start = 0.5 * self.gold + 0.7 * world.each(rng_S, "standard_normal", self.gold.shape[1:])
        noise = world.each(rng_S, "gumbel", size=self.gold.shape[1:])
        self.drawn = np.argsort(-(self.start + noise), -1)[:, :prompts, :DRAWN]  # without replacement
        score = np.take_along_axis(self.gold[:, :prompts], self.drawn, -1)
        self.table = world.candidates(score, self.drawn)

    def pairs(self, arm: str) -> tuple[world.Taken, learn.Data]:
        chosen, rejected = (f"rank({TIER[tier]})" for tier in arm.split("/"))
        built = build_pairs(self.table, Pairing(chosen=chosen, rejected=rejected))
        at = world.taken(built.pairs, len(self.seeds), self.train)
        s = np.arange(len(self.seeds))[:, None]
        sides = (self.drawn[s, at.group_SI, side] for side in (at.chosen_SI, at.rejected_SI))
        return at, learn.data(at.group_SI, *sides, at.gap_SI, here=at.here_SI)

    def fit(self, data: learn.Data, *, kind: str, loss: str, steps: list[int]) -> learn.Trace:
        policy = learn.ListPolicy(self.start, self.phi if kind == "line" else None, table=kind == "table")
        plan = learn.Plan(
            _whole(data, max(steps)), RATES[kind] * (0.05 if loss == "sft" else 1.0), data.prompt.shape[1]
        )
        fit = learn.preference("sft") if loss == "sft" else learn.preference("dpo", beta=BETA)
        trace = learn.Trace(lambda: self.measures(policy, data), steps)
        learn.train(policy, data, plan, fit, look=trace)
        return trace

    def measures(self, policy: learn.ListPolicy, data: learn.Data) -> dict[str, np.ndarray]:
        logit, n = policy.logits().detach().numpy(), self.train
        seen = learn.listed(self.gold[:, :n], logit[:, :n], self.start[:, :n])
        new = learn.listed(self.gold[:, n:], logit[:, n:], self.start[:, n:])
        return {**seen, "held_out": new["gain"], "uncovered": _uncovered(logit[:, :n] - self.start[:, :n], data)}


def _whole(data: learn.Data, steps: int) -> Any:
    """The rows in order, again and again: full batches."""
    return learn.torch.arange(data.prompt.shape[1]).repeat(steps).expand(len(data.prompt), -1)


def _uncovered(change_SPA: np.ndarray, data: learn.Data) -> np.ndarray:
    """Spread, within a prompt, of the change in logit of answers that stand in no pair; means over prompts."""
    out = change_SPA.copy()
    s = np.arange(len(out))[:, None]
    for side in (data.chosen.numpy(), data.rejected.numpy()):
        out[s, data.prompt.numpy(), side] = np.nan
    return np.nanstd(out, -1).mean(-1)


def tiers(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    world_ = Tiers(seeds, at["prompts"])
    for kind in RATES:
        for arm in PAIRS:
            taken, data = world_.pairs(arm)
            _add(book, world_.fit(data, kind=kind, loss="dpo", steps=at["steps"]), kind, arm, at, _facts(taken))
        swapped = data._replace(chosen=data.rejected, rejected=data.chosen, gap=-data.gap)
        _add(book, world_.fit(swapped, kind=kind, loss="dpo", steps=at["steps"]), kind, "mid5/worst swapped", at, {})
        for tier in ("best", "medium", "low"):
            taken, data = world_.pairs(f"{tier}/worst")
            trace = world_.fit(data, kind=kind, loss="sft", steps=at["steps"])
            _add(book, trace, kind, f"sft {tier}", at, {})


def _facts(taken: world.Taken) -> dict[str, np.ndarray]:
    return {"gap": (taken.gap_SI * taken.here_SI).sum(1) / taken.here_SI.sum(1)}


def _add(book: Book, trace: learn.Trace, kind: str, arm: str, at: Mapping[str, Any], facts: dict[str, Any]) -> None:
    for when, step in zip(("early", "late"), at["steps"], strict=True):
        book.add("", named(policy=kind, time=when), arm, **trace.after(step), **facts)


PARTS = {"tiers": tiers}
