"""What a judge is asked, and what becomes of its answers; no server. Fixtures F01-F06 of the judge among them."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import combinations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pairwright.errors import ConfigError, DataError
from pairwright.protocols import ChatAsk, ChatReply
from pairwright.score import digits
from pairwright.score.judge import (
    ASPECTS,
    JudgeSettings,
    Question,
    Rubric,
    check,
    fenced,
    pairs_of,
    pairwise_asks,
    pointwise_asks,
)
from pairwright.score.judged import (
    comparisons_of,
    judged,
    judgements_of,
    outcome_of,
    pairwise_scores,
    pointwise_scores,
    position_bias,
    read_pairwise,
    read_pointwise,
    settled,
)
from pairwright.score.parse import Read, read_verdict
from pairwright.tables import COMPARISONS, JUDGEMENTS, PROMPTS, RESPONSES, SCORES, conform, frame

POINTWISE, PAIRWISE = JudgeSettings(), JudgeSettings(mode="pairwise")
OVERALL = Rubric()


def tables(**texts: list[str | None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Prompts by id with the texts of their responses, named a, b, c, ..."""
    prompts = [{"prompt_id": name, "prompt": [{"role": "user", "content": f"Q {name}"}]} for name in texts]
    responses = [
        {"prompt_id": name, "response_id": chr(97 + k), "response": text, "source": "m", "sample": k}
        for name, each in texts.items()
        for k, text in enumerate(each)
    ]
    return frame(PROMPTS, prompts), frame(RESPONSES, responses)


class Saying:
    """A judge that answers by a function of the request's text."""

    def __init__(self, say) -> None:
        self.say, self.asked = say, []

    def __call__(self, asks: Iterable[ChatAsk]) -> Iterator[ChatReply]:
        for ask in asks:
            self.asked.append(ask)
            said = self.say(ask.messages[0]["content"])
            yield said._replace(key=ask.key) if isinstance(said, ChatReply) else ChatReply(ask.key, said, "stop")


def rate(say, responses, prompts, settings=POINTWISE, rubric=OVERALL):
    judgements = judgements_of(
        judged(pointwise_asks(prompts, responses, settings, rubric), Saying(say), settings, rubric)
    )
    return judgements, conform(pointwise_scores(judgements, responses, settings, rubric), SCORES, where="test")


def compare(say, responses, prompts, settings=PAIRWISE, rubric=OVERALL):
    rows = judged(pairwise_asks(prompts, responses, settings, rubric), Saying(say), settings, rubric)
    return conform(comparisons_of(judgements_of(rows)), COMPARISONS, where="test")


