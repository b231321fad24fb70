"""SFT for the hard pairs, the preference loss for the easy ones, in order or not. World: answers, closed and leaky.

Closed: 12 answers of one kind. Leaky: 10 answers and 10 of junk, which stand in no pair and whose features are twice as long:
pushing too far along the learnt direction lets them in. Tables are routed by `train.routing.route`, seed by seed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import learn
import numpy as np
import polars as pl
import world
from book import Book
from cells import named

from pairwright.tables import MESSAGES
from pairwright.train.routing import Difficulty, Routing, route
from pairwright.train.schedule import lr_factor, lr_spent

BETA, RATE, BATCH, D = 0.1, 0.02, 16, 40
NEW = 400  # held-out prompts


class Arm(NamedTuple):
    to_sft: str = "hardest"
    order: str = "shuffled"
    loss: str = "dpo"
    drop: bool = False  # the pairs that would go to SFT are left out
    alone: bool = False  # only they are trained
    worse: bool = False  # SFT on the rejected side


ARMS = {
    "dpo": Arm("none"),
    "dpo sorted": Arm("none", "easy_first"),
    "dpo anti-sorted": Arm("none", "hard_first"),
    "dpo, hard dropped": Arm(drop=True),
    "dpo + nll": Arm("none", loss="rpo_nll"),
    "mix": Arm(),
    "mix sorted": Arm("hardest", "easy_first"),
    "sft on random": Arm("random"),
    "sft on easiest": Arm("easiest"),
    "sft on worse side": Arm(worse=True),
    "sft on hard alone": Arm(alone=True),
    "sft": Arm("all"),
}


class Given(NamedTuple):
    """Prompts (the last NEW of them held out), answers, and one pair a prompt with its ratings."""

    phi: np.ndarray
    gold: np.ndarray
    start: np.ndarray
    junk: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    rating: np.ndarray


def given(seeds: list[int], prompts: int, *, leaky: bool) -> Given:
    rng_S = world.rngs(seeds, "routing", leaky)
    real, junk = (10, 10) if leaky else (12, 0)
    shape = (prompts + NEW, real + junk)
    phi = world.each(rng_S, "standard_normal", (*shape, D))
    phi[:, :, real:] *= 2
    w = world.each(rng_S, "standard_normal", D) / np.sqrt(D)
    gold = np.einsum("spad,sd->spa", phi, w) + 0.5 * world.each(rng_S, "standard_normal", shape)
    gold[:, :, real:] = -3.0
    theta = 0.25 * w + 0.3 * world.each(rng_S, "standard_normal", D) / np.sqrt(D)
    start = np.einsum("spad,sd->spa", phi, theta)
    start[:, :, real:] -= 5.0
    rating = 6 + 1.3 * (gold + 0.7 * world.each(rng_S, "standard_normal", shape))
    rating = np.clip(np.round(rating * 2) / 2, 1, 10)
    noise = world.each(rng_S, "gumbel", size=(prompts, real))
    four = np.argsort(-(start[:, :prompts, :real] + noise), -1)[..., :4]
    rated = np.take_along_axis(rating[:, :prompts], four, -1)
    best = rated.argmax(-1)  # ties: the one drawn first
    other = (best + 1 + world.each(rng_S, "integers", 3, size=prompts)) % 4
    chosen, rejected = (np.take_along_axis(four, k[..., None], -1)[..., 0] for k in (best, other))
    return Given(phi, gold, start, np.arange(real + junk) >= real, chosen, rejected, rating)


def table(at: Given, s: int) -> pl.DataFrame:
    prompts = np.arange(at.chosen.shape[1])
    score = [at.rating[s, prompts, side[s]] for side in (at.chosen, at.rejected)]
    sides = [
        [[{"role": "assistant", "content": f"answer {a} to {p}"}] for p, a in zip(prompts, side[s], strict=True)]
        for side in (at.chosen, at.rejected)
    ]
    return pl.DataFrame(
        {
            "prompt_id": [f"{p:08d}" for p in prompts],
            "prompt": pl.Series([[{"role": "user", "content": f"prompt {p}"}] for p in prompts], dtype=MESSAGES),
            "chosen": pl.Series(sides[0], dtype=MESSAGES),
            "rejected": pl.Series(sides[1], dtype=MESSAGES),
            "chosen_id": at.chosen[s].astype(str),
            "rejected_id": at.rejected[s].astype(str),
            "score_chosen": score[0],
            "score_rejected": score[1],
            "margin": score[0] - score[1],
        }
    )


def routed(tables: list[pl.DataFrame], arm: Arm, tau: float, seeds: list[int]) -> tuple[learn.Data, np.ndarray]:
    """The pairs in training order, and which of them are SFT pairs; seeds with fewer pairs are filled up, not here."""
    out = []
    for rows, seed in zip(tables, seeds, strict=True):
        to = {"to_sft": arm.to_sft, "order": arm.order, "tau": tau, "seed": seed}
        kept, _ = route(rows, Routing(**to), Difficulty())
        if arm.drop or arm.alone:
            kept = kept.filter(pl.col("objective") == ("sft" if arm.alone else "dpo"))
        out.append(kept)
    most = max(len(rows) for rows in out)

    def side(name: str, kind: Any = np.int64) -> np.ndarray:
        return np.stack([np.pad(r[name].cast(pl.Int64).to_numpy().astype(kind), (0, most - len(r))) for r in out])

    here = np.arange(most) < np.array([len(rows) for rows in out])[:, None]
    sft = np.stack([np.pad((r["objective"] == "sft").to_numpy(), (0, most - len(r))) for r in out])
    gap = np.stack([np.pad(r["margin"].to_numpy(), (0, most - len(r))) for r in out])
    chosen, rejected = side("chosen_id"), side("rejected_id")
    if arm.worse:
        chosen, rejected = np.where(sft, rejected, chosen), np.where(sft, chosen, rejected)
    return learn.data(side("prompt_id"), chosen, rejected, gap, here=here, sft=sft), sft


def measures(at: Given, logit: np.ndarray) -> dict[str, np.ndarray]:
    told = learn.listed(at.gold[:, -NEW:], logit[:, -NEW:], at.start[:, -NEW:])
    share, _ = learn.shares(logit[:, -NEW:])
    return {**told, "junk": share[..., at.junk].sum(-1).mean(1)}


def fits(book: Book, at: Mapping[str, Any], seeds: list[int], *, leaky: bool) -> None:
    here = given(seeds, at["prompts"], leaky=leaky)
    tables = [table(here, s) for s in range(len(seeds))]
    for rating, tau in at["variants"].items():
        for schedule in ("constant", "cosine"):
            for name in ARMS:
                if rating != "plain" and name not in ("dpo", "mix", "sft on random", "mix sorted", "dpo sorted"):
                    continue
                cell = named(world="leaky" if leaky else "closed", lr=schedule, variant=rating)
                one(book, cell, name, (here, tables, tau, schedule), seeds)
    _facts(book, here, tables, "leaky" if leaky else "closed", at["variants"]["plain"])


def one(
    book: Book, cell: str, name: str, given_: tuple[Given, list[pl.DataFrame], float, str], seeds: list[int]
) -> None:
    here, tables, tau, schedule = given_
    arm = ARMS[name]
    data, sft = routed(tables, arm, tau, seeds)
    policy = learn.ListPolicy(here.start, here.phi)
    rows = learn.torch.arange(data.prompt.shape[1]).expand(len(seeds), -1)
    steps = -(-rows.shape[1] // BATCH)
    factor = lr_factor(steps, schedule=schedule, warmup_steps=round(0.1 * steps) if schedule == "cosine" else 0)
    plan = learn.Plan(rows, RATE, BATCH, factor, adam=(0.9, 0.99))
    trace = learn.Trace(lambda: measures(here, policy.logits().detach().numpy()), [*range(5, steps, 8), steps])
    settings = {"beta": BETA, "alpha": 0.1 * BETA} if arm.loss == "rpo_nll" else {"beta": BETA}
    learn.train(policy, data, plan, learn.preference(arm.loss, **settings), look=trace)
    spent = [
        lr_spent(s[h], factor, batch=BATCH)["sft"] for s, h in zip(sft, data.here.numpy() > 0, strict=True) if h.all()
    ]
    masses = {"lr_share": [x.lr_share for x in spent], "data_share": [x.data_share for x in spent]}
    book.add("", cell, name, **trace.after(steps), best=trace.path("gain").max(0))
    if len(spent) == len(seeds):
        book.add("", cell, name, **{k: np.array(v) for k, v in masses.items()})


def _facts(book: Book, here: Given, tables: list[pl.DataFrame], kind: str, tau: float) -> None:
    """Share of labels that agree with the true reward, among the hard pairs and among the rest."""
    told: dict[str, list[float]] = {"hard": [], "easy": []}
    for s, rows in enumerate(tables):
        p = np.arange(len(rows))
        right = here.gold[s, p, here.chosen[s]] > here.gold[s, p, here.rejected[s]]
        hard = rows["margin"].to_numpy() < tau
        told["hard"].append(right[hard].mean())
        told["easy"].append(right[~hard].mean())
    for arm, value in told.items():
        book.add("", f"world={kind} labels", arm, right=np.array(value))


def closed(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    fits(book, at, seeds, leaky=False)


def leaky(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    fits(book, at, seeds, leaky=True)


PARTS = {"closed": closed, "leaky": leaky}
