"""A causal transformer of two layers over the texts of a chain: taught by them, then trained and sampled like any policy.

A prompt is three tokens of their own alphabets (two digits and a goal, 0 where there is none), a text `length` tokens of the
chain's; in one number: prompt * GOALS + goal. All seeds at once: weights have the seeds first. KL and gain are means over
samples of the policy; the KL of a sample is the sum over its steps of the exact KL between next-token laws, which has the
same mean as log pi - log ref and less spread.
"""

from typing import Any

import numpy as np
import torch
import world

Tensor = torch.Tensor
WIDTH, HEADS, LAYERS, DIGITS, GOALS, HEAD = 32, 2, 2, 8, 11, 3


class TinyLM:
    """Weights (S, ...), float32. Token numbers: the chain's, then DIGITS for prompts, then GOALS."""

    def __init__(self, rng_S: list[np.random.Generator], tokens: int, length: int) -> None:
        self.tokens, self.length = tokens, length
        vocabulary, context = tokens + DIGITS + GOALS, length + HEAD

        def draw(*shape: int, scale: float) -> Tensor:
            return torch.as_tensor(
                scale * world.each(rng_S, "standard_normal", shape), dtype=torch.float32
            ).requires_grad_()

        self.embed = draw(vocabulary, WIDTH, scale=0.3)
        self.place = draw(context, WIDTH, scale=0.1)
        self.blocks = [
            {
                "qkv": draw(WIDTH, 3 * WIDTH, scale=WIDTH**-0.5),
                "out": draw(WIDTH, WIDTH, scale=0.5 * WIDTH**-0.5),
                "up": draw(WIDTH, 4 * WIDTH, scale=WIDTH**-0.5),
                "down": draw(4 * WIDTH, WIDTH, scale=0.5 * (4 * WIDTH) ** -0.5),
            }
            for _ in range(LAYERS)
        ]
        self.read = draw(WIDTH, tokens, scale=0.1)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.embed, self.place, *(w for block in self.blocks for w in block.values()), self.read]

    def copy(self) -> "TinyLM":
        other = object.__new__(TinyLM)
        other.tokens, other.length = self.tokens, self.length
        other.embed, other.place, other.read = (_own(x) for x in (self.embed, self.place, self.read))
        other.blocks = [{name: _own(w) for name, w in block.items()} for block in self.blocks]
        return other

    def states(self, token: Tensor, start: int, past: list[Any] | None) -> Tensor:
        """Last states of (S, B, T) tokens at the places from `start`; `past` holds keys and values and grows."""
        seed = torch.arange(len(token))[:, None, None]
        t = token.shape[2]
        x = self.embed[seed, token] + self.place[:, None, start : start + t]
        free = torch.ones(t, start + t).tril(start).bool()
        for k, block in enumerate(self.blocks):
            q, key, value = _heads(_norm(x), block["qkv"])
            if past is not None:
                if len(past) > k:
                    key, value = (torch.cat([old, new], -2) for old, new in zip(past[k], (key, value), strict=True))
                    past[k] = (key, value)
                else:
                    past.append((key, value))
            weight = (q @ key.transpose(-1, -2) / (WIDTH / HEADS) ** 0.5).masked_fill(~free, -torch.inf).softmax(-1)
            mixed = (weight @ value).transpose(2, 3).flatten(3)
            x = x + _apply(mixed, block["out"])
            x = x + _apply(torch.relu(_apply(_norm(x), block["up"])) ** 2, block["down"])
        return _norm(x)

    def next_logps(self, prompt_SI: Tensor, text: Tensor) -> Tensor:
        """log-probabilities of every next token along the texts, (S, I, length, tokens)."""
        whole = torch.cat([_digits(prompt_SI, self.tokens), text[..., :-1]], -1)
        states = self.states(whole, 0, None)[:, :, HEAD - 1 :]
        return torch.log_softmax(_apply(states, self.read), -1)

    def logp(self, prompt_SI: Tensor, response_SI: Tensor) -> Tensor:
        return self.next_logps(prompt_SI, response_SI).gather(-1, response_SI[..., None])[..., 0].sum(-1)

    def sample(self, prompt_SI: np.ndarray, n: int, rng_S: list[np.random.Generator]) -> np.ndarray:
        """n texts for each prompt at temperature 1, (S, I, n, length)."""
        shape = (*prompt_SI.shape, n)
        uniform = torch.as_tensor(world.each(rng_S, "random", (shape[1] * n, self.length)), dtype=torch.float32)
        prompt = torch.as_tensor(prompt_SI).repeat_interleave(n, 1)
        out = []
        with torch.no_grad():
            for rows in torch.arange(prompt.shape[1]).split(4000):
                out.append(self._sampled(prompt[:, rows], uniform[:, rows]))
        return torch.cat(out, 1).numpy().astype(np.uint8).reshape(*shape, self.length)

    def _sampled(self, prompt: Tensor, uniform: Tensor) -> Tensor:
        past: list[Any] = []
        state = self.states(_digits(prompt, self.tokens), 0, past)[:, :, -1:]
        text = []
        for t in range(self.length):
            ladder = torch.softmax(_apply(state, self.read)[:, :, 0], -1).cumsum(-1)
            token = (ladder < uniform[..., t : t + 1]).sum(-1, keepdim=True).clamp(max=self.tokens - 1)
            text.append(token)
            if t + 1 < self.length:
                state = self.states(token, t + HEAD, past)
        return torch.cat(text, -1)


