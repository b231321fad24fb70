"""Reward-conditioned pairs. Numbered invariants and defects: sections 6 and 7 of the conditioning notes; F58 of the faults."""

import copy
import json
import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.losses import cdpo, dpo
from pairwright.core.pair_terms import PairTerms
from pairwright.errors import ConfigError, DataError
from pairwright.tables import DROPPED, MESSAGES, conform
from pairwright.train import conditioning
from pairwright.train.conditioning import (
    Relabelling,
    Tag,
    best_goal,
    count_tags,
    evaluation_prompts,
    goal_of,
    hold_out,
    record,
    relabel,
    with_goal,
)
from pairwright.train.routing import Routing, route

MODEST = settings(max_examples=60, deadline=None)
PLACES = pytest.mark.parametrize("place", ["system", "user"])
SHORT = Tag(place="user", head="", line="[score {goal}]", gap=" ")
TWO = Tag(attributes=("helpfulness", "honesty"))
POINTS = st.integers(2, 20).map(lambda x: x / 2)
SCORES = st.lists(st.tuples(POINTS, POINTS), min_size=1, max_size=12)


def said(text, role="assistant"):
    return [{"role": role, "content": text}]


def pairs(scores, **columns) -> pl.DataFrame:
    """Pairs p0, p1, ... of "w0" over "l0" with (chosen, rejected) scores."""
    n = len(scores)
    data = {
        "prompt": [said(f"Q{i}", "user") for i in range(n)],
        "chosen": [said(f"w{i}") for i in range(n)],
        "rejected": [said(f"l{i}") for i in range(n)],
        "score_chosen": [w for w, _ in scores],
        "score_rejected": [v for _, v in scores],
        "prompt_id": [f"p{i}" for i in range(n)],
        "chosen_model": [f"cw{i}" for i in range(n)],
        "rejected_model": [f"cl{i}" for i in range(n)],
    }
    kinds = {
        **dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES),
        "score_chosen": pl.Float64,
        "score_rejected": pl.Float64,
    }
    frame = pl.DataFrame(data, schema_overrides=kinds)
    frame = frame.with_columns(margin=pl.col("score_chosen") - pl.col("score_rejected"))
    return frame.with_columns(
        pl.Series(name, values, dtype=MESSAGES if name in ("prompt", "chosen", "rejected") else None)
        for name, values in columns.items()
    )


def rows_of(frame) -> list[dict]:
    return sorted(frame.to_dicts(), key=lambda row: (row["pair_id"], row["copy"]))


def text(messages) -> str:
    return "\n".join(turn["content"] for turn in messages)


