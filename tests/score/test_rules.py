"""How a prompt's declared checks are read and weighed, and the prompts that ship with the package."""

import inspect
import json
import math
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairwright.errors import ConfigError
from pairwright.score.checks import CHECKS
from pairwright.score.rules import Check, Graded, grade, parse_checks

WORDS = {"check": "words", "at_least": 4}
KNOWN_CHECKS = ", ".join(CHECKS)


class TestParsing:
    def test_reads_settings_and_weight(self):
        declared = json.loads(
            '[{"check": "words", "at_least": 40, "at_most": 80, "weight": 2}, {"check": "ends_with", "text": "."},'
            ' {"check": "contains", "all_of": ["a", "b"]}]'
        )
        assert parse_checks(declared, where="p1") == (
            Check("words", {"at_least": 40, "at_most": 80}, 2.0),
            Check("ends_with", {"text": "."}, 1.0),
            Check("contains", {"all_of": ("a", "b")}, 1.0),
        )

    def test_leaves_what_was_declared_untouched(self):
        declared = [{"check": "contains", "any_of": ["a"], "weight": 2}]
        parse_checks(declared, where="p1")
        assert declared == [{"check": "contains", "any_of": ["a"], "weight": 2}]

    @pytest.mark.parametrize("declared", [None, [], {}, "words", 3, {"check": "words"}], ids=repr)
    def test_anything_but_a_list_of_checks_is_an_error(self, declared):
        with pytest.raises(ConfigError) as caught:
            parse_checks(declared, where="prompts.jsonl line 3")
        assert str(caught.value).startswith("prompts.jsonl line 3: checks=")
        assert str(caught.value).endswith(KNOWN_CHECKS)

    @pytest.mark.parametrize("entry", [{"check": "wrods"}, {"words": 3}, {"check": 3}, "words", None, {}], ids=repr)
    def test_an_unknown_check_names_its_place_and_the_known_ones(self, entry):
        with pytest.raises(ConfigError) as caught:
            parse_checks([WORDS, entry], where="prompts.jsonl line 3")
        assert str(caught.value).startswith("prompts.jsonl line 3: check 2: ")
        assert str(caught.value).endswith(KNOWN_CHECKS)

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ({"check": "words", "atleast": 3}, "words: unknown setting 'atleast'; known: at_least, at_most, weight"),
            ({"check": "not_empty", "n": 3}, "not_empty: unknown setting 'n'; known: weight"),
            ({"check": "not_empty", "answer": "x"}, "not_empty: unknown setting 'answer'; known: weight"),
            ({"check": "ends_with"}, "ends_with: missing setting 'text'; known: text, case, weight"),
            ({"check": "words", "at_least": 3.5}, "words: at_least=3.5 is not a whole number or null; known: at_least"),
            ({"check": "words", "at_least": True}, "words: at_least=True is not a whole number or null"),
            ({"check": "no_repetition", "n": True}, "no_repetition: n=True is not a whole number; known: n, weight"),
            ({"check": "no_repetition", "n": None}, "no_repetition: n=None is not a whole number; known: n, weight"),
            ({"check": "ends_with", "text": 3}, "ends_with: text=3 is not a text; known: text, case, weight"),
            ({"check": "ends_with", "text": ".", "case": 1}, "ends_with: case=1 is not true or false"),
            (
                {"check": "contains", "any_of": "cat"},
                "contains: any_of='cat' is not a list of texts; known: all_of, any_of",
            ),
            ({"check": "contains", "any_of": ["cat", 3]}, "contains: any_of=['cat', 3] is not a list of texts"),
            ({"check": "words"}, "words: give at_least, at_most or both"),
            ({"check": "words", "at_least": 9, "at_most": 3}, "words: at_least=9 is above at_most=3"),
            ({"check": "script", "name": "klingon"}, "script: unknown script 'klingon'; known: arabic, armenian"),
        ],
        ids=lambda value: None if isinstance(value, str) else repr(value),
    )
    def test_a_setting_that_cannot_be_meant_is_an_error(self, entry, says):
        with pytest.raises(ConfigError) as caught:
            parse_checks([entry], where="p7")
        assert str(caught.value).startswith(f"p7: check 1: {says}")

    @pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, 10**400, "2", None, True], ids=lambda w: repr(w)[:9])
    def test_a_weight_is_a_finite_number_above_zero(self, weight):
        with pytest.raises(ConfigError, match=r"^p7: check 1: words: weight=.* is not a finite number above 0"):
            parse_checks([{**WORDS, "weight": weight}], where="p7")

    @pytest.mark.parametrize("name", CHECKS)
    def test_every_setting_of_every_check_has_a_kind_that_is_compared(self, name):
        parameters = inspect.signature(CHECKS[name]).parameters.values()
        settings = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for key in settings:
            wrong_one_first = {key: object(), **dict.fromkeys(settings, object())}
            with pytest.raises(ConfigError, match=f"{key}=<object.* is not "):
                parse_checks([{"check": name, **wrong_one_first}], where="p7")


