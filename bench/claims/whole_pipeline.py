"""The whole pipeline against the usual one, and with each stage taken out. World: exact chains, three raters that err.

    usual   mean of the raters, highest against lowest, all pairs, plain DPO, shuffled
    ours    clean, mean of z, max against mu - 2 sigma, the half with the largest fused margins, hardest tenth to SFT,
            rating_dpo; as the recipe of the README would have it

Every stage is the product's. All arms take the same number of steps: one that keeps fewer pairs sees them more often.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import learn
import numpy as np
import polars as pl
import world
from book import Book
from cells import named

from pairwright.clean.evidence import Cleaning, Evidence
from pairwright.clean.matrix import with_proposals
from pairwright.clean.run import clean
from pairwright.pair.build import Pairing, build_pairs
from pairwright.score.combine import Reward, column, joined, with_reward
from pairwright.select.pool import Pool
from pairwright.select.rank import choose
from pairwright.select.settings import Selection
from pairwright.tables import COMPARISONS, MESSAGES, empty
from pairwright.train.routing import Difficulty, Routing, route

BETA, RATE, BATCH, SEED_SHARE = 0.1, 4.0, 50, 0.15
RATERS = ("one", "two", "three")
QUALITY = {
    "good": {"one": world.Rater(sd=1.0), "two": world.Rater(sd=1.5), "three": world.Rater(sd=2.0, scale=1.5)},
    "bad": {
        "one": world.Rater(sd=1.5, gross=0.04, length=0.4),
        "two": world.Rater(sd=2.0, gross=0.04, length=0.4),
        "three": world.Rater(sd=3.0, scale=3.0, length=0.4),
    },
}


@dataclass(frozen=True)
class Recipe:
    clean: str = "safe"  # none, safe proposals, or every flag
    combine: str = "mean_z"
    rejected: str = "mu-2sigma"
    select: str = "margins"  # margins, random, or all
    route: str = "hardest"  # hardest, or none
    order: str = "easy_first"
    loss: str = "rating_dpo"


OURS = Recipe()
USUAL = Recipe("none", "mean", "min", "all", "none", "shuffled", "dpo")
STAGES: dict[str, dict[str, Any]] = {
    "clean": {"clean": "none"},
    "mean of z": {"combine": "mean"},
    "mu - 2 sigma": {"rejected": "min"},
    "select": {"select": "all"},
    "route": {"route": "none", "order": "shuffled"},
    "rating loss": {"loss": "dpo"},
}
ARMS: dict[str, Recipe] = {
    "usual": USUAL,
    "ours": OURS,
    **{f"ours without {name}": replace(OURS, **change) for name, change in STAGES.items()},
    **{
        f"usual with {name}": replace(USUAL, **{key: getattr(OURS, key) for key in change})
        for name, change in STAGES.items()
    },
    "ours, random pairs": replace(OURS, select="random"),
    "ours, SFT pairs spread": replace(OURS, order="shuffled"),
    "ours, every flag applied": replace(OURS, clean="flags"),
}


class Scored:
    """Draws of the start policy, and what the raters say of them, as tables of the product."""

    def __init__(self, seeds: list[int], at: Mapping[str, Any], *, junk: bool, quality: str) -> None:
        self.seeds, self.sets, self.n = seeds, at["sets"], at["n"]
        self.world = world.chain(seeds, junk=junk, ends=True)
        self.prompt = np.tile(np.arange(self.sets) % self.world.logit_SPVA.shape[1], (len(seeds), 1))
        rng_S = world.rngs(seeds, "pipeline", junk)
        self.text = world.walk(self.world.logit_SPVA, self.prompt, self.n, self.world.length, rng_S)
        self.gold = world.worth(self.world, self.prompt, self.text)
        self.length = world.lengths(self.world, self.text)
        self.table = world.candidates(self.gold, world.codes(self.text, self.world.tokens)).drop("score")
        parts = []
        for name, rater in QUALITY[quality].items():
            said, meant = (
                world.rate(self.gold, each, world.rngs(seeds, name), length_SGN=self.length)
                for each in (rater, replace(rater, gross=0.0))
            )
            ids = self.table.select("prompt_id", "response_id")
            parts.append(ids.with_columns(rater=pl.lit(name), score=pl.Series(said.ravel())))
            parts[-1] = parts[-1].with_columns(gross=pl.Series((said != meant).ravel()))
        self.scores = pl.concat(parts)
        self.found: list[dict[str, float]] = []
        self.kinds = {"none": self.scores, **self._cleaned()}

    def _cleaned(self) -> dict[str, pl.DataFrame]:
        """NAME.clean of every rater, seed by seed, with the safe proposals and with all; one without any as it is."""
        out: dict[str, list[pl.DataFrame]] = {"safe": [], "flags": []}
        number = pl.col("prompt_id").cast(pl.Int64) // self.sets
        for s in range(len(self.seeds)):
            mine = self.scores.filter(number == s)
            rated = mine.drop("gross").with_columns(model=pl.lit(None, pl.String))
            told = clean(Evidence(rated, empty(COMPARISONS)), Cleaning(apply="safe", raters=list(RATERS)))
            every = with_proposals(mine.drop("gross"), told.proposals.with_columns(status=pl.lit("safe")))
            self.found.append(_hits(told.proposals, mine))
            for kind, scores in (("safe", told.scores), ("flags", every)):
                made = scores.select("prompt_id", "response_id", pl.col("rater").str.strip_suffix(".clean"), "score")
                left = mine.filter(~pl.col("rater").is_in(made["rater"].unique().to_list()))
                out[kind].append(pl.concat([made, left.select(made.columns)]))
        return {kind: pl.concat(parts) for kind, parts in out.items()}

    def candidates(self, recipe: Recipe) -> pl.DataFrame:
        reward = Reward(dict.fromkeys(RATERS, 1.0), recipe.combine)
        whole = joined(self.table, self.kinds[recipe.clean].drop("gross", strict=False), reward)
        return with_reward(whole, reward).drop([column(name) for name in RATERS])

    def pairs(self, recipe: Recipe) -> pl.DataFrame:
        """Built, selected and routed, seed by seed, in training order."""
        built = build_pairs(self.candidates(recipe), Pairing(rejected=recipe.rejected)).pairs
        seed = pl.col("prompt_id").cast(pl.Int64) // self.sets
        if recipe.select != "all":
            built = self._implicit(built) if recipe.select == "margins" else built
        out = []
        for s, number in enumerate(self.seeds):
            mine = built.filter(seed == s)
            if recipe.select != "all":
                mine = mine.filter(choose(Pool(mine), _selection(recipe, number)).keep_I)
            routing = Routing(to_sft=recipe.route, order=recipe.order, seed=number)
            out.append(route(_messages(mine), routing, Difficulty()).kept)
        return pl.concat(out)

    def _implicit(self, built: pl.DataFrame) -> pl.DataFrame:
        """Margins of a policy trained on a random share of the pairs, which are marked as its seed pairs."""
        data, taken = self.data(built)
        policy = learn.ChainPolicy(self.world.logit_SPVA)
        count = int(SEED_SHARE * data.prompt.shape[1])
        rows = learn.orders(data, world.rngs(self.seeds, "seed pairs"), 1)[:, :count]
        start = learn.reference(policy, data)
        plan = learn.Plan(rows.repeat(1, 3), RATE, BATCH)
        learn.train(policy, data, plan, learn.preference("dpo", beta=BETA))
        now = learn.reference(policy, data)
        margin = ((now[0] - start[0]) - (now[1] - start[1])).numpy()
        used = np.zeros(margin.shape, bool)
        np.put_along_axis(used, rows.numpy(), True, 1)
        return built.with_columns(
            margin_implicit=pl.Series(margin[taken.here_SI]), seed_pair=pl.Series(used[taken.here_SI])
        )

    def data(self, pairs: pl.DataFrame) -> tuple[learn.Data, world.Taken]:
        at = world.taken(pairs, len(self.seeds), self.sets)
        seed = np.arange(len(self.seeds))[:, None]
        prompt = np.take_along_axis(self.prompt, at.group_SI, 1)
        sides = [self.text[seed, at.group_SI, side] for side in (at.chosen_SI, at.rejected_SI)]
        length = np.maximum(1, np.minimum(self.world.length, (sides[0] != 0).sum(-1) + 1))
        sft = None
        if "objective" in pairs.columns:
            flag = (pairs["objective"] == "sft").to_numpy()
            of_S = pairs["prompt_id"].cast(pl.Int64).to_numpy() // self.sets
            sft = np.zeros(at.here_SI.shape, bool)
            for s in range(len(sft)):
                sft[s, : (of_S == s).sum()] = flag[of_S == s]
        return learn.data(prompt, *sides, at.gap_SI, here=at.here_SI, sft=sft, chosen_length=length), at


def _hits(proposals: pl.DataFrame, scores: pl.DataFrame) -> dict[str, float]:
    """Of the flags and of the safe ones: share that are wrong scores, and share of the wrong scores that they are."""
    key = ["prompt_id", "response_id", "rater"]
    held = proposals.join(scores.select(*key, "gross"), on=key, how="left")
    wrong, told = scores["gross"].sum(), {}
    for kind, rows in (("flags", held), ("safe", held.filter(pl.col("status") == "safe"))):
        hits = rows["gross"].sum()
        told[f"{kind} precision"] = hits / rows.height if rows.height else np.nan
        told[f"{kind} recall"] = hits / wrong if wrong else np.nan
    return told


def _selection(recipe: Recipe, seed: int) -> Selection:
    if recipe.select == "random":
        return Selection(rule="random", keep=0.5, seed=seed)
    return Selection(margins=["external", "implicit"], keep=0.5, seed=seed, scoring={"rescale": "iqr"})


def _messages(pairs: pl.DataFrame) -> pl.DataFrame:
    """The texts that routing asks for: ids stand for them."""

    def said(name: str, role: str) -> pl.Series:
        return pl.Series([[{"role": role, "content": text}] for text in pairs[name]], dtype=MESSAGES)

    return pairs.with_columns(
        prompt=said("prompt_id", "user"),
        chosen=said("chosen_id", "assistant"),
        rejected=said("rejected_id", "assistant"),
    )


def rows(data: learn.Data, steps: int) -> Any:
    """The pairs in their order, again and again, for so many steps; what is not there is never reached twice in a row."""
    out = []
    for here in data.here.numpy() > 0:
        real = np.flatnonzero(here)
        out.append(np.resize(real, steps * BATCH))
    return learn.torch.as_tensor(np.stack(out))


def one(scored: Scored, recipe: Recipe, steps: int) -> tuple[learn.Trace, pl.DataFrame]:
    pairs = scored.pairs(recipe)
    data, _ = scored.data(pairs)
    policy = learn.ChainPolicy(scored.world.logit_SPVA)
    trace = learn.Trace(
        lambda: world.exact(scored.world, policy.logits().detach().numpy()), [*range(2, steps, 4), steps]
    )
    loss = {"dpo": {"beta": BETA}, "rating_dpo": {"beta": BETA, "beta1": 0.4 if recipe.combine == "mean_z" else 1.0}}
    fit = learn.preference(recipe.loss, **loss[recipe.loss])
    learn.train(policy, data, learn.Plan(rows(data, steps), RATE, BATCH), fit, look=trace)
    return trace, pairs


def worlds(book: Book, at: Mapping[str, Any], seeds: list[int], *, junk: bool) -> None:
    for quality in QUALITY:
        scored = Scored(seeds, at, junk=junk, quality=quality)
        cell, traces = named(junk=int(junk), raters=quality), {}
        for arm, recipe in ARMS.items():
            traces[arm], pairs = one(scored, recipe, at["steps"])
            count = pairs.group_by(pl.col("prompt_id").cast(pl.Int64) // scored.sets).len().sort("prompt_id")["len"]
            last = traces[arm].after(at["steps"])
            book.add("", cell, arm, **last, best=traces[arm].path("gain").max(0), pairs=count.to_numpy().astype(float))
        target = traces["usual"].path("kl").max(0)
        for arm, trace in traces.items():
            book.add("", cell, arm, gain_at_kl=trace.at_kl(np.minimum(target, trace.path("kl").max(0))))
        longer, _ = one(scored, USUAL, 4 * at["steps"])
        ours = traces["ours"].after(at["steps"])
        book.add("", cell, "ours", gain_far=ours["gain"])
        best = longer.path("gain").max(0)
        book.add(
            "",
            cell,
            "usual, four times as long",
            gain_far=longer.at_kl(ours["kl"]),
            gain=best,
            kl=longer.path("kl").max(0),
        )
        _errors(book, cell, scored)


def _errors(book: Book, cell: str, scored: Scored) -> None:
    """Root mean square distance of the mean of z to that of the true reward, within prompts, raw and cleaned."""
    true = scored.gold - scored.gold.mean(-1, keepdims=True)
    for kind in ("flags", "safe"):
        told = {name: np.array([one[f"{kind} {name}"] for one in scored.found]) for name in ("precision", "recall")}
        book.add("", cell, kind, **told)
    for arm, kind in (("raw scores", "none"), ("cleaned scores", "safe"), ("every flag applied", "flags")):
        score = scored.candidates(Recipe(clean=kind))["score"].to_numpy().reshape(true.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            rho = (score * true).sum(-1) / np.sqrt((score**2).sum(-1) * (true**2).sum(-1))
        book.add("", cell, arm, agreement=np.nanmean(rho, axis=1))


def plain(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    worlds(book, at, seeds, junk=False)


def junk(book: Book, at: Mapping[str, Any], seeds: list[int]) -> None:
    worlds(book, at, seeds, junk=True)


PARTS = {"plain": plain, "junk": junk}
