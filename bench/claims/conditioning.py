"""A goal score in the prompt, every pair twice: what it does beyond distance from the start. Tables by `train.conditioning`.

World: answers. Quality q in 1 .. 10 by half points; the judge adds noise of 0.5. A policy's logit is phi' A psi(g), psi =
(1, s, s^2), s = (g - 5.5) / 4.5, and (1, 0, 0) without a goal. Run `shared`: many pairs for each of few prompts, features
alone. Run `memory`: one pair a prompt and a logit of its own for every answer, which does not see the goal; results on held-out
prompts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import learn
import numpy as np
import polars as pl
import tiny_lm
import torch
import world
from book import Book
from cells import named

from pairwright.tables import MESSAGES
from pairwright.train.conditioning import Relabelling, Tag, relabel

BETA, RATE, BATCH, D = 0.1, 0.02, 50, 8
GOALS = (10.0, 8.0, 5.0, 2.0)
UNTAGGED = 0.0  # the code of "no goal"
RULES = {
    "ra": Relabelling(),
    "half": Relabelling(half=True),
    "winner": Relabelling(copies="winner"),
    "no_swap": Relabelling(copies="no_swap"),
}


class Judged(NamedTuple):
    """Prompts with answers; pairs with the judge's scores. The last `new` prompts are in no pair."""

    phi: np.ndarray
    quality: np.ndarray
    prompt: np.ndarray
    sides: np.ndarray  # (seeds, pairs, 2): the answer that the judge prefers, and the other
    scores: np.ndarray
    new: int


def judged(seeds: list[int], *, prompts: int, new: int, pairs: int, once: bool) -> Judged:
    rng_S = world.rngs(seeds, "judged", prompts)
    phi = world.each(rng_S, "standard_normal", (prompts + new, 12, D))
    w = world.each(rng_S, "standard_normal", D)
    quality = 5.5 + 1.8 * np.einsum("spad,sd->spa", phi, w / np.linalg.norm(w, axis=1, keepdims=True))
    quality = np.clip(np.round(2 * quality) / 2, 1, 10)
    prompt = np.stack([np.arange(prompts) if once else rng.integers(prompts, size=pairs) for rng in rng_S])
    first = world.each(rng_S, "integers", 12, size=prompt.shape[1])
    other = (first + 1 + world.each(rng_S, "integers", 11, size=prompt.shape[1])) % 12
    s = np.arange(len(seeds))[:, None, None]
    sides = np.stack([first, other], -1)
    score = quality[s, prompt[..., None], sides] + 0.5 * world.each(rng_S, "standard_normal", (prompt.shape[1], 2))
    score = np.clip(np.round(2 * score) / 2, 1, 10)
    order = np.argsort(-score, -1, kind="stable")
    return Judged(phi, quality, prompt, np.take_along_axis(sides, order, -1), np.take_along_axis(score, order, -1), new)


def table(at: Judged, s: int) -> pl.DataFrame:
    def said(k: int) -> pl.Series:
        texts = [f"answer {a} to {p}" for p, a in zip(at.prompt[s], at.sides[s, :, k], strict=True)]
        return pl.Series([[{"role": "assistant", "content": text}] for text in texts], dtype=MESSAGES)

    return pl.DataFrame(
        {
            "prompt_id": [f"{p:06d}" for p in at.prompt[s]],
            "prompt": pl.Series([[{"role": "user", "content": f"prompt {p}"}] for p in at.prompt[s]], dtype=MESSAGES),
            "chosen": said(0),
            "rejected": said(1),
            "answer_chosen": at.sides[s, :, 0],
            "answer_rejected": at.sides[s, :, 1],
            "score_chosen": at.scores[s, :, 0],
            "score_rejected": at.scores[s, :, 1],
        }
    )


def relabelled(at: Judged, rule: Relabelling | None, tag: Tag | None = None) -> learn.Data:
    """The pairs of every seed; prompt and goal in one number (prompt * 21 + twice the goal). None: plain, ties left out."""
    out = []
    for s in range(len(at.prompt)):
        rows = table(at, s)
        if rule is None:
            rows = rows.filter(pl.col("score_chosen") > pl.col("score_rejected")).with_columns(goal=pl.lit(UNTAGGED))
        else:
            rows = relabel(rows, tag, rule).kept.with_columns(pl.col("goal").list.first())
        out.append(rows)
    most = max(map(len, out))
    here = np.arange(most) < np.array([[len(rows)] for rows in out])

    def column(expression: pl.Expr) -> np.ndarray:
        return np.stack([np.pad(r.select(expression).to_series().to_numpy(), (0, most - len(r))) for r in out])

    code = column(pl.col("prompt_id").cast(pl.Int64) * 21 + (2 * pl.col("goal")).cast(pl.Int64))
    return learn.data(
        code, column(pl.col("answer_chosen")), column(pl.col("answer_rejected")), np.ones(here.shape), here=here
    )


