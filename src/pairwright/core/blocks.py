"""Many small symmetric systems at once: problems of equal size in stacks whose last axis runs over the problems.

Every operation acts on each problem alone, so that a prompt's answer does not depend on its neighbours, to the last bit.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pairwright.core.comparisons import Comparisons, pair_start, sum_at
from pairwright.core.segments import Floats, Ints

MOST_CELLS = 1 << 17  # of one stack: 1 MB
BY_HAND = 12  # up to this size elimination over the stack beats a call per problem


class Chunk(NamedTuple):
    """Prompts of n items each (suffix B), and their pairs with items numbered 0 .. n - 1 inside the prompt."""

    n: int
    prompt_B: Ints
    item_nB: Ints  # number in the batch
    row_I: Ints  # rows of the comparisons
    block_I: Ints  # 0 .. B - 1
    left_I: Ints
    right_I: Ints

    def left(self) -> Ints:
        """Place of the left item in a flattened n x B array."""
        return self.left_I * len(self.prompt_B) + self.block_I

    def right(self) -> Ints:
        return self.right_I * len(self.prompt_B) + self.block_I


def chunks(pairs: Comparisons, most: int = MOST_CELLS) -> Iterator[Chunk]:
    """All prompts, grouped by size, in stacks of at most `most` cells (n * n * B), or of one prompt."""
    size_P, start_P = np.diff(pairs.item_start_P), pair_start(pairs)
    for n in np.unique(size_P[size_P > 0]).tolist():
        prompts = np.flatnonzero(size_P == n)
        step = max(1, most // (n * n))
        for at in range(0, len(prompts), step):
            yield _chunk(pairs, start_P, n, prompts[at : at + step])


def _chunk(pairs: Comparisons, start_P: Ints, n: int, prompt_B: Ints) -> Chunk:
    count_B = start_P[prompt_B + 1] - start_P[prompt_B]
    block_I = np.repeat(np.arange(len(prompt_B)), count_B)
    before_B = np.cumsum(count_B) - count_B
    row_I = np.arange(len(block_I)) + (start_P[prompt_B] - before_B)[block_I]
    first_B = pairs.item_start_P[prompt_B]
    item_nB = first_B + np.arange(n)[:, None]
    left_I, right_I = pairs.left_I[row_I] - first_B[block_I], pairs.right_I[row_I] - first_B[block_I]
    return Chunk(n, prompt_B, item_nB, row_I, block_I, left_I, right_I)


def scatter(chunk: Chunk, value_I: Floats) -> Floats:
    """A signed sum at the items: + at left, - at right; n x B."""
    cells = chunk.n * len(chunk.prompt_B)
    at = sum_at(chunk.left(), value_I, cells) - sum_at(chunk.right(), value_I, cells)
    return at.reshape(chunk.n, -1)


def laplacian(chunk: Chunk, weight_I: Floats) -> Floats:
    """sum weight (e_l - e_r)(e_l - e_r)^T of each prompt; n x n x B."""
    n, size = chunk.n, len(chunk.prompt_B)
    cell_I = (chunk.left_I * n + chunk.right_I) * size + chunk.block_I
    upper = sum_at(cell_I, weight_I, n * n * size).reshape(n, n, size)
    full = -(upper + upper.transpose(1, 0, 2))
    diagonal = np.arange(n)
    full[diagonal, diagonal] = -full.sum(0)
    return full


def solve(matrix_nnB: Floats, right_nkB: Floats) -> Floats:
    """x of A x = b for positive definite A: elimination without pivots over the stack, LAPACK for larger n."""
    n = len(matrix_nnB)
    if n > BY_HAND:
        x = np.linalg.solve(matrix_nnB.transpose(2, 0, 1), right_nkB.transpose(2, 0, 1))
        return np.ascontiguousarray(x.transpose(1, 2, 0))
    a, x = matrix_nnB.copy(), right_nkB.copy()
    for k in range(n):
        factor = a[k + 1 :, k] / a[k, k]
        a[k + 1 :, k + 1 :] -= factor[:, None] * a[k, None, k + 1 :]
        x[k + 1 :] -= factor[:, None] * x[k, None]
    for k in range(n - 1, -1, -1):
        for j in range(k + 1, n):
            x[k] -= a[k, j] * x[j]
        x[k] /= a[k, k]
    return x