class TestGrading:
    def test_score_is_the_weighted_mean_and_the_parts_are_kept(self):
        checks = [Check("words", {"at_least": 4}, 3.0), Check("ends_with", {"text": "."}, 1.0)]
        assert grade("one two", checks) == Graded(0.375, (("words", 0.5), ("ends_with", 0.0)))
        assert grade("one two.", checks) == Graded(0.625, (("words", 0.5), ("ends_with", 1.0)))

    def test_a_second_use_of_a_check_is_numbered(self):
        checks = [Check("words", {"at_least": 1}), Check("not_empty", {}), Check("words", {"at_least": 2})]
        checks.append(Check("words", {"at_least": 4}))
        assert grade("a", checks).parts == (("words", 1.0), ("not_empty", 1.0), ("words#2", 0.5), ("words#3", 0.25))

    def test_weights_matter_by_their_ratio_only(self):
        def score(a, b):
            return grade("one two", [Check("words", {"at_least": 4}, a), Check("not_empty", {}, b)]).score

        assert score(3.0, 1.0) == pytest.approx(0.625)
        assert score(1.5e308, 0.5e308) == pytest.approx(0.625)
        assert score(3e-300, 1e-300) == pytest.approx(0.625)

    @given(
        text=st.text(st.characters(codec=None)),
        weights=st.lists(st.floats(5e-324, 1.7e308), min_size=3, max_size=3),
    )
    def test_score_lies_between_the_least_and_the_greatest_part(self, text, weights):
        checks = [Check("words", {"at_least": 4}, weights[0]), Check("lower_case", {}, weights[1])]
        graded = grade(text, [*checks, Check("no_repetition", {"n": 1}, weights[2])])
        earned = [credit for _, credit in graded.parts]
        assert 0 <= graded.score <= 1
        assert min(earned) - 1e-12 <= graded.score <= max(earned) + 1e-12

    def test_no_checks_give_no_score(self):
        with pytest.raises(ConfigError, match="no checks"):
            grade("text", [])


def demo():
    lines = files("pairwright").joinpath("demo/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# checks that give a share or a distance, not only 0 or 1
GRADED = {"words", "sentences", "paragraphs", "bullets", "contains", "excludes", "json_keys", "script", "no_repetition"}
GRADED |= {"lower_case", "upper_case"}


class TestDemoPrompts:
    def test_there_are_enough_and_none_is_there_twice(self):
        texts = [json.dumps(row["prompt"]) for row in demo()]
        assert len(texts) >= 24
        assert len(set(texts)) == len(texts)

    @pytest.mark.parametrize("row", demo(), ids=lambda row: str(row["prompt"])[:40])
    def test_each_has_a_user_turn_last_and_checks_that_tell_answers_apart(self, row):
        assert row.keys() == {"prompt", "checks"}
        prompt = row["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        assert all(turn.keys() == {"role", "content"} and turn["content"].strip() for turn in turns)
        assert turns[-1]["role"] == "user"
        checks = parse_checks(row["checks"], where="demo")
        assert len(checks) >= 3
        assert len({check.name for check in checks} & GRADED) >= 2

    @pytest.mark.parametrize("row", demo(), ids=lambda row: str(row["prompt"])[:40])
    def test_an_empty_answer_earns_at_most_half(self, row):
        assert grade("", parse_checks(row["checks"], where="demo")).score <= 0.5

    def test_they_vary(self):
        rows = demo()
        used = {entry["check"] for row in rows for entry in row["checks"]}
        assert used >= {
            "words",
            "sentences",
            "paragraphs",
            "bullets",
            "contains",
            "excludes",
            "json_keys",
            "refusal",
            "script",
        }
        roles = [[turn["role"] for turn in row["prompt"]] for row in rows if isinstance(row["prompt"], list)]
        assert sum("system" in turns for turns in roles) >= 2
        assert any("assistant" in turns for turns in roles)
        assert any("Rewrite" in row["prompt"] for row in rows)