class TestTheTag:
    @PLACES
    def test_one_tag_at_the_start_and_the_rest_as_it_was(self, place):
        messages = [*said("Be kind.", "system"), *said("First?", "user"), *said("Yes."), *said("And now?", "user")]
        out = with_goal(messages, 8.5, Tag(place=place))
        at = {"system": 0, "user": 1}[place]
        assert [turn["role"] for turn in out] == [turn["role"] for turn in messages]
        assert out[at]["content"].startswith(
            "Write an answer that would be given these ratings, on a scale from 1 to 10:"
        )
        assert out[at]["content"].endswith("\nScore: 8.5.\n\n" + messages[at]["content"])
        assert [turn for k, turn in enumerate(out) if k != at] == [turn for k, turn in enumerate(messages) if k != at]
        assert count_tags(text(out), Tag(place=place)) == 1

    def test_without_a_system_message_the_system_place_makes_one(self):
        out = with_goal(said("Q", "user"), 9)
        assert [turn["role"] for turn in out] == ["system", "user"]
        assert out[1] == {"role": "user", "content": "Q"}

    def test_a_developer_message_is_a_system_message(self):
        out = with_goal([*said("Be brief.", "developer"), *said("Q", "user")], 9)
        assert [turn["role"] for turn in out] == ["developer", "user"]

    def test_without_a_system_role_no_system_message_appears(self):
        assert [turn["role"] for turn in with_goal(said("Q", "user"), 9, Tag(place="user"))] == ["user"]

    @PLACES
    def test_the_input_is_left_alone(self, place):
        messages = [*said("Be kind.", "system"), *said("Q", "user")]
        before = copy.deepcopy(messages)
        with_goal(messages, 3, Tag(place=place))[0]["content"] = "changed"
        with_goal(messages, None)[0]["content"] = "changed"
        assert messages == before

    @PLACES
    def test_a_second_tag_is_refused(self, place):  # defect 2
        tag = Tag(place=place)
        once = with_goal(said("Q", "user"), 9, tag)
        with pytest.raises(DataError, match="has a goal already"):
            with_goal(once, 3, tag)

    def test_no_goal_is_the_prompt_itself(self):
        assert with_goal(said("Q", "user"), None) == said("Q", "user")
        assert goal_of(said("Q", "user")) is None

    @pytest.mark.parametrize("goal", [1, 8.5, 10])
    @pytest.mark.parametrize("tag", [Tag(), Tag(place="user"), SHORT])
    def test_the_goal_is_read_back(self, goal, tag):  # invariant 7
        assert goal_of(with_goal(said("Q", "user"), goal, tag), tag) == (goal,)

    def test_whole_numbers_have_no_point(self):  # invariant 7
        assert [conditioning.format_goal(g) for g in (8.0, 8.5, 10.0, 0.0, -1.0, 100.0)] == [
            "8",
            "8.5",
            "10",
            "0",
            "-1",
            "100",
        ]

    @MODEST
    @given(st.floats(-5, 5), st.sampled_from([0.5, 0.1, 0.25, 0.05, 1.0, 1 / 3]))
    def test_format_and_parse_are_inverses_on_rounded_goals(self, score, step):
        tag = Tag(scale=(-5, 5), step=step)
        (goal,) = conditioning.rounded(np.array([score]), tag)
        assert float(conditioning.format_goal(goal)) == goal
        assert abs(goal - score) <= step / 2 + 1e-9
        assert goal_of(with_goal(said("Q", "user"), score, tag), tag) == (goal,)

    def test_several_attributes_have_a_line_each_in_order(self):  # invariant 12
        out = with_goal(said("Q", "user"), [4, 5.5], TWO)
        assert out[0]["content"].endswith(":\nHelpfulness: 4.\nHonesty: 5.5.")
        assert goal_of(out, TWO) == (4, 5.5)
        turned = Tag(attributes=("honesty", "helpfulness"))
        assert with_goal(said("Q", "user"), [5.5, 4], turned)[0]["content"].endswith("\nHonesty: 5.5.\nHelpfulness: 4.")

    @pytest.mark.parametrize("goal", [0.5, 10.5, math.nan, [9, 9], []])
    def test_a_goal_outside_the_scale_or_of_the_wrong_size_is_refused(self, goal):
        with pytest.raises(ConfigError, match="goal"):
            with_goal(said("Q", "user"), goal)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"line": "Score"}, "goal"),
            ({"attributes": ("a", "b"), "line": "{goal}"}, "name"),
            ({"attributes": ("a", "a")}, "different"),
            ({"attributes": ()}, "one or more"),
            ({"scale": (1, 1)}, "scale"),
            ({"step": 0}, "step"),
            ({"weights": (1.0, 2.0)}, "weights"),
        ],
    )
    def test_settings_that_cannot_be_meant(self, options, said):
        with pytest.raises(ConfigError, match=said):
            Tag(**options)

    def test_a_prompt_without_a_user_turn_has_no_place_for_it(self):
        with pytest.raises(DataError, match="no user turn"):
            with_goal(said("Be kind.", "system"), 9, Tag(place="user"))


