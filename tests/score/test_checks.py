"""Every check over one suite, then the exact credit of each, worked out by hand."""

import inspect
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pairwright.errors import ConfigError
from pairwright.score.checks import CHECKS, SCRIPTS
from pairwright.score.facts import FACTS, length, repetition, split_words

EXAMPLES: dict[str, dict[str, object]] = {  # settings under which each check is put through the suite
    "words": {"at_least": 3, "at_most": 5},
    "sentences": {"at_least": 2, "at_most": 3},
    "paragraphs": {"at_least": 2, "at_most": 2},
    "bullets": {"at_least": 1, "at_most": 4},
    "contains": {"all_of": ("cat", "New York", "{"), "any_of": ("猫", "don't")},
    "excludes": {"any_of": ("cat", "...", "👍")},
    "json_keys": {"keys": ("a", "b"), "only": True},
    "starts_with": {"text": "A"},
    "ends_with": {"text": "."},
    "script": {"name": "latin"},
    "no_repetition": {"n": 2},
    "refusal": {},
    "not_refusal": {},
    "not_empty": {},
    "lower_case": {},
    "upper_case": {},
}
COUNTING = {  # a text in which exactly k things are counted
    "words": lambda k: "word " * k,
    "sentences": lambda k: "Go on. " * k,
    "paragraphs": lambda k: "text\n\n" * k,
    "bullets": lambda k: "- item\n" * k,
}
NASTY = [
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff.\ud800 a",
    "👩‍🚀🎉",
    "\u200b",
    "...",
    "- ",
    "1.",
    "{",
    "[]",
    "\n" * 9,
    "̈",
    "٣",
    "ǅ",
]
NASTY += ['{"a": NaN}', '{"a": 1' + "1" * 5000 + "}", '{"a":' + "[" * 5000, '{"a":' * 5000 + "1" + "}" * 5000]
HUGE = [
    "a",
    "a ",
    ".",
    ". ",
    '."',
    " ",
    "\n",
    "- ",
    "-\n",
    "{",
    '{"',
    '{"a":',
    "i can't ",
    "as an ai ",
    "’",
    "\ud800",
    "字",
]


