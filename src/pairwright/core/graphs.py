"""What the graph of comparisons can reveal: components, cycles, and how many wrong pairs it can carry.

Nodes are responses, one edge per distinct compared pair. lambda is the edge connectivity: the fewest pairs whose removal
cuts a prompt's graph in two. No method corrects more than floor((lambda - 1) / 2) wrong pairs in the worst case, nor
detects more than lambda - 1; the caps are those numbers (docs/cleaning.md derives them).
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.special import betainc

from pairwright.core.blocks import Chunk, chunks
from pairwright.core.comparisons import Comparisons, merged, renumbered
from pairwright.core.segments import Bools, Floats, Ints, owner

MOST_CONTRACTED = 48  # items; beyond, flows from a dominating set


class Redundancy(NamedTuple):
    """Counts of each prompt."""

    components_P: Ints  # a response without comparisons is one
    cycle_rank_P: Ints  # pairs - responses + components: independent consistency checks
    connectivity_P: Ints  # lambda; 0 where the graph is in parts
    cap_safe_P: Ints  # floor((lambda - 1) / 2), at least 0
    cap_detect_P: Ints  # lambda - 1, at least 0


def redundancy(pairs: Comparisons) -> Redundancy:
    """Components, cycle rank, edge connectivity and the two caps."""
    pairs = merged(pairs)
    label_R = components(pairs)
    parts_P = _parts(label_R, pairs.item_start_P)
    lambda_P = edge_connectivity(pairs, parts_P)
    edges_P = _edges(pairs)
    rank_P = edges_P - np.diff(pairs.item_start_P) + parts_P
    return Redundancy(parts_P, rank_P, lambda_P, np.maximum(lambda_P - 1, 0) // 2, np.maximum(lambda_P - 1, 0))


def components(pairs: Comparisons) -> Ints:
    """A label for each item: equal labels are joined by comparisons. Labels grow with the lowest item of the part."""
    return _labels(pairs.left_I, pairs.right_I, int(pairs.item_start_P[-1]), "weak")


def strong_components(pairs: Comparisons) -> Ints:
    """Labels of the parts in which everyone beats everyone by a chain of wins (a tie is a win each way).

    The Bradley-Terry maximum exists iff each component is one strong component (Ford 1957).
    """
    won, lost = pairs.wins_I > 0, pairs.wins_I < pairs.votes_I
    tail = np.concatenate((pairs.left_I[won], pairs.right_I[lost]))
    head = np.concatenate((pairs.right_I[won], pairs.left_I[lost]))
    return _labels(tail, head, int(pairs.item_start_P[-1]), "strong")


def _labels(tail: Ints, head: Ints, n: int, connection: str) -> Ints:
    graph = sparse.coo_array((np.ones(len(tail), np.int8), (tail, head)), shape=(n, n)).tocsr()
    count, label_R = csgraph.connected_components(graph, directed=True, connection=connection)
    first = np.full(count, n, np.int64)
    np.minimum.at(first, label_R, np.arange(n))
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(count)
    ranked: Ints = rank[label_R]
    return ranked


def _parts(label_R: Ints, item_start_P: Ints) -> Ints:
    """Distinct labels of each prompt; no label is in two prompts."""
    prompt = np.zeros(int(label_R.max(initial=-1)) + 1, np.int64)
    prompt[label_R] = owner(item_start_P)
    return np.bincount(prompt, minlength=len(item_start_P) - 1)


def part_count(pairs: Comparisons) -> Ints:
    """Components of each prompt."""
    return _parts(components(pairs), pairs.item_start_P)


def _edges(pairs: Comparisons) -> Ints:
    return np.diff(np.searchsorted(pairs.left_I, pairs.item_start_P)).astype(np.int64)


def by_component(pairs: Comparisons) -> tuple[Comparisons, Ints, Ints, Ints]:
    """Each component a problem of its own: (pairs, old row of each row, old item of each item, prompt of each problem)."""
    label_R = components(pairs)
    order_R = np.argsort(label_R, kind="stable")
    first = np.flatnonzero(np.diff(label_R[order_R], prepend=-1))
    start_C = np.append(first, len(order_R)).astype(np.int64)
    prompt_C = owner(pairs.item_start_P)[order_R[first]]
    apart, row_I = renumbered(pairs, order_R, start_C)
    return apart, row_I, order_R, prompt_C


def edge_connectivity(pairs: Comparisons, parts_P: Ints | None = None) -> Ints:
    """lambda of each prompt; 0 for one response or a graph in parts. `pairs` has one row per pair.

    Known without search: trees 1; min degree >= floor(n / 2) gives lambda = min degree (Chartrand 1966), complete graphs
    among them. The others once per distinct graph: contraction (Stoer and Wagner 1997) in stacks, or flows for large n.
    """
    size_P = np.diff(pairs.item_start_P)
    parts_P = part_count(pairs) if parts_P is None else parts_P
    degree_R = np.bincount(np.concatenate((pairs.left_I, pairs.right_I)), minlength=int(pairs.item_start_P[-1]))
    degree_P = np.full(len(size_P), np.iinfo(np.int64).max)
    np.minimum.at(degree_P, owner(pairs.item_start_P), degree_R)
    lambda_P = np.where((parts_P > 1) | (size_P < 2), 0, degree_P)
    tree_P = _edges(pairs) == size_P - 1
    lambda_P[tree_P & (lambda_P > 0)] = 1
    open_P = (lambda_P > 1) & (degree_P < size_P // 2)
    for chunk in chunks(pairs):
        ask = np.flatnonzero(open_P[chunk.prompt_B])
        if len(ask):
            lambda_P[chunk.prompt_B[ask]] = _solve_distinct(_adjacency(chunk)[:, :, ask])
    return lambda_P


def _adjacency(chunk: Chunk, value_I: Floats | None = None, back_I: Floats | None = None) -> Floats:
    """n x n x B: value at (left, right) and back at (right, left); ones where none is given."""
    n, size = chunk.n, len(chunk.prompt_B)
    full = np.zeros((n, n, size))
    full[chunk.left_I, chunk.right_I, chunk.block_I] = 1.0 if value_I is None else value_I
    full[chunk.right_I, chunk.left_I, chunk.block_I] = 1.0 if back_I is None else back_I
    return full


def _solve_distinct(edge_nnB: Floats) -> Ints:
    n = len(edge_nnB)
    if n > MOST_CONTRACTED:
        return np.array([flow_connectivity(edge_nnB[:, :, b]) for b in range(edge_nnB.shape[2])], np.int64)
    upper = np.triu_indices(n, 1)
    bits = np.packbits(edge_nnB[upper].astype(bool), axis=0).T
    _, first, back = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    lightest: Ints = contract(edge_nnB[:, :, first]).astype(np.int64)
    return lightest[back.ravel()]


def contract(weight_nnB: Floats) -> Floats:
    """Weight of the lightest cut of each of B graphs of n >= 2 nodes (Stoer and Wagner 1997), all in step."""
    weight = weight_nnB.copy()
    n, _, size = weight.shape
    block = np.arange(size)
    alive = np.ones((n, size), bool)
    best = np.full(size, np.inf)
    for left in range(n, 1, -1):
        reached = np.where(alive, 0.0, -np.inf)
        last = before = np.zeros(size, np.int64)
        cut = np.zeros(size)
        for _ in range(left):
            before, last = last, np.argmax(reached, axis=0)
            cut = reached[last, block]
            reached = reached + weight[last, :, block].T
            reached[last, block] = -np.inf
        best = np.minimum(best, cut)
        both = weight[before, :, block] + weight[last, :, block]
        weight[before, :, block] = both
        weight[:, before, block] = both.T
        weight[last, :, block] = 0
        weight[:, last, block] = 0
        alive[last, block] = False
    return best


def flow_connectivity(edge_nn: Floats) -> int:
    """lambda of one connected graph: the least of the min degree and the flows inside a dominating set (Matula 1987)."""
    degree_n = (edge_nn > 0).sum(0)
    chosen: list[int] = []
    open_n = np.ones(len(edge_nn), bool)
    while open_n.any():
        at = int(np.argmax(np.where(open_n, degree_n, -1)))
        chosen.append(at)
        open_n &= edge_nn[at] == 0
        open_n[at] = False
    graph = sparse.csr_array((edge_nn > 0).astype(np.int32))
    flows = [int(csgraph.maximum_flow(graph, chosen[0], other).flow_value) for other in chosen[1:]]
    return int(min([int(degree_n.min()), *flows]))


class Cycles(NamedTuple):
    """Directed three-cycles of the majorities, per prompt."""

    cycles_P: Floats
    triples_P: Floats  # of responses with all three pairs compared
    expected_P: Floats  # cycles expected under the fit; nan without one


def majority_cycles(pairs: Comparisons, p_I: Floats | None = None) -> Cycles:
    """Counts i > j > k > i where a majority decides each pair; a drawn pair is part of none.

    `p_I`: fitted probability that left wins one vote. Then the expected number is the sum over triples of
    q_ij q_jk q_ki + q_ji q_kj q_ik, q = `majority_chance`. `pairs` has one row per pair.
    """
    count = len(pairs.item_start_P) - 1
    cycles_P, triples_P, expected_P = np.zeros(count), np.zeros(count), np.full(count, np.nan)
    for chunk in chunks(pairs):
        wins, votes = pairs.wins_I[chunk.row_I], pairs.votes_I[chunk.row_I]
        ahead, behind = (2 * wins > votes).astype(float), (2 * wins < votes).astype(float)
        cycles_P[chunk.prompt_B] = _closed_walks(_adjacency(chunk, ahead, behind)) / 3
        triples_P[chunk.prompt_B] = _closed_walks(_adjacency(chunk)) / 6
        if p_I is not None:
            p = p_I[chunk.row_I]
            chance = _adjacency(chunk, majority_chance(p, votes), majority_chance(1 - p, votes))
            expected_P[chunk.prompt_B] = _closed_walks(chance) / 3
    return Cycles(cycles_P, triples_P, expected_P)


def _closed_walks(matrix_nnB: Floats) -> Floats:
    """trace(A^3) of each."""
    a = matrix_nnB.transpose(2, 0, 1)
    trace: Floats = ((a @ a) * a.transpose(0, 2, 1)).sum((1, 2))
    return trace


def majority_chance(p_I: Floats, votes_I: Floats) -> Floats:
    """P(more than half of K votes fall to left), each with probability p; draws belong to nobody."""
    half = np.floor(votes_I / 2)
    chance: Floats = betainc(half + 1, np.maximum(votes_I - half, 1e-9), p_I)
    return chance


def separated(pairs: Comparisons) -> Bools:
    """Prompts without a finite Bradley-Terry maximum: some responses win, or lose, all votes against the others."""
    return _parts(strong_components(pairs), pairs.item_start_P) > part_count(pairs)
