"""Reading a judge's reply: what counts as a score, as a verdict, and what is missing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairwright.score.parse import REASONS, Read, Verdict, find_score, read_score, read_verdict


def scored(text, low=0, high=10, label="Final score", finish_reason=None):
    return read_score(text, low=low, high=high, label=label, finish_reason=finish_reason)


def test_the_number_that_is_meant_is_read_or_none():  # fault F05
    told = {
        "a": "Final Score: 3",
        "b": "Out of 10 I give it 3",
        "c": "8/10",
        "d": "-2",
        "e": "10 reasons it is bad. Final score: 2",
        "f": "Final score: 12",
    }
    read = {name: scored(text) for name, text in told.items()}
    assert {name: each.value for name, each in read.items()} == {
        "a": 3,
        "b": None,
        "c": 8,
        "d": None,
        "e": 2,
        "f": None,
    }
    reasons = {name: each.reason for name, each in read.items() if each.reason}
    assert reasons == {"b": "ambiguous_rating", "d": "out_of_scale", "f": "out_of_scale"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("**Final score:** 7", 7),
        ("Final score: **7**", 7),
        ("final score = 7.5", 7.5),
        ("Final score: .5", 0.5),
        ("Final score: 7/10.", 7),
        ("Final score: 7 out of 10", 7),
        ("Final score (0-10): 6", 6),
        ("The final score is 6.", 6),
        ("Final score:\n\n6", 6),
        ("Final score: [[6]]", 6),
        ("Final score：6", 6),
        ('{"reasons": "2 errors", "final_score": 7}', 7),
        ('```json\n{"final score": "7"}\n```', 7),
        ("Final score: 5\nFinal score: 5", 5),
        ("A final score of 10 is for perfect work. Final score: 4", 4),
        ("Final score: 7. It is good.", 7),
        ("Final score: 7 (out of 10)", 7),
        ("- __Final score:__ _7_", 7),
        ('Here it is: {"final score": 7, "why": "2 {odd} flaws"} Bye.', 7),
        ('{"notes": "Final score: 3", "final_score": 7}', 7),
        ("So, my final score: 7", 7),
        ("8 out of 10", 8),
        ("7.", 7),
        ("[[7]]", 7),
        ("+5", 5),
    ],
)  # fmt: skip
def test_a_score_that_is_said_is_read(text, value):
    assert scored(text) == Read(value, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "judge_unparsed"),
        ("I cannot rate this.", "judge_unparsed"),
        ("Final score: N/A, it has 3 flaws", "judge_unparsed"),  # not 3
        ("Final score: ten", "judge_unparsed"),
        ("Final score: between 3 and 4", "judge_unparsed"),
        ('{"final_score": null, "n": 3}', "judge_unparsed"),
        ("Final score: 3-4", "ambiguous_rating"),
        ("Final score: 3 or 4", "ambiguous_rating"),
        ("Final score: 4/5", "ambiguous_rating"),  # of another scale
        ("Final score: 70%", "ambiguous_rating"),
        ("Final score: 1e3", "ambiguous_rating"),
        ("Final score: 5\nFinal score: 6", "ambiguous_rating"),
        ("Final score: 5. Final score: 6", "ambiguous_rating"),
        ("Final score: 5, final score: 5 of 20", "ambiguous_rating"),
        ("70%", "ambiguous_rating"),
        ("1/2", "ambiguous_rating"),
        ("7,5", "ambiguous_rating"),
        ("7 is fair, so 7", "ambiguous_rating"),
        ("3rd of all", "judge_unparsed"),
        ("I am GPT-4 and cannot grade this.", "judge_unparsed"),
        ("I'm sorry, I can't rate that. See section 5.", "judge_unparsed"),
        ("Error 5: overloaded", "judge_unparsed"),
        ("7. It is good.", "judge_unparsed"),
        ("Final score: 3 stars, 80% sure", "ambiguous_rating"),
        ("Final score: 4 (of 20)", "ambiguous_rating"),
        ("Final score: 4 (out of 20)", "ambiguous_rating"),
        ("Final score: 7 of 20", "ambiguous_rating"),
        ("Final score: 7 points out of 20", "ambiguous_rating"),
        ("Final score: 7 percent", "ambiguous_rating"),
        ("Final score: 7 %", "ambiguous_rating"),
        ("Final score: 5 -> revised to 8", "ambiguous_rating"),
        ("Final score: 5... no, 8", "ambiguous_rating"),
        ("Final score: 5. Not 8.", "ambiguous_rating"),
        ("Final score: 8 minus 2", "ambiguous_rating"),
        ("Final score: 5+2 = 7", "ambiguous_rating"),
        ("A final score of 5 is for perfect work.", "ambiguous_rating"),
        ("Highest final score: 10", "judge_unparsed"),
        ("Semifinal score: 3", "judge_unparsed"),
        ("Semi-final score: 3", "judge_unparsed"),
        ('{"final_score": 3, "final_score": 8}', "ambiguous_rating"),
        ('{"style": {"final_score": 3}}', "judge_unparsed"),
        ('{"final_score": true}', "judge_unparsed"),
        ('Final score: 7 {"final_score": 8}', "ambiguous_rating"),
        ("on a scale of 1-10: 7", "ambiguous_rating"),
        ("7/10 and 8/10", "ambiguous_rating"),
        ("Final score: \u22122", "out_of_scale"),  # a minus sign
        ("9" * 400, "out_of_scale"),
    ],
)  # fmt: skip
def test_what_is_not_said_for_sure_is_missing(text, reason):
    assert scored(text) == Read(None, reason)


def test_the_sign_counts_on_a_scale_that_goes_below_zero():  # fault F04
    assert scored("-0.2", low=-1, high=1) == Read(-0.2, None)
    assert scored("##", low=-1, high=1) == Read(None, "judge_unparsed")


def test_a_thought_is_not_the_answer():
    assert scored("<think>Final score: 9</think>Final score: 2") == Read(2, None)
    assert scored("so 9 I think</think>\nFinal score: 2") == Read(2, None)  # the template opened the thought
    assert scored("Final score: 2 <think>or 9?</think>") == Read(2, None)
    assert scored("<think>Final score: 9") == Read(None, "judge_unparsed")
    assert scored("<think>Final score: 9", finish_reason="length") == Read(None, "judge_unfinished")


@pytest.mark.parametrize(
    "text",
    ["It is 7, so", "7", "Final score: 1", "Final score: 7.", "Final score: 7. Or", "Final score:", "Final score: 7/"],
)
def test_a_reply_that_was_cut_before_its_score_was_whole_is_unfinished(text):
    assert scored(text, finish_reason="length") == Read(None, "judge_unfinished")


def test_a_reply_that_was_cut_after_its_score_counts():
    assert scored("Final score: 7\nBecause it", finish_reason="length") == Read(7, None)
    assert scored("Final score: 1", finish_reason="stop") == Read(1, None)


def test_the_place_is_that_of_the_number_in_the_reply_as_it_came():
    for text in (
        "<think>5</think> **Score:** 4. Really.",
        'It has 2 flaws: {"n": 2, "score": "4"}',
        " 4",
        "__Score__:\n\n(4)",
    ):
        found, _ = find_score(text, low=1, high=5)
        assert text[found.at] == "4"


@pytest.mark.parametrize(
    "text", ["Subscore: 3", "Underscore: 3", "Sub-score: 3", "Style score: 3", "Maximum score: 10"]
)
def test_the_label_is_a_word_of_its_own(text):
    assert scored(text, label="Score") == Read(None, "judge_unparsed")
    assert scored(f"{text}\nScore: 4", label="Score") == Read(4, None)


@pytest.mark.parametrize(
    "sign", [" ", "[", "'", ".", "{", "_", "7", "7 ", "Score: ", "Score: 5. ", "[[A", "</think>", "a ", "- "]
)
def test_a_long_reply_is_read_at_once(sign):
    begun = time.process_time()
    read_score(f"7{sign * 20_000}x", low=1, high=10)
    read_verdict(f"A{sign * 20_000}x")
    assert time.process_time() - begun < 1


@given(
    st.text(alphabet="Score: 0123456789.,/-+%[]()*A\n<think>", max_size=40), st.sampled_from([None, "stop", "length"])
)
def test_any_text_gives_a_number_on_the_scale_or_a_known_reason(text, finish_reason):
    value, reason = read_score(text, low=1, high=10, finish_reason=finish_reason)
    assert (value is None) != (reason is None)
    assert reason in REASONS if value is None else 1 <= value <= 10
    winner, why = read_verdict(text, finish_reason=finish_reason)
    assert (winner is None) != (why is None)


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("Verdict: A", "first"),
        ("Reasons: B is long.\n**Verdict:** B.", "second"),
        ("Verdict: Response B", "second"),
        ("My verdict is A.", "first"),
        ("- __Verdict:__ `A`", "first"),
        ('I say {"verdict": "B", "why": "A is {odd}"}', "second"),
        ("The verdict is close.\nVerdict: B", "second"),
        ("Verdict: [[C]]", "tie"),
        ("Verdict: tie", "tie"),
        ("Verdict: A tie", "tie"),  # an article
        ("Verdict: a draw", "tie"),
        ('{"verdict": "B"}', "second"),
        ("B is short. [[A]]", "first"),
        ("[[C]]", "tie"),
        ("B", "second"),
        ("(A).", "first"),
        ("Verdict: A\nThat is, [[A]]", "first"),
        ("<think>Verdict: A</think>Verdict: B", "second"),
    ],
)  # fmt: skip
def test_a_verdict_that_is_said_is_read(text, winner):
    assert read_verdict(text) == Verdict(winner, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("neither", "judge_unparsed"),
        ("A is better", "judge_unparsed"),
        ("Verdict: not A", "judge_unparsed"),
        ("Verdict: A is better than B", "judge_unparsed"),
        ("Verdict: A is worse than B", "judge_unparsed"),
        ("Verdict: A is worse", "judge_unparsed"),
        ("Verdict: A is the worst", "judge_unparsed"),
        ("Verdict: A is not better", "judge_unparsed"),
        ("Verdict: A is wrong", "judge_unparsed"),
        ("Verdict: A has errors", "judge_unparsed"),
        ("Verdict: A is equal to B", "judge_unparsed"),
        ("Verdict: A? No: B", "judge_unparsed"),
        ("Verdict: A (no, B)", "judge_unparsed"),
        ("Verdict: A.\nVerdict: A is worse", "judge_unparsed"),
        ("Verdict: tie-breaker goes to A", "judge_unparsed"),
        ("The verdict is A, by far", "judge_unparsed"),
        ("Subverdict: A", "judge_unparsed"),
        ("[[A]] is worse", "judge_unparsed"),
        ("It is not [[A]]", "judge_unparsed"),
        ("Verdict: A\nBut [[B]] is fine", "ambiguous_rating"),
        ('{"verdict": "A is worse"}', "judge_unparsed"),
        ("Verdict: a slightly better answer is B", "judge_unparsed"),
        ("Verdict: A slightly better answer is B", "judge_unparsed"),
        ("Verdict: A\nVerdict: B", "ambiguous_rating"),
        ("Verdict: A. Verdict: B", "ambiguous_rating"),
        ("[[A]] or rather [[B]]", "ambiguous_rating"),
        ("Verdict: A and B are equal", "ambiguous_rating"),
        ("Verdict: A/B", "ambiguous_rating"),
        ("Verdict: A > B", "ambiguous_rating"),
    ],
)  # fmt: skip
def test_a_verdict_that_is_not_sure_is_missing(text, reason):
    assert read_verdict(text) == Verdict(None, reason)


def test_a_verdict_that_was_cut_is_unfinished():  # it may have become "A tie"
    assert read_verdict("Verdict: A", finish_reason="length") == Verdict(None, "judge_unfinished")
    assert read_verdict("Verdict: A, because", finish_reason="length") == Verdict(None, "judge_unfinished")
    assert read_verdict("[[A]]", finish_reason="length") == Verdict(None, "judge_unfinished")
    assert read_verdict("Verdict: A\nBecause it", finish_reason="length") == Verdict("first", None)


def test_the_names_of_the_responses_may_be_others():
    assert [read_verdict(text, names=("0", "1")).winner for text in ("0", " 1\n", "10")] == ["first", "second", None]
    assert read_verdict("Verdict: C", names=("C", "D")) == Verdict("first", None)
