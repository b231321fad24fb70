"""The worlds of the claims, small enough to be known exactly: what can be written, its worth, and raters that err.

    answers     a finite list of answers to each prompt, with features: expected reward and KL are sums over the list
    chain       texts of tokens, each drawn after the one before it: both are sums over states, exact as well
    tiny_lm     a causal transformer (in tiny_lm.py): both are means over samples of the policy

Every array has the seeds first (suffix S); a seed's numbers come from its own generators and do not depend on which seeds
run beside it. Rewards are reported in units of the start policy's spread: (E[r] - E_start[r]) / sd_start(r).
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

Floats = np.ndarray


def rngs(seeds: list[int], *salt: object) -> list[np.random.Generator]:
    """One generator per seed and purpose."""
    return [np.random.default_rng([seed, zlib.crc32(repr(salt).encode())]) for seed in seeds]


def each(rng_S: list[np.random.Generator], draw: str, *args: object, **kwargs: object) -> Floats:
    """The same draw from every generator, stacked."""
    return np.stack([getattr(rng, draw)(*args, **kwargs) for rng in rng_S])


# ---- raters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rater:
    """score = scale (r + sd N) + length len + shared b, b an error of the response that all raters have in common.

    `flips`: share of the prompts whose scores are turned round about their mean; `gross`: share of single scores that are
    recorded at the highest value of the data. Units of r, except for scale.
    """

    sd: float = 0.0
    scale: float = 1.0
    flips: float = 0.0
    gross: float = 0.0
    length: float = 0.0
    shared: float = 0.0


def rate(
    gold_SGN: Floats,
    rater: Rater,
    rng_S: list[np.random.Generator],
    *,
    length_SGN: Floats | None = None,
    shared_SGN: Floats | None = None,
) -> Floats:
    """Scores of responses, shape (seeds, groups, responses of a group)."""
    shape = gold_SGN.shape[1:]
    noise_SGN = each(rng_S, "standard_normal", shape) if rater.sd else 0.0
    score = rater.scale * (gold_SGN + rater.sd * noise_SGN)
    if rater.length:
        score = score + rater.length * _known(length_SGN, "length")
    if rater.shared:
        score = score + rater.shared * _known(shared_SGN, "shared")
    if rater.flips:
        turned_SG = each(rng_S, "random", shape[:1]) < rater.flips
        score = np.where(turned_SG[..., None], 2 * score.mean(-1, keepdims=True) - score, score)
    if rater.gross:
        wrong_SGN = each(rng_S, "random", shape) < rater.gross
        score = np.where(wrong_SGN, score.max((1, 2), keepdims=True), score)
    return score


def _known(value: Floats | None, name: str) -> Floats:
    if value is None:
        raise ValueError(f"this rater looks at {name}, which the world does not give")
    return value


# ---- tables ---------------------------------------------------------------------------------------------------------


def candidates(score_SGN: Floats, text_SGN: Floats) -> pl.DataFrame:
    """Scored responses of all seeds as the pair stage reads them. A group is one set of draws for one prompt.

    text_SGN: a whole number per text; equal numbers are equal texts.
    """
    seeds, groups, n = score_SGN.shape
    number = np.arange(seeds * groups)
    return pl.DataFrame(
        {
            "prompt_id": pl.Series(np.repeat(number, n)).cast(pl.String).str.zfill(8),
            "response_id": pl.Series(np.tile(np.arange(n), seeds * groups)).cast(pl.String).str.zfill(6),
            "response": pl.Series(text_SGN.ravel()).cast(pl.String),
            "score": score_SGN.ravel(),
        }
    )


class Taken(NamedTuple):
    """Pairs of every seed side by side: places of the group and of both responses. Not here: a seed that has fewer."""

    group_SI: np.ndarray
    chosen_SI: np.ndarray
    rejected_SI: np.ndarray
    gap_SI: Floats  # score of chosen - score of rejected
    here_SI: np.ndarray


def taken(pairs: pl.DataFrame, seeds: int, groups: int) -> Taken:
    """A table of pairs (as the pair, select or route stage leaves it) as arrays, in its order."""
    number = pairs["prompt_id"].cast(pl.Int64).to_numpy()
    sides = [pairs[name].cast(pl.Int64).to_numpy() for name in ("chosen_id", "rejected_id")]
    gap = pairs["margin"].to_numpy()
    of_S = [np.flatnonzero(number // groups == s) for s in range(seeds)]
    most = max(len(rows) for rows in of_S)
    here = np.arange(most) < np.array([len(rows) for rows in of_S])[:, None]
    at = np.stack([np.pad(rows, (0, most - len(rows)), constant_values=rows[0] if len(rows) else 0) for rows in of_S])
    return Taken(number[at] % groups, sides[0][at], sides[1][at], gap[at], here)


# ---- chain: exact sequences -----------------------------------------------------------------------------------------


class Chain(NamedTuple):
    """Texts of `length` tokens out of V, each drawn after the one before; the state before the first is V.

    logit and value: (seeds, prompts, V + 1, V). r = sum of value over the steps. The last token may be junk (absorbing
    and costly); with `ends` token 0 ends a text, and what follows is no text.
    """

    logit_SPVA: Floats
    value_SPVA: Floats
    length: int
    ends: bool

    @property
    def tokens(self) -> int:
        return self.logit_SPVA.shape[-1]


JUNK = {"start": 0.002, "stay": 0.95, "cost": 4.0}


def chain(
    seeds: list[int],
    *,
    prompts: int = 40,
    tokens: int = 12,
    length: int = 12,
    junk: bool = False,
    ends: bool = False,
) -> Chain:
    """Values N(0, 1), half of their variance shared by the prompts; logits likewise, of standard deviation 0.7."""
    rng_S = rngs(seeds, "chain", prompts, tokens, length)
    shape = (tokens + 1, tokens)
    value = np.sqrt(0.5) * (
        each(rng_S, "standard_normal", shape)[:, None] + each(rng_S, "standard_normal", (prompts, *shape))
    )
    logit = 0.5 * (each(rng_S, "standard_normal", shape)[:, None] + each(rng_S, "standard_normal", (prompts, *shape)))
    if ends:
        value[..., 0] = 0.0
        logit[..., 0] = -1.0
    if junk:
        bad = tokens - 1
        start, stay = JUNK["start"], JUNK["stay"]
        rest = logsumexp(logit[..., :bad])
        logit[..., bad] = rest + np.log(start / (1 - start))
        logit[:, :, bad, bad] = rest[:, :, bad] + np.log(stay / (1 - stay))
        value[..., bad] = -JUNK["cost"]
    if ends:  # token 0 is for ever
        logit[:, :, 0, :] = -np.inf
        logit[:, :, 0, 0] = 0.0
        value[:, :, 0, :] = 0.0
    return Chain(logit, value, length, ends)


def logsumexp(x: Floats) -> Floats:
    top = x.max(-1)
    return top + np.log(np.exp(x - top[..., None]).sum(-1))


def walk(
    logit_SPVA: Floats, prompt_SG: np.ndarray, n: int, length: int, rng_S: list[np.random.Generator]
) -> np.ndarray:
    """n texts for each group, shape (seeds, groups, n, length), tokens as uint8."""
    out = []
    for logit_PVA, prompt_G, rng in zip(logit_SPVA, prompt_SG, rng_S, strict=True):
        share = np.exp(logit_PVA - logsumexp(logit_PVA)[..., None])
        ladder = share.cumsum(-1)
        ladder[..., -1] = 1.0
        states, tokens = ladder.shape[1:]
        rungs = (ladder + np.arange(ladder[..., 0].size).reshape(*ladder.shape[:2], 1)).ravel()
        row_G = (prompt_G * states)[:, None]
        state = np.full((len(prompt_G), n), tokens)
        text = np.empty((len(prompt_G), n, length), np.uint8)
        for t in range(length):
            row = row_G + state
            found = np.searchsorted(rungs, row + rng.random(state.shape), side="right")
            state = np.minimum(found - row * tokens, tokens - 1)
            text[..., t] = state
        out.append(text)
    return np.stack(out)


def before(text: np.ndarray, tokens: int) -> np.ndarray:
    """The state before each token."""
    first = np.full((*text.shape[:-1], 1), tokens, text.dtype)
    return np.concatenate([first, text[..., :-1]], axis=-1)


def worth(world: Chain, prompt_SG: np.ndarray, text: np.ndarray) -> Floats:
    """r of texts, shape (seeds, groups, n)."""
    seed = np.arange(len(text)).reshape(-1, 1, 1)
    total = np.zeros(text.shape[:-1])
    state = np.full(text.shape[:-1], world.tokens)
    for t in range(world.length):
        total += world.value_SPVA[seed, prompt_SG[..., None], state, text[..., t]]
        state = text[..., t]
    return total


def lengths(world: Chain, text: np.ndarray) -> np.ndarray:
    """Tokens before the end."""
    return (text != 0).sum(-1) if world.ends else np.full(text.shape[:-1], world.length)


def codes(text: np.ndarray, tokens: int) -> np.ndarray:
    """A whole number per text."""
    out = np.zeros(text.shape[:-1], np.int64)
    for t in range(text.shape[-1]):
        out = out * tokens + text[..., t]
    return out


def exact(world: Chain, logit_SPVA: Floats) -> dict[str, Floats]:
    """Gain (units of sd_start), KL to the start policy (nats per text) and the share of texts that hold junk, exactly."""
    share, log_share = _shares(logit_SPVA)
    start_share, start_log = _shares(world.logit_SPVA)
    possible = (share > 0) & (start_share > 0)
    ratio = np.where(possible, np.where(possible, log_share, 0.0) - np.where(possible, start_log, 0.0), 0.0)
    gold, kl = _run(world, share, ratio)
    begin, _ = _run(world, start_share, np.zeros_like(share))
    return {"gain": ((gold - begin) / spread(world)).mean(1), "kl": kl.mean(1)}


def spread(world: Chain) -> Floats:
    """sd of r under the start policy, (seeds, 1): the root of the mean variance within prompts."""
    share, _ = _shares(world.logit_SPVA)
    mean = np.zeros(share.shape[:-1])  # of what is still to come, by state; its square likewise
    square = np.zeros(share.shape[:-1])
    after = share.shape[-1]
    for _ in range(world.length):
        v = world.value_SPVA
        to_mean, to_square = mean[:, :, None, :after], square[:, :, None, :after]
        mean, square = (share * (v + to_mean)).sum(-1), (share * (v**2 + 2 * v * to_mean + to_square)).sum(-1)
    variance = square[:, :, after] - mean[:, :, after] ** 2
    return np.sqrt(variance.mean(1, keepdims=True))


def _shares(logit: Floats) -> tuple[Floats, Floats]:
    log_share = logit - logsumexp(logit)[..., None]
    return np.exp(log_share), log_share


def _run(world: Chain, share: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Expected r and expected sum of `ratio` over the steps, (seeds, prompts)."""
    at = np.zeros(share.shape[:3])
    at[..., world.tokens] = 1.0
    gold = kl = np.zeros(share.shape[:2])
    step_gold, step_kl = (share * world.value_SPVA).sum(-1), (share * ratio).sum(-1)
    for _ in range(world.length):
        gold, kl = gold + (at * step_gold).sum(-1), kl + (at * step_kl).sum(-1)
        at = np.concatenate([np.einsum("spv,spva->spa", at, share), np.zeros_like(at[..., :1])], axis=-1)
    return gold, kl
