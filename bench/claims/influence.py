"""Which third of the pairs helps, by influence on a validation set; what cheap scores see of it; whether it belongs to the model.

World: a scorer f of one hidden tanh layer, 20 -> 24 -> 1; a pair's log-ratio gap is (f - f_ref)(a) - (f - f_ref)(b), so that
every formula of DPO holds. Labels by Bradley-Terry on 2 (q(a) - q(b)), then flips; validation pairs are flipped as often, test
pairs never.
Influence by the slope along the validation gradient (`core.influence`), bands by rank (`core.bands`, `select.rank`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import learn
import numpy as np
import polars as pl
import torch
import world
from book import Book
from cells import named

from pairwright.core.bands import inside
from pairwright.core.influence import agreement, central_slope, influence, lossdiff, spearman
from pairwright.select.pool import Pool
from pairwright.select.rank import choose
from pairwright.select.settings import Selection

BETA, IN, HIDDEN, BATCH = 1.0, 20, 24, 16
TEST = 1000
THIRD = 1 / 3


class Set(NamedTuple):
    """Pairs as rows of items, (S, I): the chosen side's features and the other's; flipped; true utilities' difference."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    flipped: np.ndarray
    better: np.ndarray  # utility of chosen > of rejected


def drawn(rng_S: list[np.random.Generator], w: np.ndarray, n: int, flips: float, *, wild: float = 0.0) -> Set:
    item = world.each(rng_S, "standard_normal", (n, 2, IN))
    item[world.each(rng_S, "random", n) < wild] *= 3
    q = np.einsum("sikf,sf->sik", np.sin(item), w) + 0.5 * np.einsum("sikf,sf->sik", np.tanh(item), w)
    first = world.each(rng_S, "random", n) < 1 / (1 + np.exp(-2 * (q[..., 0] - q[..., 1])))
    flip = world.each(rng_S, "random", n) < flips
    first ^= flip
    a = np.where(first[..., None], item[:, :, 0], item[:, :, 1])
    b = np.where(first[..., None], item[:, :, 1], item[:, :, 0])
    better = np.where(first, q[..., 0] > q[..., 1], q[..., 1] > q[..., 0])
    return Set(torch.as_tensor(a), torch.as_tensor(b), flip, better)


class Scorer:
    """f, its start f_ref, and training as a policy whose responses are sides of pairs."""

    def __init__(self, rng_S: list[np.random.Generator], seen: int = IN) -> None:
        u = world.each(rng_S, "standard_normal", (IN, HIDDEN)) / np.sqrt(IN)
        u[:, seen:] = 0.0
        self.mask = torch.as_tensor((np.arange(IN) < seen).astype(float))[None, :, None]
        v = 0.3 * world.each(rng_S, "standard_normal", HIDDEN) / np.sqrt(HIDDEN)
        self.parameters = [torch.as_tensor(x).requires_grad_() for x in (u, v)]
        self.items = torch.zeros(0)

    def copy(self) -> "Scorer":
        other = object.__new__(Scorer)
        other.mask, other.items = self.mask, self.items
        other.parameters = [p.detach().clone().requires_grad_() for p in self.parameters]
        return other

    def f(self, x: torch.Tensor, parameters: Any = None) -> torch.Tensor:
        u, v = parameters or self.parameters
        return torch.einsum("sih,sh->si", torch.tanh(torch.einsum("sif,sfh->sih", x, u * self.mask)), v)

    def slope(self, x: torch.Tensor, along: list[torch.Tensor]) -> torch.Tensor:
        """d f(x) / dt at t = 0 where the parameters move by t `along`."""
        (u, v), (du, dv) = self.parameters, along
        h = torch.tanh(torch.einsum("sif,sfh->sih", x, u * self.mask))
        dh = (1 - h**2) * torch.einsum("sif,sfh->sih", x, du * self.mask)
        return (torch.einsum("sih,sh->si", h, dv) + torch.einsum("sih,sh->si", dh, v)).detach()

    def logp(self, prompt_SI: torch.Tensor, response_SI: torch.Tensor) -> torch.Tensor:
        seed = torch.arange(len(response_SI))[:, None]
        return self.f(self.items[seed, response_SI])