class TestTwoCopies:
    def test_f58_the_low_score_copy_is_exchanged_and_the_tie_is_counted(self):
        frame = pairs([(9.0, 3.0), (6.0, 6.0)], prompt=[said("Q", "user")] * 2, chosen=[said("good"), said("x")])
        frame = frame.with_columns(rejected=pl.Series([said("bad"), said("y")], dtype=MESSAGES))
        kept, dropped = relabel(frame, SHORT)
        seen = [(row["prompt"][0]["content"], text(row["chosen"]), text(row["rejected"])) for row in rows_of(kept)]
        assert sorted(seen, reverse=True) == [("[score 9] Q", "good", "bad"), ("[score 3] Q", "bad", "good")]
        assert dropped.select("stage", "prompt_id", "reason", "detail").rows() == [("condition", "p1", "tie", "p1:0")]

    @PLACES
    def test_the_lower_goal_exchanges_the_responses(self, place):  # invariant 2, defects 1 and 3
        loser, winner = rows_of(relabel(pairs([(9.0, 3.0)]), Tag(place=place)).kept)
        assert (loser["goal"], text(loser["chosen"]), text(loser["rejected"])) == ([3], "l0", "w0")
        assert (winner["goal"], text(winner["chosen"]), text(winner["rejected"])) == ([9], "w0", "l0")
        assert (loser["chosen_model"], loser["rejected_model"]) == ("cl0", "cw0")
        assert loser["rated_chosen"] == winner["rated_rejected"] == [3]

    @PLACES
    def test_the_tag_stands_once_in_the_prompt_and_never_in_a_completion(self, place):  # invariants 3, 11, defect 2
        tag = Tag(place=place)
        for row in rows_of(relabel(pairs([(9.0, 3.0), (8.5, 1.0)]), tag).kept):
            assert count_tags(text(row["prompt"]), tag) == 1
            assert goal_of(row["prompt"], tag) == tuple(row["goal"])
            for side in ("chosen", "rejected"):
                assert row[side][0]["content"] in {f"{kind}{row['prompt_id'][1:]}" for kind in "wl"}

    @MODEST
    @given(SCORES, st.booleans())
    def test_each_response_is_chosen_once_and_rejected_once(self, scores, original):  # invariants 1, 10
        kept, dropped = relabel(pairs(scores), settings=Relabelling(keep_original=original))
        good = [i for i, (w, v) in enumerate(scores) if w > v]
        assert kept.height == (3 if original else 2) * len(good)
        assert kept["pair_id"].n_unique() + dropped.height == len(scores)
        tagged = kept.filter(pl.col("goal").is_not_null())
        for i in good:
            rows = tagged.filter(pl.col("prompt_id") == f"p{i}").to_dicts()
            assert sorted(text(row["chosen"]) for row in rows) == [f"l{i}", f"w{i}"]
            assert sorted(text(row["rejected"]) for row in rows) == [f"l{i}", f"w{i}"]
            assert sorted(row["goal"] for row in rows) == [[scores[i][1]], [scores[i][0]]]
        originals = kept.filter(pl.col("goal").is_null())
        assert originals["prompt"].to_list() == [said(f"Q{row[1:]}", "user") for row in originals["prompt_id"]]

    @MODEST
    @given(SCORES)
    def test_the_goal_reward_of_the_chosen_side_is_zero_and_of_the_other_below(self, scores):  # invariant 4
        for row in relabel(pairs(scores)).kept.to_dicts():
            assert row["score_chosen"] == 0
            assert row["score_rejected"] == -((row["rated_chosen"][0] - row["rated_rejected"][0]) ** 2) < 0
            assert row["margin"] == row["score_chosen"] - row["score_rejected"]

    @MODEST
    @given(SCORES)
    def test_with_swap_the_order_of_the_two_sides_does_not_matter(self, scores):  # invariant 5
        frame = pairs(scores)
        turned = conditioning.exchange(frame, np.ones(frame.height, bool))
        swap = Relabelling(on_conflict="swap")
        a, b = (relabel(each, settings=swap).kept.drop("conflict") for each in (frame, turned))
        assert a.equals(b)

    @MODEST
    @given(SCORES, st.sampled_from([(2.0, 0.0), (0.5, 3.0), (-1.0, 0.0)]))
    def test_a_linear_map_of_the_scale_changes_no_label(self, scores, line):  # invariant 8
        a, b = line
        swap = Relabelling(on_conflict="swap")
        mapped = pairs([(a * w + b, a * v + b) for w, v in scores])
        ends = sorted((a * 1 + b, a * 10 + b))
        plain = relabel(pairs(scores), settings=swap).kept
        moved = relabel(mapped, Tag(scale=tuple(ends), step=0.5 * abs(a)), swap).kept
        labels = [
            sorted(
                (round(sign * goal[0] + shift, 9), text(chosen))
                for goal, chosen in each.select("goal", "chosen").rows()
            )
            for each, sign, shift in ((plain, a, b), (moved, 1, 0))
        ]
        assert labels[0] == labels[1]

    def test_input_rows_are_left_alone(self):  # invariant 5
        frame = pairs([(9.0, 3.0), (3.0, 9.0)])
        before = copy.deepcopy(frame.to_dicts())
        relabel(frame, settings=Relabelling(on_conflict="swap", keep_original=True))
        assert frame.to_dicts() == before

    def test_one_attribute_is_the_scalar_case(self):  # invariant 12
        frame = pairs([(9.0, 3.0), (8.0, 2.5)])
        renamed = frame.with_columns(quality_chosen="score_chosen", quality_rejected="score_rejected")
        line = "Rating: {goal}."
        a = relabel(frame, Tag(line=line)).kept
        b = relabel(renamed, Tag(line=line, attributes=("quality",))).kept
        assert a.equals(b.select(a.columns))

    def test_several_attributes_match_their_own_vectors(self):  # invariant 12
        frame = pairs(
            [(0.0, 0.0)] * 3, helpfulness_chosen=[9.0, 5.0, 9.0], helpfulness_rejected=[3.0, 5.0, 3.0],
            honesty_chosen=[4.0, 5.0, 2.0], honesty_rejected=[6.0, 5.0, 9.0],
        )  # fmt: skip
        tag = Tag(attributes=("helpfulness", "honesty"), weights=(2.0, 1.0))
        kept, dropped = relabel(frame, tag)
        loser, winner = rows_of(kept.filter(pl.col("prompt_id") == "p0"))
        assert (winner["goal"], loser["goal"]) == ([9, 4], [3, 6])
        assert (text(winner["chosen"]), text(loser["chosen"])) == ("w0", "l0")
        assert winner["margin"] == loser["margin"] == 2 * 6**2 + 2**2
        assert dropped.select("prompt_id", "reason").rows() == [("p1", "tie")]  # p2: 2 * 6 - 7 > 0, so no conflict
        assert relabel(frame, TWO).dropped.select("prompt_id", "reason").rows() == [("p1", "tie"), ("p2", "conflict")]