@pytest.mark.parametrize("name", CHECKS)
class TestEveryCheck:
    @given(text=st.text(st.characters(codec=None)))
    @settings(max_examples=60, deadline=None)
    @example(text="The cat sat.\n\n- 3.5 birds!")
    def test_grades_any_text_between_zero_and_one(self, name, text):
        credit = CHECKS[name](text, **EXAMPLES[name])
        assert type(credit) is float and 0 <= credit <= 1

    @pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
    def test_grades_nasty_text_between_zero_and_one(self, name, text):
        credit = CHECKS[name](text, **EXAMPLES[name])
        assert type(credit) is float and 0 <= credit <= 1

    @pytest.mark.parametrize("unit", HUGE, ids=ascii)
    def test_gets_through_a_long_run_of_one_pattern(self, name, unit):
        """A check that is quadratic in the length of its text would need hours here."""
        credit = CHECKS[name](unit * (200_000 // len(unit)), **EXAMPLES[name])
        assert math.isfinite(credit)

    def test_gives_the_same_credit_again(self, name):
        text = 'A cat.\n\n- One {"a": 1} item. One item. I cannot help.'
        first = CHECKS[name](text, **EXAMPLES[name])
        CHECKS[name]("something else in between", **EXAMPLES[name])
        assert CHECKS[name](text, **EXAMPLES[name]) == first

    def test_takes_its_settings_by_keyword_only(self, name):
        answer, *others = inspect.signature(CHECKS[name]).parameters.values()
        assert (answer.name, answer.kind) == ("answer", answer.POSITIONAL_ONLY)
        assert {p.kind for p in others} <= {inspect.Parameter.KEYWORD_ONLY}

    def test_is_named_after_its_function_and_explained(self, name):
        assert CHECKS[name].__name__ == name
        assert CHECKS[name].__doc__

    def test_meets_and_misses_under_its_example(self, name):
        """No check is a constant: some text earns more than another."""
        texts = [
            "",
            "A b",
            "a cat. ok",
            "x\n\ny",
            "- a",
            '{"a":1,"b":2}',
            "I can't help.",
            "cat ... 👍",
            "а а а",
            "A a",
            "a",
        ]
        assert len({CHECKS[name](text, **EXAMPLES[name]) for text in texts}) > 1


def test_every_check_has_an_example():
    assert EXAMPLES.keys() == CHECKS.keys()


class TestCounting:
    @pytest.mark.parametrize(
        ("k", "credit"), [(0, 0), (1, 0.25), (3, 0.75), (4, 1), (5, 1), (6, 0.8), (8, 0.4), (10, 0), (99, 0)]
    )
    @pytest.mark.parametrize("name", COUNTING)
    def test_credit_falls_linearly_with_the_relative_distance(self, name, k, credit):
        assert CHECKS[name](COUNTING[name](k), at_least=4, at_most=5) == pytest.approx(credit, abs=1e-15)

    @pytest.mark.parametrize("name", COUNTING)
    def test_one_bound_leaves_the_other_side_open(self, name):
        count, text = CHECKS[name], COUNTING[name]
        assert [count(text(k), at_least=2) for k in (1, 2, 50)] == [0.5, 1, 1]
        assert [count(text(k), at_most=2) for k in (0, 2, 3, 4)] == [1, 1, 0.5, 0]
        assert [count(text(k), at_most=0) for k in (0, 1)] == [1, 0]

    @given(low=st.integers(0, 30), width=st.integers(0, 10), k=st.integers(0, 60))
    def test_a_nearer_count_is_never_worse(self, low, width, k):
        def credit(n):
            return CHECKS["words"]("word " * n, at_least=low, at_most=low + width)

        nearer = k + 1 if k < low else max(k - 1, 0) if k > low + width else k
        assert credit(nearer) >= credit(k)
        assert (credit(k) == 1) == (low <= k <= low + width)

    @pytest.mark.parametrize("name", COUNTING)
    @pytest.mark.parametrize(
        ("bounds", "says"),
        [
            ({}, "give at_least, at_most or both"),
            ({"at_least": 5, "at_most": 4}, "at_least=5 is above at_most=4"),
            ({"at_least": -1}, "not below 0: at_least=-1"),
            ({"at_most": -1}, "not below 0: .* at_most=-1"),
        ],
    )
    def test_bounds_that_cannot_be_meant_are_an_error(self, name, bounds, says):
        with pytest.raises(ConfigError, match=says):
            CHECKS[name]("", **bounds)


def counted(name, text):
    """The count behind a check, found from the one range that gives full credit."""
    return next(k for k in range(99) if CHECKS[name](text, at_least=k, at_most=k) == 1)


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("text", "n"),
        [
            ("It's a well-known 3.5 %.", 4),
            ("- one\n* two", 2),
            ("👍 … —", 0),
            ("我喜欢猫。", 4),
            ("привет мир", 2),
            ("a\u00a0b", 2),
        ],
    )
    def test_words(self, text, n):
        assert counted("words", text) == len(split_words(text)) == n

    @pytest.mark.parametrize(
        ("text", "n"),
        [
            ("One. Two! Three?", 3),
            ("Wait... what?!", 2),
            ('He said "no." She left.', 2),
            ("It costs 3.50 at example.com today.", 1),
            ("1. Wash it.\n2. Dry it.", 2),
            ("no full stop", 1),
            ("- apples\n- pears", 2),
            ("Dr. Who.", 2),
            ("是。不是！", 2),
            ("... 5.", 0),
        ],
    )
    def test_sentences(self, text, n):
        assert counted("sentences", text) == n

    @pytest.mark.parametrize(
        ("text", "n"), [("a\nb\n\n\nc", 2), ("a\n \t\nb", 2), ("a\n\n---\n\nb", 2), ("\n\n", 0), ("a", 1)]
    )
    def test_paragraphs(self, text, n):
        assert counted("paragraphs", text) == n

    @pytest.mark.parametrize(
        ("text", "n"),
        [
            ("- a\n  * b\n+ c\n• d\n– e", 5),
            ("1. a\n2) b\n999. c", 3),
            ("**bold** text\n-dash\n1.5 litres\n---\n- \n* * *\n1000. x", 0),
            ("text - not an item", 0),
        ],
    )
    def test_bullets(self, text, n):
        assert counted("bullets", text) == n


class TestContainsAndExcludes:
    def test_each_text_of_all_of_is_one_demand_and_any_of_one_more(self):
        contains = CHECKS["contains"]
        assert contains("a cat", all_of=("cat", "dog")) == 0.5
        assert contains("a cat", any_of=("dog", "cat")) == 1
        assert contains("a cow", any_of=("dog", "cat")) == 0
        assert contains("a cat", all_of=("cat", "dog"), any_of=("cow", "hen")) == pytest.approx(1 / 3)
        assert contains("a cat and hens", all_of=("cat", "dog"), any_of=("cow", "hens")) == pytest.approx(2 / 3)

    @pytest.mark.parametrize(
        ("text", "term", "found"),
        [
            ("concatenate", "cat", False),
            ("bobcat", "cat", False),
            ("cats", "cat", False),
            ("(cat), dog", "cat", True),
            ("New\n  York.", "new york", True),
            ("I don’t", "don't", True),
            ("我有猫吗", "猫", True),
            ("yes!no", "!", True),
            ("3.50", "3.5", False),
            ("a_cat_b", "cat", True),
            ("Straße", "STRASSE", True),
        ],
    )
    def test_texts_are_found_as_whole_words(self, text, term, found):
        assert CHECKS["contains"](text, all_of=(term,)) == found
        assert CHECKS["excludes"](text, any_of=(term,)) == (not found)

    def test_case_counts_only_when_asked_for(self):
        assert [CHECKS["contains"]("Paris", all_of=("paris",), case=case) for case in (False, True)] == [1, 0]
        assert [CHECKS["excludes"]("Paris", any_of=("paris",), case=case) for case in (False, True)] == [0, 1]

    def test_excludes_gives_the_share_that_is_absent(self):
        assert CHECKS["excludes"]("very nice, very", any_of=("very", "nice", "good", "bad")) == 0.5

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("contains", {}),
            ("contains", {"all_of": ("a", " ")}),
            ("excludes", {"any_of": ()}),
            ("excludes", {"any_of": ("",)}),
        ],
    )
    def test_nothing_to_look_for_is_an_error(self, name, given):
        with pytest.raises(ConfigError, match=r"empty|all_of"):
            CHECKS[name]("", **given)