class TestQuestions:
    def test_the_whole_stored_text_is_what_the_judge_sees(self):  # fault F06
        texts = ["Pi is 3.14 and e is 2.72", "First sentence. Then a cut", "  spaces\n\nand {braces} stay\n"]
        prompts, responses = tables(p=texts)
        for question, text in zip(pointwise_asks(prompts, responses, POINTWISE, OVERALL), texts, strict=True):
            shown = question.ask.messages[0]["content"]
            mark = hashlib.sha256(text.encode()).hexdigest()[:12]
            scored = shown.split(f"----- {mark} begins -----\n")[1].split(f"\n----- {mark} ends -----")[0]
            assert hashlib.sha256(scored.encode()).digest() == hashlib.sha256(text.encode()).digest()

    def test_a_response_cannot_close_its_own_fence(self):
        text = "bad"
        for _ in range(3):  # a text that holds the mark of the text before
            text = fenced(text)
        mark = fenced(text).split()[1]
        assert mark not in text
        assert fenced(text).count(mark) == 2
        mark_of_nothing = hashlib.sha256(b"").hexdigest()[:12]
        assert mark_of_nothing in fenced("")

    def test_a_mark_that_stands_in_the_text_is_replaced(self, monkeypatch):
        class Fixed:
            def __init__(self, data: bytes) -> None:
                self.data = data

            def hexdigest(self) -> str:
                return "0" * 64 if self.data == b"says 000000000000" else "1" * 64

        monkeypatch.setattr(hashlib, "sha256", Fixed)
        assert fenced("says 000000000000").startswith("----- 111111111111 begins")

    def test_a_conversation_of_several_turns_is_shown_with_roles(self):
        turns = [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ]
        prompts = frame(PROMPTS, [{"prompt_id": "p", "prompt": turns}])
        _, responses = tables(p=["x"])
        (question,) = pointwise_asks(prompts, responses, POINTWISE, OVERALL)
        assert "[user]\nOne?\n\n[assistant]\nTwo.\n\n[user]\nThree?" in question.ask.messages[0]["content"]

    def test_aspects_become_raters_and_the_overall_grade_has_the_name_alone(self):
        prompts, responses = tables(p=["x", None])
        names = ["honesty", "truthfulness"]
        asked = list(pointwise_asks(prompts, responses, POINTWISE, Rubric(aspects=tuple(names))))
        assert [question.rater for question in asked] == [f"judge.{name}" for name in names]
        assert all(ASPECTS[name] in q.ask.messages[0]["content"] for name, q in zip(names, asked, strict=True))
        assert "from 1 (" in asked[0].ask.messages[0]["content"]
        assert "to 5 (" in asked[0].ask.messages[0]["content"]
        assert [q.rater for q in pointwise_asks(prompts, responses, POINTWISE, OVERALL)] == ["judge"]

    def test_a_seed_depends_on_the_question_alone(self):
        settings = JudgeSettings(draws=3, temperature=1.0)
        prompts, responses = tables(p=["x", "y"], q=["z"])
        seeds = {q.place: q.ask.seed for q in pointwise_asks(prompts, responses, settings, OVERALL)}
        assert len(set(seeds.values())) == 9
        alone = list(pointwise_asks(prompts, responses.filter(pl.col("response") == "z"), settings, OVERALL))
        assert [seeds[q.place] for q in alone] == [q.ask.seed for q in alone]

    def test_questions_of_a_prompt_begin_alike(self):
        prompts, responses = tables(p=["x", "y"])
        texts = [q.ask.messages[0]["content"] for q in pointwise_asks(prompts, responses, POINTWISE, OVERALL)]
        begins = texts[0].index("The reply to grade:")
        assert texts[0][:begins] == texts[1][:begins]
        assert "Q p" in texts[0][:begins]

    def test_asks_are_made_as_they_are_read(self):
        prompts, responses = tables(**{f"p{i}": ["x", "y"] for i in range(50)})
        made = []
        questions = (made.append(q) or q for q in pointwise_asks(prompts, responses, POINTWISE, OVERALL))
        rows = judged(questions, Saying(lambda _: "Score: 3"), POINTWISE, OVERALL)
        next(rows)
        assert len(made) == 1

    def test_a_response_without_its_prompt_is_named(self):
        prompts, _ = tables(p=["x"])
        _, responses = tables(q=["x"])
        with pytest.raises(DataError, match="prompt q"):
            list(pointwise_asks(prompts, responses, POINTWISE, OVERALL))