class TestPolicies:
    SCORES = ((9.0, 3.0), (6.0, 6.0), (3.0, 9.0), (None, 5.0), (math.nan, 5.0), (8.5, 8.0), (5.0, -10.0))

    def test_by_default_only_clear_pairs_get_goals(self):  # invariant 10, defect 4
        split = relabel(pairs(self.SCORES))
        assert set(split.kept["prompt_id"]) == {"p0", "p5"}
        assert dict(split.dropped.select("prompt_id", "reason").rows()) == {
            "p1": "tie", "p2": "conflict", "p3": "missing", "p4": "missing", "p6": "outside_scale",
        }  # fmt: skip
        assert record(split) == {
            "in": 7, "relabelled": 2, "untagged": 0, "rows": 4, "swapped": 0, "top": 0,
            "dropped": {"conflict": 1, "missing": 2, "outside_scale": 1, "tie": 1},
        }  # fmt: skip
        conform(split.dropped, DROPPED, where="here")
        json.dumps(record(split))

    def test_swap_trusts_the_score(self):
        split = relabel(pairs(self.SCORES), settings=Relabelling(on_conflict="swap"))
        rows = rows_of(split.kept.filter(pl.col("prompt_id") == "p2"))
        assert [(row["goal"], text(row["chosen"]), row["conflict"]) for row in rows] == [
            ([3], "w2", True),
            ([9], "l2", True),
        ]
        assert record(split)["swapped"] == 1

    def test_ties_and_missing_ones_may_stay_untagged(self):
        split = relabel(pairs(self.SCORES), settings=Relabelling(on_tie="untagged", on_missing="untagged"))
        plain = split.kept.filter(pl.col("goal").is_null())
        assert set(plain["prompt_id"]) == {"p1", "p3", "p4", "p6"}
        assert plain["prompt"].list.len().to_list() == [1] * 4
        assert plain.select("score_chosen", "score_rejected", "margin").null_count().row(0) == (4, 4, 4)
        counts = record(split)
        assert counts["in"] == 7 == counts["relabelled"] + counts["untagged"] + sum(counts["dropped"].values())

    def test_a_least_gap_counts_its_pairs_as_ties(self):
        split = relabel(pairs(self.SCORES), settings=Relabelling(min_gap=0.5))
        assert set(split.kept["prompt_id"]) == {"p0"}
        near = relabel(pairs([(8.3, 8.2)]), Tag(step=0.1), Relabelling(min_gap=0.1))  # 8.3 - 8.2 is 0.1000000000000014
        assert near.dropped["reason"].to_list() == ["tie"]

    def test_scores_that_round_to_one_goal_are_a_tie(self):
        assert relabel(pairs([(8.6, 8.4)])).dropped["reason"].to_list() == ["tie"]
        assert relabel(pairs([(8.6, 8.4)]), Tag(step=0.1)).kept.height == 2

    def test_identical_and_empty_texts_are_dropped(self):  # defect 5
        frame = pairs(
            [(9.0, 3.0)] * 3, chosen=[said("same"), said(" "), []], rejected=[said("same "), said("b"), said("c")]
        )
        assert relabel(frame).dropped["reason"].to_list() == ["identical", "empty_side", "empty_side"]

    def test_text_that_speaks_like_a_tag_is_dropped_and_counted(self):
        frame = pairs(
            [(9.0, 3.0)] * 3,
            prompt=[said("Explain [score 7] to me", "user"), said("Q", "user"), said("[score x]", "user")],
        )
        frame = frame.with_columns(
            rejected=pl.Series([said("a"), said("[score 10] is best"), said("c")], dtype=MESSAGES)
        )
        assert relabel(frame, SHORT).dropped["reason"].to_list() == ["prompt_has_tag", "response_has_tag"]
        assert set(relabel(frame, SHORT).kept["prompt_id"]) == {"p2"}

    def test_scales_are_never_mixed(self):
        frame = pairs([(9.0, 3.0), (8.0, 2.0)], scale_id=["a", "b"])
        with pytest.raises(DataError, match=r"several scales \(a, b\)"):
            relabel(frame)

    def test_scores_of_each_side_are_needed(self):
        with pytest.raises(DataError, match="lack score_chosen, score_rejected"):
            relabel(pairs([(9.0, 3.0)]).drop("score_chosen", "score_rejected"))

    @pytest.mark.parametrize("name", ["ref_chosen_logps", "p_chosen", "order", "goal"])
    def test_what_is_true_without_a_goal_alone_is_refused(self, name):
        with pytest.raises(DataError, match=f"{name} would not be true"):
            relabel(pairs([(9.0, 3.0)], **{name: [1.0]}))

    def test_a_relabelled_table_is_not_relabelled_again(self):
        with pytest.raises(DataError, match="goal, copy"):
            relabel(relabel(pairs([(9.0, 3.0)])).kept)

    def test_no_pairs_are_no_error(self):
        split = relabel(pairs([]))
        assert (split.kept.height, record(split)["in"]) == (0, 0)
        assert {"goal", "copy", "pair_id"} <= set(split.kept.columns)


