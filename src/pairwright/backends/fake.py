"""A sampler without a model: deterministic, instant, part of the product, for tests and documents of yours and ours.

Responses are words out of the prompt and of a small vocabulary; their number, order and repetition vary with
(prompt, seed, draw), so that graded checks give a spread of scores. Some responses are cut off, some are empty or stand
twice: what real models do.

>>> from pairwright.backends.fake import FakeSampler
>>> from pairwright.protocols import Ask, Decoding
>>> ask = Ask(key=0, messages=[{"role": "user", "content": "Name a colour."}], n=2, seed=7)
>>> [drawn.finish_reason for drawn in FakeSampler()([ask], Decoding(max_tokens=40))]
['stop', 'stop']
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pairwright.core.segments import text_keys
from pairwright.protocols import Ask, Decoding, Drawn
from pairwright.tables import prompt_id

_WORDS = """
the a one two three small green river stone bird answer because however first then finally sun water quiet quick simple
reason example list item yes no people often learn read write make good better best
"""
VOCABULARY = tuple(_WORDS.split())


class FakeSampler:
    """Draws without a model. `fails` names prompts (by a part of their text) for which every draw fails."""

    redraw = "exact: the same seed and draw number give the same text, alone or in any batch"

    def __init__(self, *, fails: str | None = None, model: str = "fake") -> None:
        self.model, self.fails = model, fails
        self.fingerprint = f"fake-1-{fails}"
        self.calls: list[Ask] = []

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        for ask in asks:
            self.calls.append(ask)
            said = ask.messages[-1]["content"]
            if self.fails is not None and self.fails in said:
                yield from (Drawn(ask.key, draw, None, None, None, "generation_failed") for draw in range(ask.n))
                continue
            for draw in range(ask.n):
                yield self._draw(ask, draw, decoding)

    def _draw(self, ask: Ask, draw: int, decoding: Decoding) -> Drawn:
        rng = np.random.default_rng([ask.seed, draw, int(text_keys(np.array([prompt_id(ask.messages).encode()]))[0])])
        words = [*VOCABULARY, *ask.messages[-1]["content"].split()[:20]]
        wanted = int(rng.integers(0, 60)) if decoding.temperature > 0 else 20
        stock = max(2, int(rng.integers(2, len(words)))) if decoding.temperature > 0 else len(words)
        spoken = [words[i] for i in rng.integers(0, stock, size=min(wanted, decoding.max_tokens))]
        cut = wanted > decoding.max_tokens
        text = " ".join(spoken).capitalize()
        return Drawn(
            ask.key, draw, text if cut or not text else text + ".", "length" if cut else "stop", len(spoken) + 1
        )
