"""Groups of pairs that say nearly the same, so that a cap can keep a few of each. Needs the extra [near] for MinHash.

A group is a chain: a is near b, b near c. Groups are named by their first member; a pair that is near nobody is a group
of its own.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from pairwright.core.segments import Floats, Ints
from pairwright.errors import DataError, MissingDependency
from pairwright.select.settings import Near

BLOCK = 2048


def minhash_groups(texts: Sequence[str], near: Near) -> Ints:
    """The group of each text: n-grams of words, case and white space apart, Jaccard similarity at least `near.threshold`.

    Candidates by locality-sensitive hashing of `datasketch`, which may overlook one; each is then compared exactly.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise MissingDependency(
            'near-duplicates by MinHash need datasketch: pip install "pairwright[near]", or take near.by = embedding'
        ) from error
    # near 1 the library has no bands to cut; what it finds too much is compared below
    index = MinHashLSH(threshold=min(near.threshold, 0.9), num_perm=near.permutations, weights=(0.2, 0.8))
    links: list[tuple[int, int]] = []
    for row, text in enumerate(texts):
        grams = _grams(text, near.words)
        signature = MinHash(num_perm=near.permutations, seed=1)
        signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in sorted(grams)])
        for other in map(int, index.query(signature)):
            theirs = _grams(texts[other], near.words)
            if len(grams & theirs) >= near.threshold * len(grams | theirs):
                links.append((row, other))
        index.insert(str(row), signature)
    return _components(len(texts), links)


def _grams(text: str, words: int) -> set[str]:
    said = text.casefold().split()
    if len(said) <= words:
        return {" ".join(said)}
    return {" ".join(said[at : at + words]) for at in range(len(said) - words + 1)}


def embedding_groups(vector_IT: Floats, near: Near) -> Ints:
    """The group of each vector: cosine at least `near.threshold`, every two compared, in blocks. Shape (I, dimensions)."""
    norm_I = np.linalg.norm(vector_IT, axis=1)
    if not np.isfinite(norm_I).all() or not (norm_I > 0).all():
        row = int(np.argmax(~(np.isfinite(norm_I) & (norm_I > 0))))
        raise DataError(f"row {row}: its embedding is zero or not finite; embed it again or leave the row out")
    unit_IT = (vector_IT / norm_I[:, None]).astype(np.float32)
    links: list[tuple[int, int]] = []
    for start in range(0, len(unit_IT), BLOCK):
        cosine = unit_IT[start : start + BLOCK] @ unit_IT[start:].T
        a, b = np.nonzero(cosine >= near.threshold - 1e-6)
        links += [(start + int(i), start + int(j)) for i, j in zip(a, b, strict=True) if i < j]
    return _components(len(unit_IT), links)


def _components(n: int, links: Iterable[tuple[int, int]]) -> Ints:
    ends = np.array(list(links), np.int64).reshape(-1, 2)
    graph = scipy.sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    _, of_I = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first, at = np.unique(of_I, return_index=True, return_inverse=True)
    return first[at].astype(np.int64)