class TestPairs:
    def test_every_pair_is_asked_in_both_orders(self):
        prompts, responses = tables(p=["x", "y", "z"])
        asked = list(pairwise_asks(prompts, responses, PAIRWISE, OVERALL))
        assert len(asked) == 6
        for question in asked:
            shown = question.ask.messages[0]["content"]
            first, second = shown.split("Reply B:\n")
            texts = {"a": "x", "b": "y", "c": "z"}
            left_first = fenced(texts[question.left_id]) in first and fenced(texts[question.right_id]) in second
            assert left_first == (question.shown_first == "left")
        assert len({q.ask.seed for q in asked}) == 6

    def test_equal_texts_are_not_compared(self):
        prompts, responses = tables(p=["x", "x", "y"])
        asked = pairwise_asks(prompts, responses, PAIRWISE, OVERALL)
        assert {(q.left_id, q.right_id) for q in asked} == {("a", "c"), ("b", "c")}

    @given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 5))
    def test_a_part_of_the_pairs_treats_all_responses_alike(self, n, most, seed):
        held = {f"r{i}": str(i) for i in range(n)}
        pairs = pairs_of("p", held, JudgeSettings(mode="pairwise", max_pairs=most, seed=seed))
        everyone = list(combinations(sorted(held), 2))
        assert len(set(pairs)) == len(pairs) == min(most, len(everyone))
        assert set(pairs) <= set(everyone)
        counts = [sum(name in pair for pair in pairs) for name in held]
        assert max(counts) - min(counts) <= 2
        assert min(counts) >= (most >= n - 1)
        if most >= len(everyone):
            assert pairs == everyone

    @given(
        st.integers(2, 9), st.integers(1, 40), st.integers(0, 5), st.lists(st.integers(0, 2), min_size=9, max_size=9)
    )
    def test_no_pair_comes_twice_and_a_larger_part_holds_the_smaller_one(self, n, most, seed, texts):
        held = {f"r{i}": str(texts[i]) for i in range(n)}
        parts = [
            pairs_of("p", held, JudgeSettings(mode="pairwise", max_pairs=count, seed=seed))
            for count in (most, most + 3)
        ]
        distinct = [pair for pair in combinations(sorted(held), 2) if held[pair[0]] != held[pair[1]]]
        for part, count in zip(parts, (most, most + 3), strict=True):
            assert len(set(part)) == len(part) == min(count, len(distinct))
            assert set(part) <= set(distinct)
        assert set(parts[0]) <= set(parts[1])
        if most + 3 < n * (n - 1) // 2:
            assert parts[0] == parts[1][: len(parts[0])]

    def test_a_question_stays_as_it_is_when_there_are_more_draws_pairs_or_aspects(self):
        prompts, responses = tables(p=["u", "v", "w", "x", "y", "z", "u"], q=["v", "u"])
        warm = {"temperature": 1.0, "mode": "pairwise"}
        few, many = (
            Rubric(aspects=("honesty", "helpfulness")),
            Rubric(aspects=("truthfulness", "honesty", "helpfulness")),
        )

        def asked(settings: JudgeSettings, rubric: Rubric) -> dict[object, ChatAsk]:
            questions = list(pairwise_asks(prompts, responses, settings, rubric))
            assert len({q.place for q in questions}) == len(questions)
            return {q.place: q.ask._replace(key=0) for q in questions}  # the key counts within a run

        small = asked(JudgeSettings(**warm, max_pairs=10), few)
        for settings, rubric in (
            (JudgeSettings(**warm, max_pairs=10, draws=3), few),
            (JudgeSettings(**warm, max_pairs=20), few),
            (JudgeSettings(**warm), few),
            (JudgeSettings(**warm, max_pairs=10), many),
        ):
            large = asked(settings, rubric)
            assert len(large) > len(small)
            assert small.items() <= large.items()
        single = {q.place: q.ask._replace(key=0) for q in pointwise_asks(prompts, responses, POINTWISE, few)}
        warmer = JudgeSettings(draws=3, temperature=0.5)
        several = {q.place: q.ask._replace(key=0) for q in pointwise_asks(prompts, responses, warmer, many)}
        assert all(several[place] == ask._replace(temperature=0.5) for place, ask in single.items())

    def test_which_part_depends_on_the_seed_and_the_prompt(self):
        held = {f"r{i}": str(i) for i in range(8)}
        parts = {
            tuple(pairs_of(prompt, held, JudgeSettings(mode="pairwise", max_pairs=4, seed=seed)))
            for prompt in ("p", "q")
            for seed in range(3)
        }
        assert len(parts) == 6

    def test_given_pairs_replace_the_choice(self):
        prompts, responses = tables(p=["x", "y", "z"], q=["x", "y"])
        pairs = pl.DataFrame({"prompt_id": ["p"], "left_id": ["c"], "right_id": ["a"]})
        asked = list(pairwise_asks(prompts, responses, PAIRWISE, OVERALL, pairs=pairs))
        assert [(q.prompt_id, q.left_id, q.right_id, q.shown_first) for q in asked] == [
            ("p", "c", "a", "left"),
            ("p", "c", "a", "right"),
        ]
        twice = list(pairwise_asks(prompts, responses, PAIRWISE, OVERALL, pairs=pl.concat([pairs, pairs])))
        assert twice == asked
        wrong = pairs.with_columns(left_id=pl.lit("z"))
        with pytest.raises(DataError, match="response z"):
            list(pairwise_asks(prompts, responses, PAIRWISE, OVERALL, pairs=wrong))