class TestControls:
    FRAME = pairs([(9.0, 3.0), (8.0, 2.0), (7.0, 1.0), (10.0, 4.0), (6.0, 5.0)])

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_half_has_as_many_rows_as_there_are_pairs(self, n):  # invariant 15
        split = relabel(self.FRAME.head(n), settings=Relabelling(half=True))
        assert abs(split.kept.height - n) <= 1
        assert split.kept["pair_id"].n_unique() + split.dropped.height == n
        assert set(split.dropped["reason"]) <= {"other_half"}
        assert (split.kept.group_by("pair_id").len()["len"] == 2).all()

    def test_half_counts_only_pairs_that_can_be_relabelled_and_depends_on_the_seed(self):
        frame = pl.concat(
            [pairs([(5.0, 5.0)] * 6).with_columns(prompt_id="t" + pl.col("prompt_id")), self.FRAME.head(4)]
        )
        halves = [set(relabel(frame, settings=Relabelling(half=True, seed=s)).kept["prompt_id"]) for s in range(8)]
        assert all(len(half) == 2 for half in halves)
        assert len({tuple(sorted(half)) for half in halves}) > 1

    def test_no_swap_is_the_published_rule_and_its_margin_says_so(self):
        kept = relabel(self.FRAME, settings=Relabelling(copies="no_swap")).kept
        assert all(text(row["chosen"]).startswith("w") for row in kept.to_dicts())
        assert kept.height == 10
        low = kept.filter(pl.col("copy") == "loser")
        assert (low["margin"] < 0).all()
        with pytest.raises(DataError, match="against the goal"):
            conditioning.require_goal_gaps(kept)

    def test_only_the_winners_copy(self):
        kept = relabel(self.FRAME, settings=Relabelling(copies="winner")).kept
        assert kept["copy"].to_list() == ["winner"] * 5
        assert all(text(row["chosen"]).startswith("w") for row in kept.to_dicts())

    def test_controls_hold_the_pairs_of_the_method(self):
        sets = [
            set(relabel(self.FRAME, settings=Relabelling(copies=c)).kept["pair_id"])
            for c in ("both", "winner", "no_swap")
        ]
        assert sets[0] == sets[1] == sets[2]

    def test_a_raw_gap_against_a_reversed_label_is_refused(self):
        kept = relabel(self.FRAME).kept
        conditioning.require_goal_gaps(kept)
        conditioning.require_goal_gaps(self.FRAME)
        raw = kept.with_columns(margin=pl.col("rated_chosen").list.first() - pl.col("rated_rejected").list.first())
        with pytest.raises(DataError, match=r"pair p.*margin -"):
            conditioning.require_goal_gaps(raw)


