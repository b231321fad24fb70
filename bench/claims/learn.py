"""Training in the small worlds: the product's losses over PairTerms, exact log-probabilities, all seeds at once.

Parameters have the seeds first. The losses of the seeds are added up, so that each seed's gradient is its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from pairwright.core.losses import LOSSES
from pairwright.core.pair_terms import PairTerms
from pairwright.train.routing import mixed_loss

torch.set_num_threads(1)
Tensor = torch.Tensor


class Policy(Protocol):
    parameters: list[Tensor]

    def logp(self, prompt_SI: Tensor, response_SI: Tensor) -> Tensor:
        """log pi of responses, summed over their tokens, nats."""
        ...


class Data(NamedTuple):
    """Pairs of all seeds, (S, I); a response is a number or, in a further axis, its tokens."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    gap: Tensor
    here: Tensor  # 1, or 0 where a seed has fewer pairs
    sft: Tensor | None = None  # True: this pair is trained with SFT
    chosen_length: Tensor | None = None

    def at(self, rows_SI: Tensor) -> "Data":
        seed = torch.arange(len(rows_SI))[:, None]
        return Data(*(None if x is None else x[seed, rows_SI] for x in self))


def data(prompt: Any, chosen: Any, rejected: Any, gap: Any, **more: Any) -> Data:
    ints = (torch.as_tensor(np.ascontiguousarray(x)).long() for x in (prompt, chosen, rejected))
    here = more.pop("here", np.ones(np.shape(gap)))
    rest = {k: None if v is None else torch.as_tensor(np.ascontiguousarray(v)) for k, v in more.items()}
    return Data(*ints, torch.as_tensor(np.asarray(gap, float)), torch.as_tensor(np.asarray(here, float)), **rest)


def preference(name: str, **settings: float) -> Callable[[PairTerms], Tensor]:
    return partial(LOSSES[name], **settings)


def terms(policy: Policy, part: Data, ref: tuple[Tensor, Tensor]) -> PairTerms:
    chosen, rejected = policy.logp(part.prompt, part.chosen), policy.logp(part.prompt, part.rejected)
    length = torch.ones_like(chosen) if part.chosen_length is None else part.chosen_length.to(chosen.dtype)
    return PairTerms(
        chosen=chosen - ref[0], rejected=rejected - ref[1], gap=part.gap.to(chosen.dtype),
        chosen_logps=chosen, rejected_logps=rejected, chosen_length=length,
    )  # fmt: skip


def reference(policy: Policy, pairs: Data, *, chunk: int = 2000) -> tuple[Tensor, Tensor]:
    """log-probabilities of both sides under the policy as it stands."""
    with torch.no_grad():
        parts = [
            (policy.logp(pairs.prompt[:, i], pairs.chosen[:, i]), policy.logp(pairs.prompt[:, i], pairs.rejected[:, i]))
            for i in torch.arange(pairs.prompt.shape[1]).split(chunk)
        ]
    return torch.cat([a for a, _ in parts], 1), torch.cat([b for _, b in parts], 1)


def orders(pairs: Data, rng_S: Sequence[np.random.Generator], epochs: int) -> Tensor:
    """Shuffled rows of every epoch, what is not there last, (S, epochs * I)."""
    out = []
    for here, rng in zip(pairs.here.numpy() > 0, rng_S, strict=True):
        rows, rest = np.flatnonzero(here), np.flatnonzero(~here)
        out.append(np.concatenate([np.concatenate([rng.permutation(rows), rest]) for _ in range(epochs)]))
    return torch.as_tensor(np.stack(out))


