"""Which response to reject, and what more samples do to it. World: exact chains, with and without junk; `pair.build`.

The draws of n = 5 are the first five of those of n = 200: a difference between two n is one of the same prompts and seeds.
"""

from collections.abc import Mapping
from typing import Any

import learn
import numpy as np
import tiny_lm
import world
from book import Book
from cells import named

from pairwright.pair.build import Pairing, build_pairs, grid

BETA, RATE, BATCH = 0.1, 4.0, 50
REJECTED = ("min", "mu-2sigma", "mu-1sigma", "min_of(5)")


class Drawn:
    """A world, its draws and their worth; scores are made of it by a rater."""

    def __init__(self, seeds: list[int], *, junk: bool, sets: int, n: int) -> None:
        self.seeds, self.junk = seeds, junk
        self.world = world.chain(seeds, junk=junk)
        prompts = self.world.logit_SPVA.shape[1]
        self.prompt_SG = np.tile(np.arange(sets) % prompts, (len(seeds), 1))
        rng_S = world.rngs(seeds, "draws", junk)
        self.text = world.walk(self.world.logit_SPVA, self.prompt_SG, n, self.world.length, rng_S)
        self.gold = world.worth(self.world, self.prompt_SG, self.text)
        self.code = world.codes(self.text, self.world.tokens)

    def table(self, sd: float, n: int) -> Any:
        score = world.rate(self.gold, world.Rater(sd=sd), world.rngs(self.seeds, "rater", sd))
        return world.candidates(score[..., :n], self.code[..., :n])

    def pairs(self, table: Any) -> tuple[world.Taken, learn.Data]:
        at = world.taken(table, len(self.seeds), self.prompt_SG.shape[1])
        seed = np.arange(len(self.seeds))[:, None]
        prompt = np.take_along_axis(self.prompt_SG, at.group_SI, 1)
        sides = (self.text[seed, at.group_SI, side] for side in (at.chosen_SI, at.rejected_SI))
        return at, learn.data(prompt, *sides, at.gap_SI, here=at.here_SI)

    def fit(self, data: learn.Data, epochs: int) -> learn.Trace:
        policy = learn.ChainPolicy(self.world.logit_SPVA)
        plan = learn.Plan(learn.orders(data, world.rngs(self.seeds, "order"), epochs), RATE, BATCH)
        looks = range(1, plan.steps + 1, max(1, plan.steps // 24))
        trace = learn.Trace(
            lambda: world.exact(self.world, policy.logits().detach().numpy()),
            [*looks, plan.steps // epochs, plan.steps],
        )
        learn.train(policy, data, plan, learn.preference("dpo", beta=BETA), look=trace)
        return trace


def trainings(book: Book, at: Mapping[str, Any], seeds: list[int], *, junk: bool) -> None:
    drawn = Drawn(seeds, junk=junk, sets=at["sets"], n=max(at["n"]))
    for sd in at["noise"]:
        for n in at["n"]:
            table, traces = drawn.table(sd, n), {}
            arms = (*REJECTED, "mu+1sigma") if not junk and n == max(at["n"]) else REJECTED
            for rule in arms:
                built = build_pairs(table, Pairing(rejected=rule))
                taken, data = drawn.pairs(built.pairs)
                traces[rule] = trace = drawn.fit(data, at["epochs"])
                seed = np.arange(len(seeds))[:, None]
                worth = [drawn.gold[seed, taken.group_SI, s] for s in (taken.chosen_SI, taken.rejected_SI)]
                facts = {
                    "pairs": taken.here_SI.sum(1),
                    "right": _mean(worth[0] > worth[1], taken.here_SI),
                    "junk_rejected": _mean(_junk(drawn, taken), taken.here_SI) if junk else np.zeros(len(seeds)),
                }
                steps = len(trace.losses)
                for epochs in (1, at["epochs"]):
                    step = steps * epochs // at["epochs"]
                    loss = np.mean(trace.losses[step - steps // at["epochs"] : step], axis=0)
                    cell = named(junk=int(junk), noise=sd, n=n, epochs=epochs)
                    book.add("", cell, rule, **trace.after(step), **facts, loss=loss)
            _matched(book, traces, named(junk=int(junk), noise=sd, n=n, epochs=at["epochs"]))


def _matched(book: Book, traces: Mapping[str, learn.Trace], cell: str) -> None:
    """Gains where every arm has come as far from the start policy as the arm that ends nearest to it."""
    least_S = np.min([trace.path("kl").max(0) for trace in traces.values()], axis=0)
    for arm, trace in traces.items():
        book.add("", cell, arm, gain_at_kl=trace.at_kl(least_S), matched_kl=least_S)


def _mean(value_SI: np.ndarray, here_SI: np.ndarray) -> np.ndarray:
    return (value_SI * here_SI).sum(1) / here_SI.sum(1)


def _junk(drawn: Drawn, taken: world.Taken) -> np.ndarray:
    seed = np.arange(len(drawn.seeds))[:, None]
    return (drawn.text[seed, taken.group_SI, taken.rejected_SI] == drawn.world.tokens - 1).any(-1)


def clean_world(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    trainings(book, at, seeds, junk=False)


def junk_world(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    trainings(book, at, seeds, junk=True)


def all_positions(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """The 21 pairs of positions at the largest n, with junk, by `pair.build.grid`."""
    drawn = Drawn(seeds, junk=True, sets=at["grid_sets"], n=max(at["n"]))
    for cell in grid(drawn.table(at["noise"][0], max(at["n"])), Pairing(rejected="min")):
        _, data = drawn.pairs(cell.pairs)
        trace = drawn.fit(data, at["epochs"])
        measured = trace.after(len(trace.losses))
        book.add("", f"grid=21 rejected={cell.rejected}", cell.chosen, **measured, pairs=data.here.numpy().sum(1))


SHAPES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "left_skewed": lambda rng, shape: -rng.standard_exponential(shape),
    "right_skewed": lambda rng, shape: rng.standard_exponential(shape),
    "two_modes": lambda rng, shape: rng.choice([-2.0, 2.0], shape) + 0.3 * rng.standard_normal(shape),
    "normal_junk": lambda rng, shape: np.where(rng.random(shape) < 0.02, -15.0, 0.0) + rng.standard_normal(shape),
}


def picks(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """No training: where the rule mu - 2 sigma lands, on scores of five shapes."""
    for shape, draw in SHAPES.items():
        for n in at["pick_n"]:
            score = np.stack([draw(rng, (at["pick_sets"], n)) for rng in world.rngs(seeds, "picks", shape, n)])
            table = world.candidates(score, np.tile(np.arange(n), (len(seeds), at["pick_sets"], 1)))
            for rule in ("mu-2sigma", "min"):
                built = build_pairs(table, Pairing(rejected=rule))
                low = built.pairs["z_rejected"].to_numpy().reshape(len(seeds), -1)
                same = (built.stats["sigma_id"] == built.stats["min_id"]).to_numpy().reshape(len(seeds), -1)
                book.add("", named(shape=shape, n=n), rule, z=low.mean(1), is_minimum=same.mean(1))


def transformer(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    """The same question for a small transformer that was taught by the chain with junk, on its own samples."""
    n, sd, seeds = at["lm_n"], at["noise"][0], seeds[: at["lm_seeds"]]
    chain = world.chain(seeds, junk=True)
    start = tiny_lm.taught(chain, seeds, steps=at["lm_steps"], batch=64)
    begin = tiny_lm.beginning(chain, start, seeds)
    prompt = np.tile(np.arange(at["lm_sets"]) % chain.logit_SPVA.shape[1], (len(seeds), 1))
    text = start.sample(prompt * tiny_lm.GOALS, n, world.rngs(seeds, "lm draws"))
    gold, code = world.worth(chain, prompt, text), world.codes(text, chain.tokens)
    score = world.rate(gold, world.Rater(sd=sd), world.rngs(seeds, "rater", sd))
    traces = {}
    for size in (5, n):
        for rule in REJECTED if size == n else ("min",):
            built = build_pairs(world.candidates(score[..., :size], code[..., :size]), Pairing(rejected=rule))
            taken = world.taken(built.pairs, len(seeds), prompt.shape[1])
            seed = np.arange(len(seeds))[:, None]
            sides = (text[seed, taken.group_SI, side] for side in (taken.chosen_SI, taken.rejected_SI))
            told = np.take_along_axis(prompt, taken.group_SI, 1) * tiny_lm.GOALS
            data = learn.data(told, *sides, taken.gap_SI, here=taken.here_SI)
            trace = lm_fit(start, data, seeds, lambda model: tiny_lm.measured(chain, model, start, seeds, begin))
            traces[rule if size == n else "few"] = trace
            book.add("", named(model="transformer", n=size), rule, **trace.seen[-1])
    traces.pop("few")
    _matched(book, traces, named(model="transformer", n=n))


def lm_fit(start: tiny_lm.TinyLM, data: learn.Data, seeds: list[int], measure: Any, epochs: int = 6) -> learn.Trace:
    model = start.copy()
    plan = learn.Plan(learn.orders(data, world.rngs(seeds, "lm order"), epochs), 3e-3, BATCH, adam=(0.9, 0.99))
    trace = learn.Trace(lambda: measure(model), [*range(4, plan.steps, 11), plan.steps])
    learn.train(model, data, plan, learn.preference("dpo", beta=BETA), look=trace)
    return trace


PARTS = {
    "clean_world": clean_world,
    "junk_world": junk_world,
    "all_positions": all_positions,
    "picks": picks,
    "transformer": transformer,
}