class TestOrder:
    FRAME = pairs([(10.0 - i % 5, 1.0 + i % 3) for i in range(40)])

    def test_the_copies_are_shuffled_together(self):
        copies = relabel(self.FRAME).kept["copy"].to_list()
        assert 10 < sum(a != b for a, b in pairwise(copies)) < 70

    def test_one_seed_one_order(self):
        one, again, other = (relabel(self.FRAME, settings=Relabelling(seed=s)).kept for s in (1, 1, 2))
        assert one.equals(again)
        assert rows_of(one) == rows_of(other)
        assert not one.equals(other)

    def test_rows_do_not_depend_on_shards_nor_on_the_order_of_the_pairs(self):  # invariant 13, defect 5
        whole = relabel(self.FRAME, settings=Relabelling(seed=3)).kept
        assert relabel(self.FRAME.reverse(), settings=Relabelling(seed=3)).kept.equals(whole)
        shards = [relabel(self.FRAME[k::8], settings=Relabelling(seed=3)).kept for k in range(8)]
        assert rows_of(pl.concat(shards)) == rows_of(whole)
        place = {key: k for k, key in enumerate(whole.select("pair_id", "copy").rows())}
        for shard in shards:
            places = [place[key] for key in shard.select("pair_id", "copy").rows()]
            assert places == sorted(places)

    def test_conditioned_pairs_can_be_routed(self):
        kept = relabel(self.FRAME.head(20), settings=Relabelling(seed=3)).kept
        split = route(kept, Routing(share=0.2, order="easy_first"))
        assert split.kept.height == 2 * kept["pair_id"].n_unique()
        assert (split.kept["margin"].diff().drop_nulls() <= 0).all()
        assert goal_of(split.kept["prompt"][0].to_list()) is not None

    def test_two_pairs_of_one_prompt_stay_two_pairs(self):
        frame = self.FRAME.head(2).with_columns(prompt_id=pl.lit("same"))
        kept = relabel(frame).kept
        assert kept["pair_id"].n_unique() == 2
        with pytest.raises(DataError, match="stands twice"):
            relabel(frame.with_columns(pair_id=pl.lit("x")))

    def test_parts_share_no_prompt_and_no_pair(self):  # invariant 9
        prompts = [said(f"Q{i // 2}", "user") for i in range(40)]  # each prompt under two ids
        frame = self.FRAME.with_columns(prompt=pl.Series(prompts, dtype=MESSAGES))
        train, test = hold_out(frame, share=0.3, seed=1)
        assert train.height + test.height == 40 and 2 <= test.height <= 24
        asked = [{text(prompt) for prompt in part["prompt"].to_list()} for part in (train, test)]
        assert not asked[0] & asked[1]
        copies = [set(relabel(part).kept["pair_id"]) for part in (train, test)]
        assert not copies[0] & copies[1]
        assert [hold_out(frame, share=s, seed=1)[1].height for s in (0.0, 1.0)] == [0, 40]
        assert not hold_out(frame, share=0.3, seed=2)[1].equals(test)