class TestJson:
    @pytest.mark.parametrize(
        ("text", "credit"),
        [
            ('{"a": 1, "b": {"c": 2}}', 1),
            (' {"b": 1, "a": 2}\n', 1),
            ('{"a": 1}', 2 / 3),
            ("{}", 1 / 3),
            ('```json\n{"a": 1, "b": 2}\n```', 1 / 2),
            ('Here {it} is: {"a": 1}. Enjoy!', 1 / 3),
            ('[{"a": 1, "b": 2}]', 1 / 2),
            ('{"a": 1, "b": 2', 0),
            ('{"a": NaN, "b": 1}', 0),
            ("{'a': 1}", 0),
            ("[1, 2]", 0),
            ("", 0),
        ],
    )
    def test_credit_is_the_share_of_keys_and_half_when_text_stands_around(self, text, credit):
        assert CHECKS["json_keys"](text, keys=("a", "b")) == pytest.approx(credit)

    def test_only_makes_further_keys_one_more_demand(self):
        json_keys = CHECKS["json_keys"]
        assert json_keys('{"a": 1, "z": 2}', keys=("a",)) == 1
        assert json_keys('{"a": 1, "z": 2}', keys=("a",), only=True) == pytest.approx(2 / 3)
        assert json_keys('{"a": 1}', keys=("a",), only=True) == 1

    def test_an_object_behind_sixteen_other_braces_is_not_looked_for(self):
        assert [CHECKS["json_keys"]("{ " * k + '{"a": 1}') for k in (15, 16)] == [0.5, 0]

    def test_no_keys_asks_for_any_object(self):
        assert [CHECKS["json_keys"](text) for text in ('{"x": 1}', 'So: {"x": 1}', "{x}")] == [1, 0.5, 0]


class TestEnds:
    def test_white_space_and_case_around_the_text_do_not_matter(self):
        assert CHECKS["starts_with"]("\n HELLO there", text="Hello") == 1
        assert [CHECKS["starts_with"](f"{hello} there", text="Hello", case=True) for hello in ("HELLO", "Hello")] == [
            0,
            1,
        ]
        assert CHECKS["starts_with"]("Oh hello", text="Hello") == 0
        assert CHECKS["ends_with"]("All gone. the  end. \n", text="The end.") == 1
        assert [
            CHECKS["ends_with"](f"All gone. {end}", text="The end.", case=True) for end in ("the end.", "The end.")
        ] == [0, 1]
        assert CHECKS["ends_with"]("The end. Bye", text="The end.") == 0

    @pytest.mark.parametrize("name", ["starts_with", "ends_with"])
    def test_an_empty_text_is_an_error(self, name):
        with pytest.raises(ConfigError, match="empty"):
            CHECKS[name]("", text=" ")


