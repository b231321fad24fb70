"""Ragged groups in one flat array against plain loops, keys against published values, streams against numpy."""

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pairwright.core import segments
from pairwright.core.stats import Spread

MODEST = settings(max_examples=40, deadline=None)
GROUPS = st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=6), max_size=6)
KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30)
TEXTS = st.lists(st.text(max_size=12).filter(lambda text: not text.endswith("\0")), max_size=12)
GOLDEN = 0x9E3779B97F4A7C15


def flat(groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Values as floats, and the offsets."""
    offsets = np.concatenate(([0], np.cumsum([len(group) for group in groups]))).astype(np.int64)
    return np.array([value for group in groups for value in group], float), offsets


def fnv1a(data: bytes) -> int:
    key = 0xCBF29CE484222325
    for byte in data:
        key = (key ^ byte) * 0x100000001B3 % 2**64
    return key


def splitmix64(state: int) -> int:
    z = (state + GOLDEN) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


class TestOffsets:
    @MODEST
    @given(st.lists(st.integers(0, 2), max_size=20))
    def test_a_group_is_a_run_of_equal_neighbours(self, labels):
        runs = [len(list(run)) for _, run in groupby(labels)]
        assert np.diff(segments.starts(np.array(labels))).tolist() == runs
        assert segments.starts(np.array(labels))[0] == 0

    def test_no_rows_are_no_groups(self):
        assert segments.starts(np.zeros(0)).tolist() == [0]
        assert segments.owner(np.array([0])).tolist() == []

    @MODEST
    @given(GROUPS)
    def test_every_row_knows_its_group(self, groups):
        _, start_P = flat(groups)
        assert segments.owner(start_P).tolist() == [at for at, group in enumerate(groups) for _ in group]

    @MODEST
    @given(GROUPS)
    def test_compress_counts_what_is_left_of_each_group(self, groups):
        value_R, start_P = flat(groups)
        left = [sum(value > 0 for value in group) for group in groups]
        assert np.diff(segments.compress(value_R > 0, start_P)).tolist() == left


class TestPerGroup:
    @MODEST
    @given(GROUPS)
    def test_total_lowest_and_highest_are_sum_min_and_max(self, groups):
        value_R, start_P = flat(groups)
        assert segments.total(value_R, start_P).tolist() == [sum(group) for group in groups]
        assert segments.lowest(value_R, start_P).tolist() == [min(group) for group in groups]
        assert segments.highest(value_R, start_P).tolist() == [max(group) for group in groups]

    @MODEST
    @given(GROUPS)
    def test_total_of_truths_counts_them(self, groups):
        value_R, start_P = flat(groups)
        expected = [sum(value == 1 for value in group) for group in groups]
        assert segments.total(value_R == 1, start_P).tolist() == expected

    @MODEST
    @given(GROUPS)
    def test_first_true_is_the_first_hit_or_minus_one(self, groups):
        value_R, start_P = flat(groups)
        rows = [range(start, start + len(group)) for start, group in zip(start_P.tolist(), groups, strict=False)]
        expected = [next((row for row in run if value_R[row] == 1), -1) for run in rows]
        assert segments.first_true(value_R == 1, start_P).tolist() == expected

    @MODEST
    @given(GROUPS, st.integers(-4, 4))
    def test_first_lowest_is_the_earliest_of_the_lowest_eligible(self, groups, least):
        value_R, start_P = flat(groups)
        rows = [range(start, start + len(group)) for start, group in zip(start_P.tolist(), groups, strict=False)]
        assert segments.first_lowest(value_R, start_P).tolist() == [
            min(run, key=lambda at: value_R[at]) for run in rows
        ]
        expected = [
            min((at for at in run if value_R[at] > least), key=lambda at: value_R[at], default=-1) for run in rows
        ]
        assert segments.first_lowest(value_R, start_P, value_R > least).tolist() == expected

    def test_an_infinite_value_can_be_the_lowest_eligible(self):
        value_R = np.array([1.0, np.inf, 2.0])
        assert segments.first_lowest(value_R, np.array([0, 3]), np.array([False, True, False])).tolist() == [1]

    @MODEST
    @given(GROUPS)
    def test_order_within_is_a_stable_sort_of_each_group(self, groups):
        value_R, start_P = flat(groups)
        expected = []
        for start, group in zip(start_P.tolist(), groups, strict=False):
            expected += sorted(range(start, start + len(group)), key=lambda at: value_R[at])
        assert segments.order_within(value_R, start_P).tolist() == expected


class TestKeys:
    def test_mix_gives_the_published_numbers_of_splitmix64(self):
        first, second = 6457827717110365317, 3203168211198807973  # reference implementation, state 1234567
        key = np.array([1234567, 1234567 + GOLDEN, 0], np.uint64)
        assert segments.mix(key).tolist() == [first, second, 0xE220A8397B1DCDAF]

    @MODEST
    @given(KEYS)
    def test_mix_equals_the_same_in_whole_numbers_and_leaves_its_input(self, numbers):
        key = np.array(numbers, np.uint64)
        assert segments.mix(key).tolist() == [splitmix64(number) for number in numbers]
        assert key.tolist() == numbers

    @pytest.mark.parametrize(
        ("text", "published"),
        [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
    )
    def test_text_keys_are_the_published_fnv1a_spread_once_more(self, text, published):
        assert segments.text_keys(np.array([text], np.bytes_)).tolist() == [splitmix64(published)]

    @MODEST
    @given(TEXTS)
    def test_a_text_has_the_same_key_whatever_stands_beside_it(self, texts):
        coded = [text.encode() for text in texts]
        together = segments.text_keys(np.array(coded, np.bytes_)).tolist()
        assert together == [splitmix64(fnv1a(text)) for text in coded]
        assert together == [segments.text_keys(np.array([text], np.bytes_))[0] for text in coded]

    def test_the_empty_text_has_one_key_beside_short_and_long_texts(self):
        alone, beside = (segments.text_keys(np.array(texts, np.bytes_))[0] for texts in ([b""], [b"", b"longer"]))
        assert alone == beside

    @MODEST
    @given(st.integers(-(2**70), 2**70), st.lists(st.integers(1, 5), min_size=2, max_size=5))
    def test_a_draw_does_not_depend_on_other_prompts(self, seed, sizes):
        start_P = np.concatenate(([0], np.cumsum(sizes)))
        prompt_key_P = np.arange(len(sizes), dtype=np.uint64)
        response_key_R = np.arange(start_P[-1], dtype=np.uint64) % np.uint64(3)
        draw_R = segments.draw(seed, prompt_key_P, response_key_R, start_P)
        for at, size in enumerate(sizes):
            mine = slice(start_P[at], start_P[at + 1])
            alone = segments.draw(seed, prompt_key_P[at : at + 1], response_key_R[mine], np.array([0, size]))
            assert draw_R[mine].tolist() == alone.tolist()

    def test_seed_prompt_and_response_each_change_the_draw(self):
        one = np.array([1], np.uint64)
        two, whole = np.array([2], np.uint64), np.array([0, 1])
        draws = [(0, one, one), (1, one, one), (0, two, one), (0, one, two), (0, two, two), (-1, one, one)]
        assert len({int(segments.draw(seed, prompt, response, whole)[0]) for seed, prompt, response in draws}) == 6


ORDINARY = st.one_of(st.floats(-1e3, 1e3), st.integers(-3, 3).map(float), st.sampled_from([0.1, 1e8]))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MOST = float(np.finfo(float).max)


def spread_of(batches: Sequence[Sequence[float]], **settings: int) -> Spread:
    spread = Spread(**settings)
    for batch in batches:
        spread.add(np.array(batch, float))
    return spread


def split_at_random(values: list[float], data: st.DataObject) -> list[list[float]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    return [values[start:end] for start, end in pairwise([0, *cuts, len(values)])]


class TestSpread:
    """core/stats: one pass over a stream against numpy on the whole."""

    @MODEST
    @given(st.lists(ORDINARY, min_size=1, max_size=60), st.data())
    def test_it_equals_numpy_on_the_whole_however_the_stream_is_cut(self, values, data):
        spread, whole = spread_of(split_at_random(values, data)), np.array(values)
        size = np.abs(whole).max() + 1
        assert spread.n == len(values)
        assert (spread.low, spread.high) == (whole.min(), whole.max())
        assert spread.mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-12 * size)
        assert spread.sd == pytest.approx(whole.std(), rel=1e-9, abs=1e-12 * size)
        assert spread.distinct == len(set(values))

    @MODEST
    @given(st.lists(ORDINARY, min_size=1, max_size=60), st.data())
    def test_the_histogram_counts_every_value_in_the_bin_where_it_lies(self, values, data):
        edges, counts = spread_of(split_at_random(values, data)).histogram()
        assert len(edges) == len(counts) + 1
        assert len(counts) <= 32
        assert counts[0] > 0
        assert counts[-1] > 0
        assert sum(counts) == len(values)
        assert edges == sorted(set(edges))
        slack = 1e-9 * max(abs(edge) for edge in edges)
        whole = np.array(values)
        for edge, below in zip(edges, np.concatenate(([0], np.cumsum(counts))), strict=True):
            assert (whole < edge - slack).sum() <= below <= (whole <= edge + slack).sum()

    @MODEST
    @given(st.lists(FINITE, min_size=1, max_size=20), st.data())
    @example([5e-324, 0.0, 2.5e-323], None)
    @example([MOST, -MOST, 1.0], None)
    @example([-MOST, -MOST], None)
    @example([1e16, 1e16 + 2], None)
    def test_any_finite_number_is_counted_and_lies_between_finite_edges(self, values, data):
        spread = spread_of(split_at_random(values, data) if data else [values])
        edges, counts = spread.histogram()
        assert sum(counts) == spread.n == len(values)
        assert np.isfinite(edges).all()
        assert edges == sorted(edges)
        assert edges[0] <= min(values)
        assert edges[-1] >= max(values)
        scale = max(map(abs, values)) or 1.0
        unit = np.array([value / scale for value in values])
        assert spread.mean is not None
        assert spread.sd is not None
        if scale > 1e-290:  # below, the last digits are all there is
            assert spread.mean / scale == pytest.approx(unit.mean(), rel=1e-9, abs=1e-12)
            assert spread.sd / scale == pytest.approx(unit.std(), rel=1e-9, abs=1e-12)

    @MODEST
    @given(FINITE, st.lists(st.integers(1, 20), min_size=1, max_size=4))
    @example(5e-324, [2, 3])
    @example(-MOST, [2, 3])
    def test_a_constant_has_no_spread_and_one_bin(self, value, sizes):
        spread = spread_of([[value] * size for size in sizes])
        assert (spread.mean, spread.sd, spread.distinct) == (value, 0.0, 1)
        assert spread.histogram()[1] == [sum(sizes)]

    @pytest.mark.parametrize("second", [1e300, -1e300, MOST, -MOST, 5e-324])
    def test_the_range_grows_over_hundreds_of_doublings_without_losing_a_count(self, second):
        spread = spread_of([[0.0, 1e-9], [second]])
        assert sum(spread.histogram()[1]) == 3

    def test_what_is_not_finite_is_passed_over(self):
        spread = spread_of([[np.nan, 1.0, np.inf, 3.0, -np.inf], [np.nan]])
        assert (spread.n, spread.mean, spread.sd) == (2, 2.0, 1.0)

    def test_nothing_has_no_mean_and_no_histogram(self):
        for spread in (Spread(), spread_of([[], [np.nan]])):
            assert (spread.n, spread.mean, spread.sd, spread.distinct, spread.histogram()) == (
                0,
                None,
                None,
                0,
                ([], []),
            )

    @MODEST
    @given(st.lists(st.lists(st.integers(0, 30).map(float), max_size=30), max_size=6))
    def test_distinct_values_are_counted_up_to_most_and_then_at_least(self, batches):
        seen = {value for batch in batches for value in batch}
        assert spread_of(batches, most=10).distinct == min(len(seen), 11)

    def test_the_sd_survives_a_far_offset(self):
        spread = spread_of([1e9 + np.arange(5.0), 1e9 + np.arange(5.0, 9.0)])
        assert spread.sd == pytest.approx(np.arange(9.0).std(), rel=1e-9)

    def test_its_input_stays_as_it_was(self):
        values = np.array([3.0, np.nan, 1.0])
        Spread().add(values)
        assert values.tolist()[::2] == [3.0, 1.0]
