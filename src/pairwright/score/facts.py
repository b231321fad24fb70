"""Plain facts about a text: numbers without a judgement. Also where a text is cut into words, once for all checks."""

import re
from collections.abc import Callable

# Thai, Lao, Burmese, Khmer, Han and kana put no spaces between words (a set of characters, for a regular expression)
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
UNSPACED += "\U00020000-\U0003ffff"
_UNSPACED_LETTER = re.compile(f"([{UNSPACED}])")


def split_words(text: str) -> list[str]:
    """The words of a text, with the punctuation that touches them.

    A word is a stretch without white space that holds at least one letter or digit: "it's", "well-known" and "3.5" are
    one word each, "-" and an emoji are none. In scripts that write no spaces between words every letter is a word.
    """
    return [word for word in _UNSPACED_LETTER.sub(r" \1 ", text).split() if any(map(str.isalnum, word))]


def length(text: str) -> float:
    """Characters (Unicode code points), white space included."""
    return float(len(text))


def repetition(text: str, *, n: int = 4) -> float:
    """Share of the word n-grams that repeat an earlier one: (n-grams - different n-grams) / n-grams.

    0 for a text of n words or fewer. Words are those of `split_words`, compared without regard to case.
    """
    words = split_words(text.casefold())
    n_grams = len(words) - n + 1
    if n_grams < 2:
        return 0.0
    different = len(set(zip(*(words[i:] for i in range(n)), strict=False)))
    return (n_grams - different) / n_grams


FACTS: dict[str, Callable[[str], float]] = {"length": length, "repetition": repetition}