def _own(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _digits(code_SI: Tensor, tokens: int) -> Tensor:
    prompt_SI, goal_SI = code_SI // GOALS, code_SI % GOALS
    return tokens + torch.stack([prompt_SI // DIGITS, prompt_SI % DIGITS, DIGITS + goal_SI], -1)


def _norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def _apply(x: Tensor, weight: Tensor) -> Tensor:
    """(S, ..., a) by (S, a, b)."""
    return (x.flatten(1, -2) @ weight).unflatten(1, x.shape[1:-1])


def _heads(x: Tensor, weight: Tensor) -> list[Tensor]:
    """q, k, v of shape (S, B, heads, T, width / heads)."""
    return [part.unflatten(-1, (HEADS, -1)).transpose(2, 3) for part in _apply(x, weight).chunk(3, -1)]


def taught(chain: world.Chain, seeds: list[int], *, steps: int, batch: int = 96, rate: float = 3e-3) -> TinyLM:
    """A model that has learnt to write the chain's texts whatever the goal: Adam on fresh samples, linear to zero."""
    prompts = chain.logit_SPVA.shape[1]
    if prompts > DIGITS**2:
        raise ValueError(f"{prompts} prompts do not fit into two of {DIGITS} digits")
    model = TinyLM(world.rngs(seeds, "weights"), chain.tokens, chain.length)
    optimiser = torch.optim.Adam(model.parameters, lr=rate)
    rng_S = world.rngs(seeds, "teaching")
    prompt = world.each(rng_S, "integers", prompts, size=steps * batch)
    text = torch.as_tensor(world.walk(chain.logit_SPVA, prompt, 1, chain.length, rng_S)[:, :, 0].astype(np.int64))
    code = torch.as_tensor(prompt * GOALS + world.each(rng_S, "integers", GOALS, size=steps * batch))
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        loss = -model.logp(code[:, rows], text[:, rows]).mean(1).sum()
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def measured(
    chain: world.Chain,
    model: TinyLM,
    start: TinyLM,
    seeds: list[int],
    begin: dict[str, np.ndarray],
    *,
    each: int = 16,
    goal: int = 0,
) -> dict[str, np.ndarray]:
    """Gain over `begin` (mean and spread of the start model's rewards) and KL, from `each` samples a prompt under a goal."""
    prompts = every_prompt(chain, seeds)
    text = model.sample(prompts * GOALS + goal, each, world.rngs(seeds, "measure"))
    gold = world.worth(chain, prompts, text)
    code = torch.as_tensor(prompts * GOALS + goal).repeat_interleave(each, 1)
    tokens = torch.as_tensor(text.astype(np.int64)).flatten(1, 2)
    with torch.no_grad():
        now, then = (m.next_logps(code, tokens) for m in (model, start))
        kl = (now.exp() * (now - then)).sum((-1, -2)).mean(1).numpy()
    return {"gain": (gold.mean((1, 2)) - begin["mean"]) / begin["sd"], "kl": kl.astype(float)}


def beginning(chain: world.Chain, start: TinyLM, seeds: list[int], *, each: int = 64) -> dict[str, np.ndarray]:
    """Mean reward of the start model and its spread within prompts, from samples."""
    prompts = every_prompt(chain, seeds)
    gold = world.worth(chain, prompts, start.sample(prompts * GOALS, each, world.rngs(seeds, "begin")))
    return {"mean": gold.mean((1, 2)), "sd": np.sqrt(gold.var(-1, ddof=1).mean(1))}


def every_prompt(chain: world.Chain, seeds: list[int]) -> np.ndarray:
    return np.tile(np.arange(chain.logit_SPVA.shape[1]), (len(seeds), 1))