class GoalPolicy:
    """phi' A psi(goal), and with `memory` a logit of every answer that does not see the goal. The start is uniform."""

    def __init__(self, phi: np.ndarray, *, memory: bool, one_hot: bool = False) -> None:
        self.phi = torch.as_tensor(phi)
        goal = torch.arange(21, dtype=torch.float64) / 2
        s = torch.where(goal > 0, (goal - 5.5) / 4.5, 0.0)
        self.psi = torch.eye(21, dtype=torch.float64) if one_hot else torch.stack([s * 0 + 1, s, s**2], -1)
        self.line = torch.zeros(len(phi), D, self.psi.shape[1], dtype=torch.float64, requires_grad=True)
        self.parameters = [self.line]
        self.own = torch.zeros(phi.shape[:3], dtype=torch.float64, requires_grad=True) if memory else None
        if self.own is not None:
            self.parameters.append(self.own)

    def logits(self, code: torch.Tensor) -> torch.Tensor:
        seed = torch.arange(len(code))[:, None]
        weight = torch.einsum("sdk,sik->sid", self.line, self.psi[code % 21])
        out = torch.einsum("siad,sid->sia", self.phi[seed, code // 21], weight)
        return out if self.own is None else out + self.own[seed, code // 21]

    def logp(self, prompt_SI: torch.Tensor, response_SI: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.logits(prompt_SI), -1).gather(-1, response_SI[..., None])[..., 0]

    def whole(self, goal: float) -> np.ndarray:
        code = torch.arange(self.phi.shape[1]) * 21 + int(2 * goal)
        with torch.no_grad():
            return self.logits(code.expand(len(self.phi), -1)).numpy()


def measures(at: Judged, policy: GoalPolicy, goal: float) -> dict[str, np.ndarray]:
    """Gain and KL on the prompts that count: held-out ones where there are some."""
    logit = policy.whole(goal)
    part = slice(-at.new, None) if at.new else slice(None)
    return learn.listed(at.quality[:, part], logit[:, part], np.zeros_like(logit[:, part]))


def lifted(at: Judged, policy: GoalPolicy, goal: float) -> dict[str, np.ndarray]:
    """Mean change of log pi: of rejected answers that the judge gave 7 or more, and of chosen ones with 4 or less."""
    change = learn.shares(policy.whole(goal))[1] + np.log(12)
    s = np.arange(len(change))[:, None, None]
    of_pair = change[s, at.prompt[..., None], at.sides]
    good, poor = at.scores[..., 1] >= 7, at.scores[..., 0] <= 4
    return {
        "good_rejected": (of_pair[..., 1] * good).sum(1) / good.sum(1),
        "poor_chosen": (of_pair[..., 0] * poor).sum(1) / np.maximum(poor.sum(1), 1),
    }


def fit(
    at: Judged, rule: Relabelling | None, seeds: list[int], epochs: int, *, memory: bool, one_hot: bool = False
) -> Any:
    data = relabelled(at, rule)
    policy = GoalPolicy(at.phi, memory=memory, one_hot=one_hot)
    plan = learn.Plan(learn.orders(data, world.rngs(seeds, "order"), epochs), RATE, BATCH, adam=(0.9, 0.99))
    goal = UNTAGGED if rule is None else 10.0
    looks = [*range(2, plan.steps, 4), plan.steps]
    trace = learn.Trace(lambda: measures(at, policy, goal) | lifted(at, policy, goal), looks)
    learn.train(policy, data, plan, learn.preference("dpo", beta=BETA), look=trace)
    return policy, trace


def run(book: Book, at: Judged, seeds: list[int], cell: str, epochs: int, *, memory: bool) -> None:
    policies = {name: fit(at, rule, seeds, epochs, memory=memory)[0] for name, rule in RULES.items()}
    policies["one_hot"] = fit(at, RULES["ra"], seeds, epochs, memory=memory, one_hot=True)[0]
    plain, _ = fit(at, None, seeds, epochs, memory=memory)
    book.add("", cell, "dpo", **measures(at, plain, UNTAGGED), **lifted(at, plain, UNTAGGED))
    for name, policy in policies.items():
        for goal in (*GOALS, UNTAGGED) if name in ("ra", "no_swap") else GOALS[:1]:
            arm = f"{name} g={goal:g}" if goal else f"{name} untagged"
            book.add("", cell, arm, **measures(at, policy, goal), **lifted(at, policy, goal))
    _, path = fit(at, None, seeds, 6 * epochs, memory=memory)
    for name in ("ra", "half"):
        told = measures(at, policies[name], 10.0)
        book.add("", cell, f"{name} g=10", gain_at_kl=told["gain"])
        lifts = {metric: path.at_kl(told["kl"], metric) for metric in ("good_rejected", "poor_chosen")}
        book.add("", cell, f"dpo at the KL of {name}", gain_at_kl=path.at_kl(told["kl"]), **lifts)


def shared(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    here = judged(seeds, prompts=60, new=0, pairs=at["shared_pairs"], once=False)
    run(book, here, seeds, named(run="shared"), at["epochs"], memory=False)


def memory(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    here = judged(seeds, prompts=at["memory_pairs"], new=200, pairs=at["memory_pairs"], once=True)
    run(book, here, seeds, named(run="memory"), at["epochs"], memory=True)


def transformer(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """The goal as a token of a small transformer, pairs of two of its own samples; quality: the reward, as 1 to 10."""
    seeds = seeds[: at["lm_seeds"]]
    chain = world.chain(seeds, junk=False)
    start = tiny_lm.taught(chain, seeds, steps=at["lm_steps"], batch=64)
    begin = tiny_lm.beginning(chain, start, seeds)
    prompt = np.tile(np.arange(at["lm_pairs"]) % chain.logit_SPVA.shape[1], (len(seeds), 1))
    text = start.sample(prompt * tiny_lm.GOALS, 2, world.rngs(seeds, "goal draws"))
    gold = (world.worth(chain, prompt, text) - begin["mean"][:, None, None]) / begin["sd"][:, None, None]
    noise = world.each(world.rngs(seeds, "goal judge"), "standard_normal", gold.shape[1:])
    score = np.clip(np.round(5.5 + 1.8 * gold + 0.5 * noise), 1, 10)
    order = np.argsort(-score, -1, kind="stable")
    sides = 2 * np.arange(prompt.shape[1])[:, None] + order
    here = Judged(gold, gold, prompt, sides, np.take_along_axis(score, order, -1), 0)
    texts = text.reshape(len(seeds), -1, chain.length)

    def trained(rule: Relabelling | None, goal: int, epochs: int) -> tuple[tiny_lm.TinyLM, learn.Trace]:
        data = _with_texts(relabelled(here, rule, Tag(step=1.0)), texts)
        model = start.copy()
        plan = learn.Plan(learn.orders(data, world.rngs(seeds, "lm order"), epochs), 3e-3, 2 * BATCH, adam=(0.9, 0.99))
        looks = [*range(4, plan.steps, 20), plan.steps] if rule is None else [plan.steps]
        trace = learn.Trace(lambda: tiny_lm.measured(chain, model, start, seeds, begin, goal=goal), looks)
        learn.train(model, data, plan, learn.preference("dpo", beta=BETA), look=trace)
        return model, trace

    cell = named(run="transformer")
    for name in ("ra", "no_swap"):
        model, _ = trained(RULES[name], 10, at["lm_epochs"])
        told = {goal: tiny_lm.measured(chain, model, start, seeds, begin, goal=goal) for goal in (10, 6, 2, 0)}
        for goal, each in told.items():
            book.add("", cell, f"{name} g={goal}" if goal else f"{name} untagged", **each)
        if name == "ra":
            book.add("", cell, "ra g=10", gain_at_kl=told[10]["gain"])
            target = told[10]["kl"]
    _, path = trained(None, 0, at["lm_epochs"])
    book.add("", cell, "dpo", **path.seen[-1])
    book.add("", cell, "dpo at the KL of ra", gain_at_kl=path.at_kl(target))


def _with_texts(data: learn.Data, texts: np.ndarray) -> learn.Data:
    """Numbers of answers into their tokens, and the code of prompt and goal into that of the transformer."""
    seed = np.arange(len(texts))[:, None]
    chosen, rejected = (
        torch.as_tensor(texts[seed, side.numpy()].astype(np.int64)) for side in (data.chosen, data.rejected)
    )
    code = data.prompt // 21 * tiny_lm.GOALS + data.prompt % 21 // 2
    return data._replace(prompt=code, chosen=chosen, rejected=rejected)


PARTS = {"shared": shared, "memory": memory, "transformer": transformer}