def rendered(messages) -> str:
    return "".join(f"<{turn['role']}>{turn['content']}" for turn in messages)


class TestTruncation:
    FRAME = pairs(
        [(9.0, 3.0), (8.0, 2.0)],
        prompt=[[*said("Old.", "user"), *said("Yes."), *said("Q0", "user")], said("long " * 200, "user")],
    )

    @PLACES
    def test_keeping_the_start_keeps_the_tag(self, place):
        kept, dropped = relabel(self.FRAME, Tag(place=place), visible=lambda m: rendered(m)[:120])
        assert (kept.height, dropped.height) == (4, 0)

    @PLACES
    def test_keeping_the_end_loses_it_and_both_copies_go(self, place):
        kept, dropped = relabel(self.FRAME, Tag(place=place), visible=lambda m: rendered(m)[-150:])
        assert set(kept["prompt_id"]) == {"p0"}
        assert dropped.select("prompt_id", "reason").rows() == [("p1", "tag_cut")]

    def test_a_long_system_message_does_not_push_the_tag_out(self):
        frame = self.FRAME.head(1).with_columns(
            prompt=pl.Series([[*said("rules " * 100, "system"), *said("Q", "user")]], dtype=MESSAGES)
        )
        assert relabel(frame, Tag(place="system"), visible=lambda m: rendered(m)[:150]).kept.height == 2
        assert relabel(frame, Tag(place="user"), visible=lambda m: rendered(m)[:150]).dropped["reason"].to_list() == [
            "tag_cut"
        ]

    def test_a_template_that_leaves_out_the_system_message_is_seen(self):
        def no_system(messages):
            return rendered([turn for turn in messages if turn["role"] != "system"])

        assert (
            relabel(self.FRAME, Tag(place="system"), visible=no_system).dropped["reason"].to_list() == ["tag_cut"] * 2
        )
        assert relabel(self.FRAME, Tag(place="user"), visible=no_system).kept.height == 4

    def test_a_template_that_writes_the_prompt_twice_is_seen(self):
        split = relabel(self.FRAME, SHORT, visible=lambda m: rendered(m) * 2)
        assert split.dropped["reason"].to_list() == ["tag_cut"] * 2

    def test_one_cut_tag_is_enough(self):
        frame = pairs([(8.5, 3.0)])
        width = len(rendered(with_goal(said("", "user"), 3, SHORT))) - 1
        assert relabel(frame, SHORT, visible=lambda m: rendered(m)[:width]).dropped["reason"].to_list() == ["tag_cut"]


