"""The page as text: what stands in it, and that no string of a run becomes markup."""

import base64
import copy
import hashlib
import json
import math
import re

import pytest
from sample_facts import MISSING, Reader, build, everywhere, hostile, no_pairs

from pairwright.errors import DataError
from pairwright.report.facts import Facts
from pairwright.report.page import page

RAW = (
    "</script><script>",
    "</style></title>",
    "<script>document",
    "<img src",
    "<iframe srcdoc",
    "<svg onload=",
    "--><!--",
    "\0",
)


def embedded(text: str) -> Facts:
    return json.loads(re.search(r'<script type="application/json" id="facts">(.*?)</script>', text, re.S)[1])


def between(text: str, start: str) -> str:
    return re.search(f"{re.escape(start)}(.*?)</section>", text, re.S)[1]


def poisoned() -> Facts:
    return everywhere(build(), lambda text: f"{text}{hostile()}")


class TestThePage:
    def test_parses_with_every_element_closed(self):
        assert Reader(page(build())).open == []

    def test_carries_the_facts_unchanged(self):
        facts = build()
        assert embedded(page(facts)) == facts

    def test_links_only_within_itself(self):
        for _tag, attributes in Reader(page(poisoned())).elements:
            assert attributes.get("href", "#")[0] == "#"
            assert not attributes.keys() & {"src", "srcset", "srcdoc", "action", "data", "ping", "background", "style"}

    def test_has_no_event_handlers(self):
        for _tag, attributes in Reader(page(poisoned())).elements:
            assert [key for key in attributes if key.startswith("on")] == []

    def test_policy_names_the_style_and_the_script_by_hash(self):
        text = page(build())
        policy = Reader(text).inside("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
        rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
        for name, start in (("script-src", "<script>"), ("style-src", "<style>")):
            inlined = re.search(f"{start}(.*?)</{start[1:]}", text, re.S)[1]
            digest = base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()
            assert rules[name] == [f"'sha256-{digest}'"]
        assert rules["default-src"] == ["'none'"]
        assert rules["img-src"] == ["data:"]
        assert rules["base-uri"] == rules["form-action"] == ["'none'"]

    def test_writes_no_markup_from_its_script(self):
        script = re.search("<script>(.*?)</script>", page(build()), re.S)[1]
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch|XMLHttp", script
        )

    def test_looks_the_same_every_time(self):
        assert page(build()) == page(build())

    def test_leaves_the_facts_untouched(self):
        facts = build()
        page(facts)
        assert facts == build()


class TestHostileText:
    def test_changes_no_element_and_no_attribute_name(self):
        def shape(facts: Facts) -> list[tuple[str, list[str]]]:
            return [(tag, list(attributes)) for tag, attributes in Reader(page(facts)).elements]

        assert shape(poisoned()) == shape(build(payload="calm"))

    @pytest.mark.parametrize("raw", RAW)
    def test_never_stands_raw_in_the_page(self, raw: str):
        assert raw in hostile()
        assert raw not in page(poisoned())

    @pytest.mark.parametrize("raw", ["<", ">", "&", "\u2028", "\u2029", "\0"])
    def test_never_stands_raw_in_the_data(self, raw: str):
        data = re.search('id="facts">(.*?)</script>', page(poisoned()), re.S)[1]
        assert raw not in data
        assert data.isascii()

    def test_is_not_filled_in_as_a_template(self):
        facts = everywhere(build(), lambda text: "$title ${js} $$ {{7*7}}")
        assert Reader(page(facts)).text["h1"] == "$title ${js} $$ {{7*7}}"

    def test_stays_readable_as_text(self):
        assert hostile().replace("\0", "\ufffd") in Reader(page(poisoned())).text["h1"]

    def test_half_a_surrogate_pair_can_be_written_to_a_file(self):
        text = page(everywhere(build(), lambda text: f"{text}\ud83d"))
        assert text.encode("utf-8")
        assert embedded(text)["title"].endswith("\ud83d")


class TestTheNumbers:
    def test_stage_table_stands_without_javascript(self):
        stages = between(page(build()), '<section id="stages"')
        assert re.search(
            r'<th scope="row">pair</th><td>prompts</td><td class="n">5</td><td class="n">4</td><td class="n">1</td>',
            stages,
        )
        assert "<b>1</b> zero_variance" in stages
        assert "add up" not in stages

    def test_says_when_a_stage_does_not_add_up(self):
        facts = build()
        facts["stages"][3]["kept"] = 3
        assert "Does not add up: 1 unaccounted for" in page(facts)

    def test_bars_hold_the_counts(self):
        facts = build()
        bars = [int(told["data-count"]) for told in Reader(page(facts)).inside("rect", **{"class": "bin"})]
        assert bars == [
            *facts["raters"][0]["counts"],
            *facts["raters"][1]["counts"],
            *facts["pairs"]["margin"]["counts"],
        ]

    def test_bars_are_as_high_as_their_counts(self):
        facts = build()
        facts["raters"], facts["pairs"]["margin"] = [], {"edges": [0.0, 1.0, 3.0], "counts": [1, 4]}
        places = [(b["x"], b["width"], b["height"]) for b in Reader(page(facts)).inside("rect", **{"class": "bin"})]
        assert places == [("0.000%", "33.333%", "25.000%"), ("33.333%", "66.667%", "100.000%")]

    def test_plots_are_told_in_words(self):
        drawn = [told for told in Reader(page(build())).inside("svg") if "aria-hidden" not in told]
        assert len(drawn) == 5
        assert all(told["role"] == "img" and told["aria-label"] for told in drawn)
        assert "chosen: +1.62; rejected: −1.87" in drawn[-1]["aria-label"]

    def test_advice_and_shares_stand_in_words(self):
        facts = build()
        facts["rules"].update({"prompts": 40, "same": 30, "same_by_theorem": 10})
        rules = between(page(facts), '<section id="rules"')
        assert facts["rules"]["advice"][0] in rules
        told = Reader(rules).inside("svg")[0]["aria-label"]
        assert re.findall(r": (\d+)", told) == ["10", "20", "10"]
        assert "30 of 40 (75.0 %)" in rules
        assert "2k² + 2" in rules

    def test_theorem_is_named_only_where_it_decided(self):
        assert "2k² + 2" not in page(build())

    def test_settings_are_named_by_their_path(self):
        assert "<dt>pairing.rejected</dt><dd><code>mu-2sigma</code></dd>" in page(build())


class TestMissingPieces:
    @pytest.mark.parametrize("without", MISSING, ids=lambda f: f.__name__)
    def test_leave_a_whole_page(self, without):
        facts = build()
        without(facts)
        text = page(facts)
        assert Reader(text).open == []
        assert embedded(text) == facts
        assert "nan" not in re.sub("<script.*?</script>", "", text, flags=re.S)
        assert ">None<" not in text

    def test_no_pair_is_said_in_words(self):
        facts = build()
        no_pairs(facts)
        assert "No pair was made" in page(facts)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_none_is_refused(self, value: float):
        facts = copy.deepcopy(build())
        facts["prompts"][0]["candidates"][0]["score"] = value
        with pytest.raises(DataError, match="give None for a missing number"):
            page(facts)
