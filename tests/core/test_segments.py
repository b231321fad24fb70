"""Ragged groups in one flat array, each function against a plain loop over lists; the keys against published values."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core import segments

MODEST = settings(max_examples=60, deadline=None)
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
        assert segments.first_lowest(value_R, start_P).tolist() == [min(run, key=lambda at: value_R[at]) for run in rows]
        expected = [min((at for at in run if value_R[at] > least), key=lambda at: value_R[at], default=-1) for run in rows]
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