def fit(policy: Scorer, ref: Scorer, pairs: Set, keep: np.ndarray, how: tuple[float, int], rng_S: Any) -> Scorer:
    """Trained on the pairs that `keep` says, from the policy as it stands, against the reference of `ref`."""
    rate, epochs = how
    out = policy.copy()
    n = pairs.chosen.shape[1]
    most = int(keep.sum(1).max())
    order = np.argsort(~keep, axis=1, kind="stable")[:, :most]
    here = np.take_along_axis(keep, order, 1)
    out.items = torch.cat([pairs.chosen, pairs.rejected], 1)
    data = learn.data(order * 0, order, order + n, np.ones(order.shape), here=here)
    with torch.no_grad():
        seed = torch.arange(len(order))[:, None]
        sides = (data.chosen, data.rejected)
        base = tuple(ref.f(out.items[seed, side]) for side in sides)
    plan = learn.Plan(learn.orders(data, rng_S, epochs), rate, BATCH, adam=(0.9, 0.999))
    learn.train(out, data, plan, learn.preference("dpo", beta=BETA), ref=base)
    return out


def margin(at: Scorer, ref: Scorer, pairs: Set) -> torch.Tensor:
    return BETA * ((at.f(pairs.chosen) - ref.f(pairs.chosen)) - (at.f(pairs.rejected) - ref.f(pairs.rejected)))


class Measured(NamedTuple):
    """Scores of the pairs, (S, I), and how the difference quotient agrees with the exact slope."""

    influence: np.ndarray
    irm: np.ndarray
    agreement: dict[float, np.ndarray]


def scored(at: Scorer, ref: Scorer, pairs: Set, held: Set) -> Measured:
    loss = torch.nn.functional.softplus(-margin(at, ref, held)).mean(1)
    g = torch.autograd.grad(loss.sum(), at.parameters)
    norm = torch.sqrt(sum((x.reshape(len(x), -1) ** 2).sum(1) for x in g))
    u = [x / norm.reshape(-1, *[1] * (x.ndim - 1)) for x in g]
    parameters = tuple(p.detach() for p in at.parameters)

    def gap(p: Any) -> torch.Tensor:
        return at.f(pairs.chosen, p) - at.f(pairs.rejected, p)

    slope = at.slope(pairs.chosen, u) - at.slope(pairs.rejected, u)
    m, size = margin(at, ref, pairs).detach().numpy(), norm.numpy()
    exact = np.stack(
        [influence(s, x, beta=BETA, norm=float(n)) for s, x, n in zip(slope.numpy(), m, size, strict=True)]
    )
    told = {}
    for step in (0.001, 0.1, 0.5):
        ahead, back = (gap([p + k * step * d for p, d in zip(parameters, u, strict=True)]).numpy() for k in (1, -1))
        near = [
            influence(central_slope(a, b, step), x, beta=BETA, norm=float(n))
            for a, b, x, n in zip(ahead, back, m, size, strict=True)
        ]
        told[step] = np.array([agreement(x, y).spearman for x, y in zip(near, exact, strict=True)])
    return Measured(exact, m, told)


def test(at: Scorer, ref: Scorer, pairs: Set) -> dict[str, np.ndarray]:
    """On pairs without flips: accuracy against the true order, and the loss on their labels."""
    m = margin(at, ref, pairs).detach().numpy()
    return {"accuracy": ((m > 0) == pairs.better).mean(1), "test_loss": np.logaddexp(0, -m).mean(1)}