class TestScores:
    def test_what_cannot_be_read_is_null_and_never_the_lowest(self):  # fault F03
        said = {"a": "Score: 7", "b": "I cannot rate this.", "c": "Score: 4"}
        prompts, responses = tables(p1=list(said))
        judgements, scores = rate(
            lambda text: next(s for r, s in said.items() if fenced(r) in text), responses, prompts
        )
        assert scores["score"].to_list() == [7, None, 4]
        assert scores["reason"].to_list() == [None, "judge_unparsed", None]
        assert judgements["reply"].to_list() == list(said.values())  # kept word for word
        assert scores["scale_min"].unique().to_list() == [1.0]
        assert scores["scale_max"].unique().to_list() == [10.0]
        conform(judgements, JUDGEMENTS, where="test")

    def test_what_cannot_be_read_is_null_and_never_the_middle(self):  # fault F04
        said = {"a": "-0.2", "b": "##"}
        prompts, responses = tables(p1=list(said))
        rubric = Rubric(low=-1, high=1)
        _, scores = rate(
            lambda text: next(s for r, s in said.items() if fenced(r) in text), responses, prompts, rubric=rubric
        )
        assert scores["score"].to_list() == [-0.2, None]
        assert scores["reason"].to_list() == [None, "judge_unparsed"]

    def test_the_score_is_the_mean_of_the_draws_that_could_be_read(self):
        replies = iter(["Score: 8", "no", "Score: 5", "no", "Score: 99", "no"])
        prompts, responses = tables(p=["x", "y"])
        settings = JudgeSettings(draws=3, temperature=1.0)
        judgements, scores = rate(lambda _: next(replies), responses, prompts, settings)
        assert scores["score"].to_list() == [6.5, None]
        assert scores["reason"].to_list() == [None, "judge_unparsed"]  # the commonest
        assert judgements.height == 6

    def test_the_whole_is_the_mean_of_the_aspects_and_null_when_one_is_missing(self):
        def say(text: str) -> str:
            value = 5 if ASPECTS["honesty"] in text else 2
            return "none" if value == 2 and fenced("y") in text else f"Score: {value}"

        prompts, responses = tables(p=["x", "y"])
        rubric = Rubric(aspects=("honesty", "helpfulness"))
        _, scores = rate(say, responses, prompts, rubric=rubric)
        held = {(row["response_id"], row["rater"]): (row["score"], row["reason"]) for row in scores.to_dicts()}
        assert held[("a", "judge")] == (3.5, None)
        assert held[("b", "judge.honesty")] == (5, None)
        assert held[("b", "judge.helpfulness")] == (None, "judge_unparsed")
        assert held[("b", "judge")] == (None, "judge_incomplete: helpfulness judge_unparsed")

    def test_a_failed_call_a_missing_text_and_a_question_never_asked_are_told_apart(self):
        prompts, responses = tables(p=["x", None, "z"])
        (question, _) = pointwise_asks(prompts, responses, POINTWISE, OVERALL)
        lost = ChatReply(0, None, reason="judge_failed: HTTP 500 from somewhere")
        judgements = judgements_of([read_pointwise(question, lost, POINTWISE, OVERALL)])
        scores = pointwise_scores(judgements, responses, POINTWISE, OVERALL)
        assert scores["score"].null_count() == 3
        assert scores["reason"].to_list() == ["judge_failed", "no_response", "not_judged"]
        assert judgements["reason"].to_list() == ["judge_failed: HTTP 500 from somewhere"]


def shown(rows: list[tuple[str, str, str, str | None]]) -> pl.DataFrame:
    """`comparisons` of pairs A, B: (prompt, shown first, outcome, reason)."""
    names = ("prompt_id", "shown_first", "outcome", "reason")
    fixed = {"left_id": "A", "right_id": "B", "rater": "judge", "draw": 0}
    return frame(COMPARISONS, [fixed | dict(zip(names, row, strict=True)) for row in rows])


