"""Near-duplicates: MinHash of a kept library, cosine by brute force; a cap on their groups."""

import numpy as np
import pytest

from pairwright.errors import ConfigError, DataError
from pairwright.select.near import embedding_groups, minhash_groups
from pairwright.select.settings import Limits, Near

WORDS = np.array([a + b for a in ["ba", "de", "fi", "go", "lu", "ma", "ne"] for b in ["nto", "rel", "mis", "kad"]])


def texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 60)) for _ in range(n)]


def test_copies_with_a_word_changed_are_one_group_and_strangers_none() -> None:
    pytest.importorskip("datasketch")
    said = texts(40)
    copies = [f"{said[0]} indeed", said[0].upper().replace(" ", "  "), f"well {said[0]}"]
    groups = minhash_groups([*said, *copies], Near(threshold=0.7))
    assert groups[:40].tolist() == list(range(40))
    assert groups[40:].tolist() == [0, 0, 0]
    assert minhash_groups([*said, *copies], Near(threshold=1.0)).tolist() == [*range(40), 40, 0, 42]


def test_the_estimate_follows_the_real_similarity() -> None:
    pytest.importorskip("datasketch")
    base = texts(1)[0].split()
    for kept in (58, 30):  # of 60 words: Jaccard of 3-grams near 0.93 and 0.3
        other = " ".join([*base[:kept], *texts(1, seed=9)[0].split()[: 60 - kept]])
        groups = minhash_groups([" ".join(base), other], Near(threshold=0.8))
        assert (groups[0] == groups[1]) == (kept == 58)


def test_cosines_are_compared_all_with_all() -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(3000, 16))  # more than one block
    v[2999] = 5 * v[3] + 1e-4
    groups = embedding_groups(v, Near(by="embedding", threshold=0.999))
    assert groups[2999] == groups[3] == 3
    assert len(set(groups.tolist())) == 2999
    with pytest.raises(DataError, match="row 7"):
        v[7] = 0
        embedding_groups(v, Near(by="embedding"))


def test_settings_of_nearness_are_checked() -> None:
    with pytest.raises(ConfigError, match="similarity above 0"):
        Limits(near={"threshold": 0})
    with pytest.raises(ConfigError, match=r"limits.near: unknown treshold"):
        Limits(near={"treshold": 0.5})