def by_band(value: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.stack([inside([row], [(low, high)]).keep_I for row in value])


def by_rule(scores: Mapping[str, np.ndarray], rule: str, seeds: list[int]) -> np.ndarray:
    """What the select stage keeps by a rule, with its own bands."""
    out = []
    for s, seed in enumerate(seeds):
        table = {"pair_id": np.arange(len(scores["irm"][s])), **{name: value[s] for name, value in scores.items()}}
        out.append(choose(Pool(pl.DataFrame(table)), Selection(rule=rule, keep=1.0, seed=seed)).keep_I)
    return np.stack(out)


def as_many(keep: np.ndarray, rng_S: list[np.random.Generator]) -> np.ndarray:
    out = np.zeros_like(keep)
    for row, rng, k in zip(out, rng_S, keep.sum(1), strict=True):
        row[rng.permutation(len(row))[:k]] = True
    return out


def setting(book: Book, at: Mapping[str, Any], seeds: list[int], name: str) -> None:
    how = at["cases"][name]
    rng_S = world.rngs(seeds, "influence", name)
    w = world.each(rng_S, "standard_normal", IN) / np.sqrt(IN)
    pairs = drawn(rng_S, w, at["pairs"], how["flips"], wild=how["wild"])
    held, tests = drawn(rng_S, w, how["held"], how["flips"]), drawn(rng_S, w, TEST, 0.0)
    every = np.ones(pairs.flipped.shape, bool)
    ref = Scorer(world.rngs(seeds, "start"))
    theta = fit(ref, ref, pairs, every, (3e-3, 1), world.rngs(seeds, "warm"))
    told = scored(theta, ref, pairs, held)
    whole = np.ones(held.flipped.shape, bool)
    val = fit(theta, ref, held, whole, (3e-3, 1), world.rngs(seeds, "val"))
    val_ref = fit(ref, ref, held, whole, (3e-3, 1), world.rngs(seeds, "val"))
    diff, diff_ref = (_lossdiff(told, margin(x, ref, pairs).detach().numpy()) for x in (val, val_ref))
    columns = {"influence": told.influence, "irm": told.irm, "lossdiff": diff}
    arms = {
        "lowest third": by_band(told.influence, 0, THIRD),
        "middle third": by_band(told.influence, THIRD, 2 * THIRD),
        "highest third": by_band(told.influence, 2 * THIRD, 1),
        "all": every,
        "tif": by_rule(columns, "tif", seeds),
        "lossdiff_irm": by_rule(columns, "lossdiff_irm", seeds),
        "lowest 20 % dropped": by_band(told.influence, 0.2, 1),
        "oracle": ~pairs.flipped,
    }
    arms["random third"] = as_many(arms["middle third"], world.rngs(seeds, "random third"))
    arms["random, as many as lossdiff_irm"] = as_many(arms["lossdiff_irm"], world.rngs(seeds, "random many"))
    cell = named(case=name)
    for arm, keep in arms.items():
        trained = fit(theta, ref, pairs, keep, (how["rate"], how["epochs"]), world.rngs(seeds, "last"))
        book.add("", cell, arm, **test(trained, ref, tests), kept=keep.mean(1), flips=_share(pairs.flipped, keep))
    few = fit(theta, ref, pairs, every, (how["rate"], 1), world.rngs(seeds, "last"))
    book.add("", cell, "all, one epoch", **test(few, ref, tests))
    _correlations(book, cell, told, {"lossdiff": diff, "lossdiff from the start": diff_ref, "irm": told.irm}, pairs)
    if name == "flips_20":
        _models(book, told, (pairs, held), every, seeds)


def _lossdiff(told: Measured, margin_val: np.ndarray) -> np.ndarray:
    return np.stack([lossdiff(a, b) for a, b in zip(told.irm, margin_val, strict=True)])


def _share(flag: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return (flag & keep).sum(1) / keep.sum(1)


def _correlations(book: Book, cell: str, told: Measured, scores: Mapping[str, np.ndarray], pairs: Set) -> None:
    for name, value in scores.items():
        rho = np.array([spearman(a, b) for a, b in zip(value, told.influence, strict=True)])
        irm = np.array([spearman(a, b) for a, b in zip(value, told.irm, strict=True)])
        book.add("", cell, name, spearman=rho, spearman_irm=irm, auc_flips=_auc(-value, pairs.flipped))
    book.add("", cell, "influence", auc_flips=_auc(-told.influence, pairs.flipped))
    for step, rho in told.agreement.items():
        book.add("", cell, f"step {step:g}", spearman=rho)


def _auc(score: np.ndarray, flag: np.ndarray) -> np.ndarray:
    from book import auc

    return np.array([auc(s, f) if f.any() else np.nan for s, f in zip(score - score.min() + 1, flag, strict=True)])


def _models(book: Book, told: Measured, sets: tuple[Set, Set], every: np.ndarray, seeds: list[int]) -> None:
    """Influence of the same pairs by a scorer of a new seed, and by one that cannot see five of the twenty features."""
    pairs, held = sets
    for arm, seen in (("new seed", IN), ("five features unseen", IN - 5)):
        ref = Scorer(world.rngs(seeds, "other start"), seen)
        other = scored(fit(ref, ref, pairs, every, (3e-3, 1), world.rngs(seeds, "other warm")), ref, pairs, held)
        rho = [spearman(a, b) for a, b in zip(other.influence, told.influence, strict=True)]
        top = by_band(other.influence, THIRD, 2 * THIRD) & by_band(told.influence, THIRD, 2 * THIRD)
        book.add("", "models", arm, spearman=np.array(rho), overlap=top.mean(1) * 3 - THIRD)


PARTS = {
    name: lambda book, at, seeds, name=name: setting(book, at, seeds, name) for name in ("flips_20", "clean", "hard")
}
