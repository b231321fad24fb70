"""The pairing faults of the catalogue (shared/faults.md): what broken tools give, ours does not.

The catalogue's reason `tie` is our `zero_variance`; `fewer_than_two_scored` and `no_variety` are our `too_few`. Not here:
of F17 the short rating list (import), of F23 the audit finding, of F27 the n best
and the reference answer, of F28 the files (store and export), of F40 the counts per pair, of F41 the token count.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from pairwright.core import positions, segments
from pairwright.pair.build import Built, Pairing, build_pairs, keys, pick_pairs
from pairwright.pair.rules import Scene, parse_sides
from pairwright.score.combine import Reward, with_reward

NAN = float("nan")
RULES = (
    "min",
    "second",
    "rank(2)",
    "random",
    "min_of(2)",
    "mu-2sigma",
    "median-1mad",
    "quantile(0.1)",
    "threshold(0.1)",
)
Prompt = tuple[str, Sequence[str], Sequence[float | None]]


def frame_of(*prompts: Prompt, **columns: Sequence[object]) -> pl.DataFrame:
    flat = [
        (name, k, text, score)
        for name, texts, scores in prompts
        for k, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]
    names = {"prompt_id": pl.String, "response_id": pl.Int64, "response": pl.String, "score": pl.Float64}
    frame = pl.DataFrame(flat, schema=names, orient="row")
    return frame.with_columns(pl.Series(name, values) for name, values in columns.items())


def paired(frame: pl.DataFrame, **options: object) -> Built:
    """Best against worst unless the options say otherwise; checks what every fault demands."""
    built = build_pairs(frame, Pairing(**{"rejected": "min", **options}))
    assert frame["prompt_id"].n_unique() == built.pairs.height + len(ledger(built))
    assert built.stats["n"].sum() + len(set_aside(built)) == frame.height
    for name, chosen, rejected, high, low, margin in told(built, frame):
        assert chosen != rejected, name
        assert high > low
        assert margin == high - low
    return built


def told(built: Built, frame: pl.DataFrame) -> list[tuple[str, str, str, float, float, float]]:
    """(prompt, chosen text, rejected text, both scores, margin): texts are found by id, never by place."""
    text = {(name, k): said for name, k, said in frame.select("prompt_id", "response_id", "response").rows()}
    return [
        (
            pair["prompt_id"], text[pair["prompt_id"], pair["chosen_id"]], text[pair["prompt_id"], pair["rejected_id"]],
            pair["score_chosen"], pair["score_rejected"], pair["margin"],
        )
        for pair in built.pairs.rows(named=True)
    ]  # fmt: skip


def ledger(built: Built) -> dict[str, str]:
    lost = built.dropped.filter(pl.col("response_id").is_null())
    return dict(lost.select("prompt_id", "reason").rows())


def set_aside(built: Built) -> list[tuple[str, int, str]]:
    lost = built.dropped.filter(pl.col("response_id").is_not_null())
    return [(name, int(k), why) for name, k, why in lost.select("prompt_id", "response_id", "reason").rows()]


def test_f03_an_unreadable_judgement_is_not_the_worst_score():
    frame = frame_of(("p1", "abc", [7, None, 4]), reason=[None, "judge_unparsed", None])
    built = paired(frame, scale_min=1, scale_max=10)
    assert told(built, frame) == [("p1", "a", "c", 7, 4, 3)]
    assert set_aside(built) == [("p1", 1, "judge_unparsed")]


def test_f04_an_unreadable_judgement_is_not_an_average_score():
    frame = frame_of(("p1", "ab", [-0.2, None]), reason=[None, "judge_unparsed"])
    built = paired(frame, scale_min=-1, scale_max=1)
    assert built.pairs.is_empty()
    assert set_aside(built) == [("p1", 1, "judge_unparsed")]
    assert ledger(built) == {"p1": "too_few"}


def test_f07_several_judges_are_averaged_and_not_put_to_a_vote_of_places():
    said = {"J1": [9.0, 8.8, 2.0], "J2": [2.0, 8.8, 9.0], "J3": [5.0, 8.8, 5.5]}
    columns = {f"rater:{name}": scores for name, scores in said.items()}
    frame = frame_of(("p1", "ABC", [None] * 3), **columns).drop("score")
    frame = with_reward(frame, Reward(dict.fromkeys(said, 1.0), "mean"))
    assert frame["score"].to_list() == pytest.approx([5.3333, 8.8, 5.5], abs=1e-4)
    assert frame.select(columns.keys()).to_dict(as_series=False) == columns
    [pair] = told(paired(frame), frame)
    assert pair[1:3] == ("B", "A")
    assert pair[3:] == pytest.approx((8.8, 5.3333, 3.4667), abs=1e-4)


def test_f14_a_sentinel_outside_the_scale_takes_no_part():
    frame = frame_of(("p0", "abcd", [8, -1, 6, 7]), ("p1", "abcd", [-1, -1, 5, 9]), ("p2", "abcd", [7, 7, -1, -1]))
    built = paired(frame, scale_min=1, scale_max=10)
    assert told(built, frame) == [("p0", "a", "c", 8, 6, 2), ("p1", "d", "c", 9, 5, 4)]
    assert ledger(built) == {"p2": "zero_variance"}
    assert Counter(why for _, _, why in set_aside(built)) == {"outside_scale": 5}


def test_f14_a_reward_model_may_really_give_minus_one():
    frame = frame_of(("q0", "abc", [-1.0, -0.97, 0.3]))
    assert told(paired(frame), frame) == [("q0", "c", "a", 0.3, -1.0, 1.3)]


def test_f17_nan_and_null_are_missing_and_a_tie_for_best_falls_to_the_first():
    frame = frame_of(
        ("p0", "abc", [3, 3, 3]), ("p1", "abc", [NAN, 5, 1]), ("p2", "abc", [None, 4, 2]), ("p4", "abc", [7, 7, 3])
    )
    built = paired(frame)
    assert told(built, frame) == [("p1", "b", "c", 5, 1, 4), ("p2", "b", "c", 4, 2, 2), ("p4", "a", "c", 7, 3, 4)]
    assert ledger(built) == {"p0": "zero_variance"}
    assert set_aside(built) == [("p1", 0, "score_not_finite"), ("p2", 0, "score_missing")]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chosen", ["max", "mu+2sigma", "random", "rank(1)"])
def test_f21_a_tie_is_no_pair_under_any_rule(rule, chosen):
    frame = frame_of(("p0", "xyz", [7, 7, 7]), ("p1", "xy", [7, 6]))
    built = paired(frame, rejected=rule, chosen=chosen)  # checks that no pair has equal sides
    assert ledger(built)["p0"] == "zero_variance"
    assert {pair[:5] for pair in told(built, frame)} <= {("p1", "x", "y", 7, 6)}


def test_f21_best_against_worst_still_pairs_the_other_prompt():
    frame = frame_of(("p0", "xyz", [7, 7, 7]), ("p1", "xy", [7, 6]))
    assert told(paired(frame), frame) == [("p1", "x", "y", 7, 6, 1)]


@pytest.mark.parametrize("rule", RULES)
def test_f22_one_usable_candidate_is_never_both_sides(rule):
    built = paired(frame_of(("p0", ["only"], [4.0]), ("p1", "ab", [4.0, None])), rejected=rule)
    assert built.pairs.is_empty()
    assert ledger(built) == {"p0": "too_few", "p1": "too_few"}


def test_f23_the_same_text_scored_twice_has_one_score():
    frame = frame_of(("p0", "ABA", [9, 4, 2]), ("p1", "AA", [9, 2]))
    built = paired(frame)
    assert told(built, frame) == [("p0", "A", "B", 5.5, 4, 1.5)]
    assert ledger(built) == {"p1": "too_few"}
    assert built.stats["n"].to_list() == [3, 2]
    assert built.stats["n_distinct"].to_list() == [2, 1]


def test_f24_a_failed_row_does_not_shift_the_later_ones():
    frame = frame_of(*[(f"p{at}", [f"a{at}", f"b{at}"], [None, None] if at == 1 else [5, 1]) for at in range(4)])
    built = paired(frame)
    assert [pair[:3] for pair in told(built, frame)] == [("p0", "a0", "b0"), ("p2", "a2", "b2"), ("p3", "a3", "b3")]
    assert built.pairs["margin"].to_list() == [4, 4, 4]
    assert ledger(built) == {"p1": "too_few"}


def test_f25_one_score_decides_selection_label_and_margin():
    raw, penalty = [1.0, 0.9], [1.0, 0.1]
    penalised = [score - less for score, less in zip(raw, penalty, strict=True)]
    frame = frame_of(("p0", ["long", "short"], penalised), raw=raw)
    [(_, chosen, rejected, high, low, margin)] = told(paired(frame), frame)
    assert (chosen, rejected) == ("short", "long")
    assert (high, low, margin) == pytest.approx((0.8, 0.0, 0.8))


def test_f26_random_is_random_and_repeats():
    frame = frame_of(("p0", "wxyz", [3, 9, 1, 5]))
    others = frame_of(("o", "wxyz", [3, 9, 1, 5]), ("p0", "wxyz", [3, 9, 1, 5]), ("q", "xy", [1, 2]))
    whole = np.array([0, 4])
    candidates = positions.distinct(frame["score"].to_numpy(), whole)
    scene = Scene(candidates, positions.moments(candidates), whole, None, None, None, None)
    counts: Counter[int] = Counter()
    for seed in range(3000):
        draw_R = segments.draw(seed, keys(pl.Series(["p0"])), keys(frame["response_id"]), whole)
        pairing = Pairing(rejected="random", seed=seed)
        picks = pick_pairs(scene._replace(draw_R=draw_R, draw_C=draw_R), *parse_sides("max", "random"), pairing)
        assert picks.chosen_P.tolist() == [1]
        counts[picks.rejected_P.item()] += 1
        if seed % 60 == 0:  # the whole stage takes the same draw, again and beside other prompts
            pair = build_pairs(frame, pairing).pairs
            assert (pair["chosen_id"].item(), pair["rejected_id"].item()) == (1, picks.rejected_P.item())
            assert build_pairs(frame, pairing).pairs.equals(pair)
            assert build_pairs(others, pairing).pairs.filter(pl.col("prompt_id") == "p0").equals(pair)
    assert counts.keys() == {0, 2, 3}
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts.values())  # 4.6 standard errors, seeds fixed


def test_f27_two_responses_give_one_pair_and_never_one_response_on_both_sides():
    frame = frame_of(("p0", "ab", [0.2, 0.1]))
    assert told(paired(frame), frame) == [("p0", "a", "b", 0.2, 0.1, 0.1)]
    assert ledger(paired(frame, chosen="second", rejected="rank(-1)")) == {"p0": "coincide"}


@pytest.mark.skip(reason="F27: n best against one shared worst, and the reference answer, are not built")
def test_f27_the_reference_takes_part_only_on_request():
    raise NotImplementedError


def test_f28_scores_stay_with_the_pair_and_the_input_stays_as_it_was():
    frame = frame_of(("p0", "ab", [2, 1]))
    before = frame.clone()
    pair = paired(frame).pairs.row(0, named=True)
    assert (pair["prompt_id"], pair["score_chosen"], pair["score_rejected"], pair["margin"]) == ("p0", 2, 1, 1)
    assert frame.equals(before)


def test_f40_samples_all_alike_are_no_pair_and_copies_are_counted():
    frame = frame_of(("p0", "aaaa", [1, 1, 1, 1]), ("p1", "aaab", [2, 2, 2, 1]))
    built = paired(frame)
    assert told(built, frame) == [("p1", "a", "b", 2, 1, 1)]
    assert ledger(built) == {"p0": "too_few"}
    assert built.stats.select("n", "n_distinct").rows() == [(4, 1), (4, 2)]


def test_f41_an_unfinished_answer_does_not_win():
    frame = frame_of(("p0", ["cut of", "fine.", "bad."], [9, 7, 3]), finish_reason=["length", "stop", "stop"])
    built = paired(frame)
    assert told(built, frame) == [("p0", "fine.", "bad.", 7, 3, 4)]
    assert set_aside(built) == [("p0", 0, "unfinished")]