class TestComparisons:
    def test_the_order_shown_is_undone(self):  # fault F01
        rows = [("a", 0, "0"), ("b", 0, "1"), ("c", 1, "0"), ("d", 1, "1"), ("e", 0, " 1\n"), ("f", 1, "neither")]
        rubric = Rubric(names=("0", "1"))
        outcomes = {}
        for name, first, text in rows:
            place = (name, "R0", "R1", "judge", ("left", "right")[first], 0)
            row = read_pairwise(Question(*place, ChatAsk(0, [], 0)), ChatReply(0, text), PAIRWISE, rubric)
            outcomes[name] = (row["outcome"], row["reason"])
        assert {name: {"left": "R0", "right": "R1"}.get(found or "") for name, (found, _) in outcomes.items()} == {
            "a": "R0", "b": "R1", "c": "R1", "d": "R0", "e": "R1", "f": None,
        }  # fmt: skip
        assert outcomes["f"] == (None, "judge_unparsed")

    def test_orders_that_disagree_are_no_judgement_and_the_pull_of_the_first_place_is_found(self):  # fault F02
        verdicts = {"p1": ("1st", "2nd"), "p2": ("1st", "1st"), "p3": ("2nd", None)}
        places = {"1st": "first", "2nd": "second", None: None}
        rows = [
            (name, side, outcome_of(places[said], side), None if said else "judge_unparsed")
            for name, both in verdicts.items()
            for side, said in zip(("left", "right"), both, strict=True)
        ]
        found = {row["prompt_id"]: (row["outcome"], row["reason"]) for row in settled(shown(rows)).to_dicts()}
        assert found == {"p1": ("left", None), "p2": (None, "order_inconsistent"), "p3": (None, "judge_incomplete")}
        bias = position_bias(shown(rows))
        assert (bias.first_picks, bias.verdicts) == (3, 4)
        assert (bias.n, bias.incomplete, bias.consistent, bias.first_both, bias.second_both) == (2, 1, 1, 1, 0)
        assert bias.consistency == 0.5

    def test_a_judge_without_bias_wins_by_quality_in_every_pair(self):
        prompts, responses = tables(p=["1", "22", "333", "4444"])

        def longest(text: str) -> str:
            first, second = text.split("Reply A:\n")[1].split("Reply B:\n")
            return f"Verdict: {'A' if len(first.split(chr(10))[1]) > len(second.split(chr(10))[1]) else 'B'}"

        comparisons = compare(longest, responses, prompts)
        assert comparisons.height == 12
        scores = pairwise_scores(comparisons, responses, PAIRWISE, OVERALL)
        assert scores["score"].to_list() == pytest.approx([0, 1 / 3, 2 / 3, 1])
        bias = position_bias(comparisons)
        assert (bias.share, bias.consistency, bias.n) == (0.5, 1.0, 6)
        assert math.isnan(bias.p_value)

    def test_a_judge_that_always_takes_the_first_gives_no_scores(self):
        prompts, responses = tables(p=["x", "y", "z"], q=["x"])
        comparisons = compare(lambda _: "Verdict: A", responses, prompts)
        scores = pairwise_scores(comparisons, responses, PAIRWISE, OVERALL)
        assert scores["reason"].to_list() == ["order_inconsistent"] * 3 + ["not_compared"]
        bias = position_bias(comparisons)
        assert (bias.share, bias.consistency, bias.first_both) == (1.0, 0.0, 3)
        assert bias.p_value == pytest.approx(stats.binomtest(3, 3).pvalue)

    def test_a_tie_is_half_a_win(self):
        rows = [("p", "left", "tie", None), ("p", "right", "tie", None)]
        _, responses = tables(p=["x", "y"])
        responses = responses.with_columns(response_id=pl.Series(["A", "B"]))
        assert pairwise_scores(shown(rows), responses, PAIRWISE, OVERALL)["score"].to_list() == [0.5, 0.5]

    def test_a_tie_in_one_order_only_is_not_the_same_verdict(self):
        found = settled(shown([("p", "left", "tie", None), ("p", "right", "left", None)]))
        assert found["reason"].to_list() == ["order_inconsistent"]

    def test_one_order_twice_is_not_both_orders(self):
        rows = shown([("p", "left", "left", None), ("p", "left", "left", None)]).with_columns(
            draw=pl.Series([0, 1], dtype=pl.Int32)
        )
        assert settled(rows)["reason"].to_list() == ["judge_incomplete"] * 2

    @pytest.mark.parametrize(("first", "n"), [(0, 10), (7, 10), (30, 40), (40, 40)])
    def test_the_interval_is_that_of_clopper_and_pearson(self, first, n):
        rows = [
            (f"p{i}", side, side if (2 * i + k) < 2 * first else ("right", "left")[side == "right"], None)
            for i in range(n)
            for k, side in enumerate(("left", "right"))
        ]
        bias = position_bias(shown(rows))
        k, total = bias.first_picks, bias.verdicts
        assert (k, total) == (2 * first, 2 * n)
        low = stats.beta.ppf(0.025, k, total - k + 1) if k else 0.0
        high = stats.beta.ppf(0.975, k + 1, total - k) if k < total else 1.0
        assert (bias.low, bias.high) == pytest.approx((low, high), abs=1e-9)

    def test_no_comparison_has_no_bias(self):
        bias = position_bias(shown([]))
        assert bias.n == 0
        assert math.isnan(bias.share)