class TestScript:
    @pytest.mark.parametrize(
        ("name", "text", "share"),
        [
            ("latin", "Grüße, 12 café!", 1),
            ("latin", "ab вг", 0.5),
            ("cyrillic", "Доброе утро ok", 10 / 12),
            ("greek", "καλημέρα", 1),
            ("arabic", "صباح الخير", 1),
            ("hebrew", "בוקר טוב", 1),
            ("han", "早上好a", 3 / 4),
            ("kana", "ラーメン です", 1),
            ("kana", "水です", 2 / 3),
            ("japanese", "水です", 1),
            ("hangul", "안녕", 1),
            ("devanagari", "नमस्ते", 1),
            ("thai", "สวัสดี", 1),
            ("latin", "ＡＢ", 1),
            ("latin", "123 !?", 0),
            ("latin", "", 0),
        ],
    )
    def test_credit_is_the_share_of_letters(self, name, text, share):
        assert CHECKS["script"](text, name=name) == pytest.approx(share)

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_no_script_is_met_by_the_letters_of_another(self, name):
        assert CHECKS["script"]("Ж" if name == "latin" else "Q", name=name) == 0

    def test_an_unknown_script_names_the_known_ones(self):
        with pytest.raises(ConfigError, match=r"'klingon'; known: arabic.*thai"):
            CHECKS["script"]("", name="klingon")


class TestRepetition:
    @pytest.mark.parametrize(
        ("text", "n", "share"),
        [
            ("a b c d", 4, 0),
            ("a b c d e", 4, 0),
            ("a A a", 1, 2 / 3),
            ("a b a b a b", 2, 3 / 5),  # ab ba ab ba ab: 2 different of 5
            ("x " * 10, 4, 6 / 7),
            ("one two three four one two three four", 4, 1 / 5),
            ("好 好 好", 1, 2 / 3),
            ("", 4, 0),
        ],
    )
    def test_is_the_share_of_n_grams_that_repeat_an_earlier_one(self, text, n, share):
        assert repetition(text, n=n) == pytest.approx(share)
        assert CHECKS["no_repetition"](text, n=n) == pytest.approx(1 - share)

    @pytest.mark.parametrize("n", [0, -1, 21, 10**30])
    def test_an_n_out_of_reason_is_an_error(self, n):
        with pytest.raises(ConfigError, match="between 1 and 20"):
            CHECKS["no_repetition"]("", n=n)


class TestRefusal:
    @pytest.mark.parametrize(
        "text",
        [
            "I'm sorry, but I can’t help with that.",
            "Sorry, I cannot provide that information.",
            "I am unable to assist you.",
            "I'm not able to share someone's address.",
            "I must decline.",
            "As an AI language model, I do not have an opinion.",
            "I won't do that.",
        ],
    )
    def test_a_refusal_is_recognised(self, text):
        assert CHECKS["refusal"](text) == 1
        assert CHECKS["not_refusal"](text) == 0

    @pytest.mark.parametrize(
        "text",
        [
            "I can't wait to see you!",
            "I'm sorry to hear that.",
            "I can help. Do not worry.",
            "You can't give up.",
            "Hi can not help",
        ],
    )
    def test_an_ordinary_answer_is_none(self, text):
        assert CHECKS["refusal"](text) == 0
        assert CHECKS["not_refusal"](text) == 1

    @pytest.mark.parametrize(("before", "credit"), [(199, 1), (200, 0.5)])
    def test_a_refusal_that_comes_late_is_half_a_refusal(self, before, credit):
        text = "x" * (before - 1) + " I cannot help."
        assert CHECKS["refusal"](text) == credit
        assert CHECKS["not_refusal"](text) == 1 - credit


class TestCaseAndEmptiness:
    def test_credit_is_the_share_of_words_without_the_other_case(self):
        assert CHECKS["lower_case"]("all small Here 99") == 0.75
        assert CHECKS["upper_case"]("ALL LARGE here 99") == 0.75
        assert CHECKS["lower_case"]("iPhone") == CHECKS["upper_case"]("iPhone") == 0

    @pytest.mark.parametrize(("text", "credit"), [("", 0), (" \n\t\u200b\0", 0), (".", 1), ("👍", 1), (" a ", 1)])
    def test_not_empty_asks_for_one_visible_character(self, text, credit):
        assert CHECKS["not_empty"](text) == credit


class TestFacts:
    def test_facts_are_named_after_their_functions(self):
        assert {name: fact.__name__ for name, fact in FACTS.items()} == {"length": "length", "repetition": "repetition"}

    def test_length_counts_characters(self):
        assert [length(text) for text in ("", " a\n", "é👍")] == [0, 3, 2]

    @given(text=st.text(st.characters(codec=None)))
    def test_any_text_has_finite_facts(self, text):
        assert length(text) >= 0
        assert 0 <= repetition(text) < 1
