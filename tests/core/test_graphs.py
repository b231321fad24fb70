"""Graphs of comparisons: gathering votes, and connectivity against networkx."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pairwright.core import graphs
from pairwright.core.comparisons import Comparisons, all_pairs, gather, merged
from pairwright.errors import DataError

networkx = pytest.importorskip("networkx")
MODEST = settings(max_examples=60, deadline=None)


def batch(*prompts: tuple[int, list[tuple[int, int]]]) -> Comparisons:
    """(n, edges) of each prompt, one vote for the first of every pair."""
    start = np.concatenate(([0], np.cumsum([n for n, _ in prompts])))
    edges = [(a + at, b + at) for (_, pairs), at in zip(prompts, start[:-1], strict=True) for a, b in pairs]
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    return gather(left, right, np.ones(len(left)), start)[0]


def random_graph(rng: np.random.Generator, n: int, share: float) -> tuple[int, list[tuple[int, int]]]:
    return n, [(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < share]


def oracle(n: int, edges: list[tuple[int, int]]):
    graph = networkx.Graph(edges)
    graph.add_nodes_from(range(n))
    return graph


def complete(n: int) -> tuple[int, list[tuple[int, int]]]:
    return n, [(i, j) for i in range(n) for j in range(i + 1, n)]


class TestGather:
    def test_votes_of_both_directions_meet_in_one_pair(self):
        pairs, _ = gather(np.array([0, 1, 1]), np.array([1, 0, 0]), np.array([1.0, 1.0, 0.5]), np.array([0, 2]))
        assert pairs.left_I.tolist() == [0]
        assert (pairs.wins_I[0], pairs.votes_I[0], pairs.ties_I[0]) == (1.5, 3, 1)

    def test_missing_and_weightless_votes_are_counted(self):
        outcome, weight = np.array([1.0, np.nan, 0.0, np.nan]), np.array([2.0, 1.0, 0.0, 0.0])
        right = np.array([1, 1, 2, 2])
        pairs, dropped = gather(np.zeros(4, int), right, outcome, np.array([0, 3]), weight_V=weight)
        assert dropped == (2, 1)
        assert pairs.votes_I.tolist() == [2.0]

    def test_orders_stay_apart_when_asked_and_add_up_when_merged(self):
        left, right, outcome = np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([1.0, 0.0, 1.0])
        pairs, _ = gather(left, right, outcome, np.array([0, 2]), ordered=True)
        assert pairs.first_I.tolist() == [1, -1]
        assert pairs.wins_I.tolist() == [1, 0]
        plain, _ = gather(left, right, outcome, np.array([0, 2]))
        for one, other in zip(merged(pairs), plain, strict=True):
            assert (one == other).all()

    @pytest.mark.parametrize(
        ("left", "right", "outcome", "says"),
        [
            (0, 0, 1.0, "itself"),
            (0, 2, 1.0, "two prompts"),
            (0, 9, 1.0, "outside"),
            (-1, 0, 1.0, "outside"),
            (0, 1, 0.3, "outcome"),
        ],
    )
    def test_says_which_judgement_cannot_be(self, left, right, outcome, says):
        with pytest.raises(DataError, match=f"judgement 1 .*{says}"):
            gather(np.array([0, left]), np.array([1, right]), np.array([1.0, outcome]), np.array([0, 2, 4]))

    def test_a_weight_below_zero_is_refused(self):
        with pytest.raises(DataError, match="weight"):
            gather(np.array([0]), np.array([1]), np.ones(1), np.array([0, 2]), weight_V=np.array([-1.0]))

    def test_no_judgement_is_no_pair(self):
        pairs, _ = gather(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.array([0, 2, 3]))
        assert len(pairs.left_I) == 0
        assert graphs.redundancy(pairs).components_P.tolist() == [2, 1]

    def test_few_votes_among_many_items_are_summed_alike(self):
        left, right, outcome = np.array([900, 3, 3]), np.array([2, 7, 7]), np.array([1.0, 0.0, 1.0])
        pairs, _ = gather(left, right, outcome, np.array([0, 1000]))
        assert pairs.left_I.tolist() == [2, 3]
        assert pairs.right_I.tolist() == [900, 7]
        assert pairs.wins_I.tolist() == [0, 1]
        assert pairs.votes_I.tolist() == [1, 2]

    def test_all_pairs_of_ragged_prompts(self):
        left, right = all_pairs(np.array([0, 3, 4, 6]))
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (4, 5)]


class TestConnectivity:
    @given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1.0))
    @MODEST
    def test_agrees_with_networkx(self, seed, share):
        rng = np.random.default_rng(seed)
        prompts = [random_graph(rng, int(n), share) for n in rng.integers(1, 11, 8)]
        told = graphs.redundancy(batch(*prompts))
        for p, (n, edges) in enumerate(prompts):
            graph = oracle(n, edges)
            parts = networkx.number_connected_components(graph)
            assert told.components_P[p] == parts
            assert told.cycle_rank_P[p] == len(edges) - n + parts
            assert told.connectivity_P[p] == (networkx.edge_connectivity(graph) if n > 1 else 0)
        assert (told.cap_safe_P <= told.cap_detect_P).all()

    @pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8, 10, 20, 200])
    def test_caps_of_complete_graphs(self, n):
        told = graphs.redundancy(batch(complete(n)))
        assert told.connectivity_P[0] == n - 1
        assert told.cap_safe_P[0] == max(n - 2, 0) // 2
        assert told.cap_detect_P[0] == n - 2

    def test_two_cliques_on_a_bridge_can_carry_nothing(self):
        clique = complete(5)[1]
        edges = clique + [(a + 5, b + 5) for a, b in clique] + [(0, 5), (1, 6)]
        told = graphs.redundancy(batch((10, edges)))
        assert told.connectivity_P[0] == 2  # every response has degree 4
        assert told.cap_safe_P[0] == 0

    @pytest.mark.parametrize(("n", "share"), [(60, 0.08), (70, 0.2), (90, 0.05)])
    def test_flows_agree_with_contraction_and_networkx(self, n, share):
        rng = np.random.default_rng(n)
        _, edges = random_graph(rng, n, share)
        edges = [*edges, *((i, i + 1) for i in range(n - 1) if (i, i + 1) not in edges)]
        matrix = networkx.to_numpy_array(oracle(n, edges), nodelist=range(n))
        expected = networkx.edge_connectivity(oracle(n, edges))
        assert graphs.flow_connectivity(matrix) == expected
        assert graphs.contract(matrix[:, :, None])[0] == expected
        assert graphs.redundancy(batch((n, edges))).connectivity_P[0] == expected

    def test_flows_see_a_narrow_bridge_between_large_cliques(self):
        clique = complete(30)[1]
        edges = clique + [(a + 30, b + 30) for a, b in clique] + [(0, 30), (1, 31), (2, 32)]
        assert graphs.redundancy(batch((60, edges))).connectivity_P[0] == 3

    def test_contraction_weighs_the_edges(self):
        rng = np.random.default_rng(3)
        stack = np.triu(rng.random((7, 7)), 1)
        stack = stack + stack.T
        expected, _ = networkx.stoer_wagner(networkx.from_numpy_array(stack))
        assert graphs.contract(stack[:, :, None])[0] == pytest.approx(expected)


class TestComponents:
    def test_each_part_becomes_a_problem(self):
        pairs = batch((5, [(0, 3), (1, 4)]), (2, [(1, 0)]))
        apart, row_I, item_R, prompt_C = graphs.by_component(pairs)
        assert prompt_C.tolist() == [0, 0, 0, 1]
        assert apart.item_start_P.tolist() == [0, 2, 4, 5, 7]
        assert item_R.tolist() == [0, 3, 1, 4, 2, 5, 6]
        assert (item_R[apart.left_I] == pairs.left_I[row_I]).all()
        assert (apart.wins_I == pairs.wins_I[row_I]).all()
        assert (graphs.redundancy(apart).components_P == 1).all()

    def test_a_response_that_wins_all_votes_separates(self):
        chain = batch((3, [(0, 1), (1, 2), (2, 0)]), (3, [(0, 1), (0, 2), (1, 2), (2, 1)]), (2, []))
        assert graphs.separated(chain).tolist() == [False, True, False]


class TestCycles:
    def test_one_cycle_in_a_triangle(self):
        told = graphs.majority_cycles(batch((3, [(0, 1), (1, 2), (2, 0)]), (3, [(0, 1), (1, 2), (0, 2)])))
        assert told.cycles_P.tolist() == [1, 0]
        assert told.triples_P.tolist() == [1, 1]

    @given(seed=st.integers(0, 10**6))
    @MODEST
    def test_counts_as_a_loop_over_triples_does(self, seed):
        rng = np.random.default_rng(seed)
        n, edges = random_graph(rng, 7, 0.8)
        edges = [(b, a) if rng.random() < 0.5 else (a, b) for a, b in edges]
        graph = networkx.DiGraph(edges)
        expected = sum(1 for _ in networkx.simple_cycles(graph, length_bound=3) if len(_) == 3)
        assert graphs.majority_cycles(batch((n, edges))).cycles_P[0] == expected

    def test_the_expected_number_is_what_simulation_gives(self):
        rng = np.random.default_rng(0)
        w, votes, rounds = rng.normal(size=4), 3, 20_000
        start = np.arange(rounds + 1) * 4
        left, right = all_pairs(start)
        p = 1 / (1 + np.exp(w[right % 4] - w[left % 4]))
        wins = rng.binomial(votes, p).astype(float)
        full = np.full(len(left), float(votes))
        pairs = Comparisons(left, right, wins, full, np.zeros(len(left)), np.zeros(len(left)), start)
        told = graphs.majority_cycles(pairs, p)
        error = told.cycles_P.std() / np.sqrt(rounds)
        assert abs(told.cycles_P.mean() - told.expected_P[0]) < 4 * error

    @pytest.mark.parametrize("votes", [1, 2, 3, 4, 7, 20])
    def test_majorities_are_binomial_tails(self, votes):
        p = np.linspace(0.02, 0.98, 9)
        expected = stats.binom.sf(np.floor(votes / 2), votes, p)
        np.testing.assert_allclose(graphs.majority_chance(p, np.full(9, float(votes))), expected, rtol=1e-10)