def logs(**p: float) -> dict[str, float]:
    return {name.replace("_", " "): math.log(value) for name, value in p.items() if value > 0}


ONE_TO_FIVE, ONE_TO_TEN = digits.Scale(1, 5), digits.Scale(1, 10)
LABEL = [("Score", {}), (":", {})]


def said(*tokens, scale=ONE_TO_FIVE, value=4.0):
    return digits.expected([*LABEL, *tokens], scale, value)


class TestExpectedScore:
    def test_it_is_the_mean_over_the_probabilities_of_the_numbers(self):
        at = (" 4", {" 4": math.log(0.5), " 5": math.log(0.3), " 3": math.log(0.1), " the": math.log(0.1)})
        assert said(at).value == pytest.approx((0.5 * 4 + 0.3 * 5 + 0.1 * 3) / 0.9)

    def test_a_number_with_and_without_a_space_is_one_number(self):
        at = (" 4", {" 4": math.log(0.4), "4": math.log(0.2), " 5": math.log(0.4)})
        assert said(at).value == pytest.approx(4.4)

    def test_the_token_is_that_of_the_labelled_score_not_of_an_earlier_number(self):
        early = [("2", {"2": math.log(0.9), "1": math.log(0.1)}), (" flaws. ", {})]
        at = (" 4", {" 4": math.log(0.9), " 5": math.log(0.1)})
        assert digits.expected([*early, *LABEL, at], ONE_TO_FIVE, 4.0).value == pytest.approx(4.1)

    def test_little_mass_on_numbers_is_no_score(self):
        at = (" 4", {" 4": math.log(0.3), " 5": math.log(0.1), " none": math.log(0.6)})
        assert said(at) == Read(None, "low_mass")

    def test_without_logprobs_or_with_other_tokens_than_the_text_there_is_none(self):
        assert digits.expected([], ONE_TO_FIVE, 4.0) == Read(None, "no_logprobs")
        assert said((" 3", {" 3": 0.0})) == Read(None, "logprobs_unaligned")
        assert said((" 4.5", {" 4.5": 0.0}), value=4.5) == Read(None, "not_a_whole_number")

    def test_ten_as_one_token_counts_as_ten(self):
        at = (" 10", {" 10": math.log(0.6), " 9": math.log(0.3), " 1": math.log(0.1)})
        assert said(at, scale=ONE_TO_TEN, value=10.0).value == pytest.approx(6 + 2.7 + 0.1)

    def test_ten_in_two_tokens_is_shared_out_by_the_second(self):
        first = (" 1", {" 1": math.log(0.8), " 9": math.log(0.2)})
        second = ("0", {"0": math.log(0.75), "<eos>": math.log(0.25)})
        found = said(first, second, scale=ONE_TO_TEN, value=10.0)
        assert found.value == pytest.approx(0.6 * 10 + 0.2 * 1 + 0.2 * 9)

    def test_a_one_that_might_have_gone_on_to_ten_is_refused(self):
        at = (" 9", {" 9": math.log(0.8), " 1": math.log(0.2)})
        assert said(at, scale=ONE_TO_TEN, value=9.0) == Read(None, "multi_token_number")
        ended = (" 1", {" 1": math.log(0.9), " 2": math.log(0.1)})
        assert said(ended, scale=ONE_TO_TEN, value=1.0) == Read(None, "multi_token_number")
        assert said(at, scale=ONE_TO_FIVE, value=9.0).reason == "logprobs_unaligned"  # off the scale

    def test_a_one_that_hardly_counts_is_left_out(self):
        at = (" 9", {" 9": math.log(0.6), " 8": math.log(0.392), " 1": math.log(0.008)})
        assert said(at, scale=ONE_TO_TEN, value=9.0).value == pytest.approx((5.4 + 3.136) / 0.992)

    @given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5))
    def test_it_stays_on_the_scale_and_ignores_how_much_the_rest_has(self, weights):
        shares = [0.8 * w / sum(weights) for w in weights]
        held = {str(k + 1): math.log(p) for k, p in enumerate(shares)} | {"x": math.log(0.2)}
        value = said((" ", {}), ("4", held)).value
        assert value == pytest.approx(sum((k + 1) * w for k, w in enumerate(weights)) / sum(weights))

    def test_it_becomes_the_score_of_the_judgement(self):
        settings = JudgeSettings(expectation=True)
        prompts, responses = tables(p=["x"])
        rubric = Rubric(low=1, high=5)
        (question,) = pointwise_asks(prompts, responses, settings, rubric)
        assert question.ask.top_logprobs == 20
        tokens = (("Score", {}), (":", {}), (" 4", {" 4": math.log(0.5), " 5": math.log(0.5)}))
        row = read_pointwise(question, ChatReply(0, "Score: 4", "stop", tokens), settings, rubric)
        assert row["score"] == pytest.approx(4.5)
        bare = read_pointwise(question, ChatReply(0, "Score: 4", "stop"), settings, rubric)
        assert (bare["score"], bare["reason"]) == (None, "no_logprobs")