class Plan(NamedTuple):
    """How to train: `rows` in order, `batch` at a time, learning rate `lr` times `factor` of the step."""

    rows: Tensor
    lr: float
    batch: int
    factor: np.ndarray | None = None
    adam: tuple[float, float] | None = None  # its two decay rates; else plain gradient steps

    @property
    def steps(self) -> int:
        return -(-self.rows.shape[1] // self.batch)


def train(
    policy: Policy,
    pairs: Data,
    plan: Plan,
    loss: Callable[[PairTerms], Tensor],
    *,
    look: Callable[[int, np.ndarray], None] = lambda step, loss_S: None,
    sft_weight: float = 1.0,
    ref: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Minimises the loss; `look(step, mean loss of the step per seed)` after every step, from 1 on.

    The policy as it stands is the reference, unless its log-probabilities are given.
    """
    ref = ref or reference(policy, pairs)
    seed = torch.arange(len(plan.rows))[:, None]
    optimiser = torch.optim.Adam(policy.parameters, lr=plan.lr, betas=plan.adam) if plan.adam else None
    for step, rows in enumerate(plan.rows.split(plan.batch, dim=1)):
        part = pairs.at(rows)
        at = terms(policy, part, (ref[0][seed, rows], ref[1][seed, rows]))
        value = loss(at) if part.sft is None else mixed_loss(at, part.sft, preference=loss, sft_weight=sft_weight)
        mean_S = (value * part.here).sum(1) / part.here.sum(1).clamp(min=1)
        slope = torch.autograd.grad(mean_S.sum(), policy.parameters)
        scale = 1.0 if plan.factor is None else float(plan.factor[step])
        with torch.no_grad():
            if optimiser:
                optimiser.param_groups[0]["lr"] = plan.lr * scale
                for p, g in zip(policy.parameters, slope, strict=True):
                    p.grad = g
                optimiser.step()
            else:
                for p, g in zip(policy.parameters, slope, strict=True):
                    p -= plan.lr * scale * g
        look(step + 1, mean_S.detach().numpy())


class ChainPolicy:
    """Logits of the start policy plus learnt ones, shared and of each prompt."""

    def __init__(self, logit_SPVA: np.ndarray) -> None:
        self.start = torch.as_tensor(logit_SPVA).clamp(min=-60.0)
        shape = self.start.shape
        self.shared = torch.zeros((shape[0], 1, *shape[2:]), dtype=torch.float64, requires_grad=True)
        self.own = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.parameters = [self.shared, self.own]
        self.forced = torch.as_tensor(np.isneginf(logit_SPVA).any(-1))  # a state that allows one token: not learnt

    def logits(self) -> Tensor:
        learnt = torch.where(self.forced[..., None], 0.0, self.shared + self.own)
        return self.start + learnt

    def logp(self, prompt_SI: Tensor, response_SI: Tensor) -> Tensor:
        log_share = torch.log_softmax(self.logits(), -1)
        tokens = log_share.shape[-1]
        state = torch.cat([torch.full_like(response_SI[..., :1], tokens), response_SI[..., :-1]], -1)
        seed = torch.arange(len(prompt_SI))[:, None, None]
        return log_share[seed, prompt_SI[..., None], state, response_SI].sum(-1)


class ListPolicy:
    """Over the answers of a list: logits of the start policy, plus features times a shared direction, plus one per answer."""

    def __init__(self, logit_SPA: np.ndarray, phi_SPAD: np.ndarray | None = None, *, table: bool = False) -> None:
        self.start = torch.as_tensor(logit_SPA)
        self.phi = None if phi_SPAD is None else torch.as_tensor(phi_SPAD)
        self.parameters: list[Tensor] = []
        self.theta = self.table = None
        if self.phi is not None:
            self.theta = torch.zeros((len(self.start), self.phi.shape[-1]), dtype=torch.float64, requires_grad=True)
            self.parameters.append(self.theta)
        if table:
            self.table = torch.zeros_like(self.start, requires_grad=True)
            self.parameters.append(self.table)

    def logits(self, prompt_SI: Tensor | None = None) -> Tensor:
        """(S, I, A) of these prompts, or of all."""
        seed = torch.arange(len(self.start))[:, None]
        rows = torch.arange(self.start.shape[1])[None] if prompt_SI is None else prompt_SI
        out = self.start[seed, rows]
        if self.theta is not None and self.phi is not None:
            out = out + torch.einsum("spad,sd->spa", self.phi[seed, rows], self.theta)
        return out if self.table is None else out + self.table[seed, rows]

    def logp(self, prompt_SI: Tensor, response_SI: Tensor) -> Tensor:
        log_share = torch.log_softmax(self.logits(prompt_SI), -1)
        return log_share.gather(-1, response_SI[..., None])[..., 0]


class NotSettled(RuntimeError):
    """Newton steps did not bring the gradient to zero."""


def newton(
    phi_SID: np.ndarray,
    loss: Callable[[PairTerms], Tensor],
    *,
    ridge: float,
    gap_SI: np.ndarray | None = None,
    p_SI: np.ndarray | None = None,
    most: int = 200,
) -> np.ndarray:
    """theta_SD that minimises sum_i loss(phi_i . theta) + ridge / 2 |theta|^2; phi: difference of features, one per pair.

    log pi - log ref of a log-linear policy differs by phi . theta between the sides, so this is the exact fit.
    """
    phi = torch.as_tensor(phi_SID)
    gap, p = (None if x is None else torch.as_tensor(x) for x in (gap_SI, p_SI))
    theta = torch.zeros(phi.shape[0], phi.shape[2], dtype=torch.float64)
    eye = ridge * torch.eye(phi.shape[2], dtype=torch.float64)

    def at(x: Tensor) -> Tensor:
        return loss(PairTerms(chosen=x, rejected=torch.zeros_like(x), gap=gap, p_chosen=p))

    def total(theta: Tensor) -> Tensor:
        return at(torch.einsum("sid,sd->si", phi, theta)).sum(1) + ridge / 2 * (theta**2).sum(1)

    for _ in range(most):
        x = torch.einsum("sid,sd->si", phi, theta).requires_grad_()
        (g,) = torch.autograd.grad(at(x).sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), x)
        slope = torch.einsum("sid,si->sd", phi, g.detach()) + ridge * theta
        if float(slope.abs().max()) < 1e-7 * phi.shape[1]:
            return theta.numpy()
        h = torch.nan_to_num(h, nan=0.0).clamp(min=1e-9)  # torch's second derivative of logaddexp far out is nan, not 0
        bend = torch.einsum("sid,si,sie->sde", phi, h, phi) + eye
        step, now = torch.linalg.solve(bend, slope), total(theta)
        size = torch.ones(len(theta), 1, dtype=torch.float64)
        for _ in range(40):  # halved where the sum does not fall
            worse = total(theta - size * step) > now + 1e-12 * now.abs()
            if not worse.any():
                break
            size = torch.where(worse[:, None], size / 2, size)
        theta = theta - size * step
    raise NotSettled(f"{most} Newton steps were not enough: slope {float(slope.abs().max()):g}")


def listed(gold_SPA: np.ndarray, logit_SPA: np.ndarray, start_SPA: np.ndarray) -> dict[str, np.ndarray]:
    """Gain (units of sd_start) and KL to the start policy, exactly, means over prompts."""
    share, log_share = shares(logit_SPA)
    begin, log_begin = shares(start_SPA)
    mean = (begin * gold_SPA).sum(-1, keepdims=True)
    sd = np.sqrt((begin * (gold_SPA - mean) ** 2).sum(-1).mean(1))
    gain = ((share - begin) * gold_SPA).sum(-1).mean(1) / sd
    return {"gain": gain, "kl": (share * (log_share - log_begin)).sum(-1).mean(1)}


def shares(logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = logit.max(-1, keepdims=True)
    log_share = logit - top - np.log(np.exp(logit - top).sum(-1, keepdims=True))
    return np.exp(log_share), log_share


class Trace:
    """Measures along the training: kept at every `every` steps and at the end, to read a gain at a given KL."""

    def __init__(self, measure: Callable[[], dict[str, np.ndarray]], at: Sequence[int]) -> None:
        self.measure, self.at = measure, set(at)
        self.steps = [0]
        self.seen = [measure()]
        self.losses: list[np.ndarray] = []

    def __call__(self, step: int, loss_S: np.ndarray) -> None:
        self.losses.append(loss_S)
        if step in self.at:
            self.steps.append(step)
            self.seen.append(self.measure())

    def after(self, step: int) -> dict[str, np.ndarray]:
        return self.seen[self.steps.index(step)]

    def path(self, metric: str) -> np.ndarray:
        """(looks, S)"""
        return np.stack([one[metric] for one in self.seen])

    def at_kl(self, target_S: np.ndarray, metric: str = "gain") -> np.ndarray:
        """The metric where the path first reaches a KL, linear between looks; nan where it never does."""
        return at_kl(self.path("kl"), self.path(metric), target_S)


def at_kl(kl_TS: np.ndarray, value_TS: np.ndarray, target_S: np.ndarray) -> np.ndarray:
    out = np.full(len(target_S), np.nan)
    for s, target in enumerate(target_S):
        reached = np.flatnonzero(kl_TS[:, s] >= target - 1e-12)
        if len(reached) and reached[0] == 0:
            out[s] = value_TS[0, s]
        elif len(reached):
            k = reached[0]
            share = (target - kl_TS[k - 1, s]) / (kl_TS[k, s] - kl_TS[k - 1, s])
            out[s] = value_TS[k - 1, s] + share * (value_TS[k, s] - value_TS[k - 1, s])
    return out