class TestEvaluation:
    PROMPTS = pl.DataFrame(
        {"prompt_id": ["a", "b"], "prompt": [said("Q", "user"), said("[score 7] R", "user")]},
        schema_overrides={"prompt": MESSAGES},
    )

    def test_high_low_and_no_goal_for_every_prompt(self):
        kept, dropped = evaluation_prompts(self.PROMPTS)
        assert kept.group_by("prompt_id").len()["len"].to_list() == [3, 3]
        by_level = {row["level"]: row for row in kept.filter(pl.col("prompt_id") == "a").to_dicts()}
        assert [by_level[level]["goal"] for level in ("high", "low", "none")] == [[10], [1], None]
        assert by_level["none"]["prompt"] == said("Q", "user")
        for level, goal in (("high", 10), ("low", 1)):
            assert by_level[level]["prompt"] == with_goal(said("Q", "user"), goal)
        assert dropped.height == 0

    def test_training_and_generation_say_the_same_words(self):
        kept = relabel(pairs([(10.0, 3.0)])).kept.filter(pl.col("copy") == "winner")
        asked = evaluation_prompts(pairs([(10.0, 3.0)]).select("prompt_id", "prompt")).kept
        assert kept["prompt"].to_list() == asked.filter(pl.col("level") == "high")["prompt"].to_list()

    def test_a_prompt_that_speaks_like_a_tag_is_counted(self):
        kept, dropped = evaluation_prompts(self.PROMPTS, SHORT, high=9, low=2)
        assert set(kept["prompt_id"]) == {"a"}
        assert dropped.select("prompt_id", "reason").rows() == [("b", "prompt_has_tag")]
        assert kept.filter(pl.col("level") == "high")["goal"].to_list() == [[9]]

    def test_the_best_goal_is_one_that_training_has_seen(self):
        kept = relabel(pairs([(10.0, 3.0), (9.0, 2.0), (9.0, 4.0)])).kept
        assert best_goal(kept) == (10,)
        assert best_goal(kept, min_count=2) == (9,)
        with pytest.raises(DataError, match="no goal has 3"):
            best_goal(kept, min_count=3)
        assert record(relabel(pairs([(10.0, 3.0), (9.0, 2.0)])))["top"] == 1

    def test_the_best_goal_of_several_attributes_is_an_observed_vector(self):
        frame = pairs(
            [(0.0, 0.0)],
            helpfulness_chosen=[10.0],
            helpfulness_rejected=[4.0],
            honesty_chosen=[5.0],
            honesty_rejected=[10.0],
        )
        kept = relabel(frame, TWO).kept
        assert best_goal(kept, TWO) == (10, 5)
        heavy = Tag(attributes=TWO.attributes, weights=(1.0, 2.0))
        assert best_goal(kept, heavy) == (4, 10)


class TestBins:
    def test_bins_are_fitted_once_and_hold_equal_shares(self):
        score = np.random.default_rng(0).normal(size=1000)
        edges = conditioning.fit_bins(score)
        binned = conditioning.apply_bins(score, edges)
        assert np.bincount(binned.astype(int)).tolist() == [0] + [100] * 10
        assert conditioning.apply_bins(np.array([-99.0, 99.0, math.nan]), edges).tolist()[:2] == [1, 10]
        assert conditioning.apply_bins(np.array([0.9, 1.0]), np.array([1.0])).tolist() == [
            1,
            2,
        ]  # an edge is the bin above
        assert math.isnan(conditioning.apply_bins(np.array([math.nan]), edges)[0])
        assert (np.diff(binned[np.argsort(score)]) >= 0).all()


class TestWhatTheLossSees:
    def test_a_policy_blind_to_the_tag_has_no_gradient_at_the_reference(self):  # invariant 6
        def total(m):
            """Loss of both copies of a pair whose margin the tag does not change."""
            kept = relabel(pairs([(9.0, 3.0)])).kept
            sign = np.array([1.0 if text(row["chosen"]) == "w0" else -1.0 for row in kept.to_dicts()])
            return dpo(PairTerms(chosen=sign * m, rejected=np.zeros(2)), beta=1.0).sum()

        assert total(0.0) == pytest.approx(2 * math.log(2))
        for m in (-2.0, 0.0, 0.5, 3.0):
            assert total(m) >= 2 * math.log(2) - 1e-12
            assert (total(m + 1e-5) - total(m - 1e-5)) / 2e-5 == pytest.approx(math.tanh(m / 2), abs=1e-8)

    def test_smoothed_copies_have_their_minimum_where_the_recipe_says(self):  # invariant 14
        grid = np.linspace(-3, 3, 60_001)
        loss = cdpo(PairTerms(chosen=grid, rejected=np.zeros_like(grid)), beta=1.0, flip=0.3)
        assert grid[np.argmin(loss)] == pytest.approx(math.log(7 / 3), abs=1e-4)
        plain = PairTerms(chosen=grid, rejected=np.zeros_like(grid))
        assert np.allclose(cdpo(plain, beta=1.0, flip=0.0), dpo(plain, beta=1.0))