class TestSettings:
    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda: Rubric(aspects=("kindness",)), "known: overall"),
            (lambda: Rubric(aspects=()), "at least one"),
            (lambda: Rubric(low=5, high=5), "low is below high"),
            (lambda: Rubric(names=("A", "A")), "two different names"),
            (lambda: Rubric(names=("A", "tie")), "tie"),
            (lambda: Rubric(label=" "), "label"),
            (lambda: JudgeSettings(draws=2), "same reply every time"),
            (lambda: JudgeSettings(mode="pairwise", expectation=True), "pointwise"),
            (lambda: JudgeSettings(mode="groupwise"), "known: pointwise, pairwise"),  # type: ignore[arg-type]
            (lambda: JudgeSettings(max_tokens=0), "max_tokens"),
            (lambda: JudgeSettings(name="my judge"), "one word"),
            (lambda: check(JudgeSettings(expectation=True), Rubric(low=-1, high=1)), "whole numbers"),
            (lambda: check(POINTWISE, Rubric(template="Rate {prompt}")), r"lacks \{response\}"),
            (lambda: check(PAIRWISE, Rubric(template="{prompt} {response}")), r"\{response\}; known"),
            (lambda: check(POINTWISE, Rubric(template="{prompt} {response} {}")), r"\{\}"),
            (lambda: check(POINTWISE, Rubric(template="{prompt} {response.x}")), r"\{response.x\}"),
            (lambda: check(POINTWISE, Rubric(template="{prompt:>9} {response}")), "formats a field"),
            (lambda: check(POINTWISE, Rubric(template="{prompt} {response} {")), "brace"),
            (
                lambda: check(POINTWISE, Rubric(template="{prompt} {response}", aspects=("honesty", "helpfulness"))),
                "same question",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, make, told):
        with pytest.raises(ConfigError, match=told):
            make()

    def test_an_own_template_is_filled_in(self):
        prompts, responses = tables(p=["{aspect} x"])
        rubric = Rubric(template='Grade {response} to {prompt}, {low}-{high}: {{"rating": N}}', label="Rating", high=7)
        (question,) = pointwise_asks(prompts, responses, POINTWISE, rubric)
        text = question.ask.messages[0]["content"]
        assert text == f'Grade {fenced("{aspect} x")} to {fenced("Q p")}, 1-7: {{"rating": N}}'
        row = read_pointwise(question, ChatReply(0, '{"rating": 6}'), POINTWISE, rubric)
        assert row["score"] == 6

    def test_our_own_prompts_ask_for_what_is_read(self):
        prompts, responses = tables(p=["x", "y"])
        pointwise = next(pointwise_asks(prompts, responses, POINTWISE, OVERALL)).ask.messages[0]["content"]
        assert pointwise.splitlines()[-1].startswith("Score: ")
        pairwise = next(pairwise_asks(prompts, responses, PAIRWISE, OVERALL)).ask.messages[0]["content"]
        assert pairwise.splitlines()[-1] == "Verdict: <A, B or tie>"
        assert read_verdict(pairwise.splitlines()[-1]).winner is None  # a judge that repeats the form has said nothing
