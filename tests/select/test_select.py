"""Selection: invariants of the ranking, and the faults of published scripts that must not come back."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from pools import pool

from pairwright.core import margins as core
from pairwright.errors import ConfigError, DataError, NotIdentifiable
from pairwright.select.run import Selected, Selection, compare, select

BOTH = ["external", "implicit"]


def pairs_of(**numbers: Any) -> pl.DataFrame:
    n = len(next(iter(numbers.values())))
    return pl.DataFrame({"pair_id": [f"{i:05d}" for i in range(n)], **numbers}, strict=False)


def run(pairs: pl.DataFrame, **settings: Any) -> Selected:
    return select(pairs, Selection(**{"margins": BOTH, **settings}))


def kept(done: Selected) -> list[str]:
    """In the order of rank."""
    return done.table.filter("kept").sort("rank")[done.table.columns[0]].to_list()


def world(n: int = 5000, seed: int = 0, noise: float = 1.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    t = rng.normal(0.8, 1.5, n)
    return pairs_of(margin=5 * (t + rng.normal(0, noise, n)), margin_implicit=8 * (t + rng.normal(0, noise, n)))


def test_the_score_is_the_fused_log_odds_of_the_published_bounds() -> None:
    pairs = world(noise=3.0)
    done = run(pairs, keep=0.1)
    ex, im = pairs["margin"].to_numpy(), pairs["margin_implicit"].to_numpy()
    p = [core.clipped_linear(m, -2, core.upper_bound(m, divisor=d)) for m, d in ((ex, 1.5), (im, 2.0))]
    q = [np.clip(x, 1e-6, 1 - 1e-6) for x in p]
    logits = sum(np.log(x) - np.log(1 - x) for x in q)
    assert done.table["fused_score"].to_numpy() == pytest.approx(logits)
    clash = ((p[0] == 1) & (p[1] == 0)) | ((p[1] == 1) & (p[0] == 0))
    assert done.facts["conflicts"] == clash.sum() > 0
    order = np.lexsort((pairs["pair_id"].to_numpy().astype(str), -(ex + im), -logits, clash))
    assert kept(done) == pairs["pair_id"].to_numpy()[order][:500].tolist()


def test_as_many_as_asked_or_all_that_can_be_ranked() -> None:
    pairs = pairs_of(margin=[1.0, 2.0, None, float("nan"), 30.0], margin_implicit=[1.0, 2.0, 3.0, 4.0, float("inf")])
    by_hand = {"bounds": {"external": (-2, 18), "implicit": (-2, 18)}}
    assert kept(run(pairs, keep=1.0, scoring=by_hand)) == ["00001", "00000"]
    assert kept(run(pairs, keep=99, scoring=by_hand)) == ["00001", "00000"]
    assert kept(run(pairs, keep=0, scoring=by_hand)) == []
    done = run(pairs, keep=1.0, scoring=by_hand)
    assert done.facts["reasons"] == {"kept": 2, "margin_missing": 2, "margin_implicit_missing": 1}


def test_no_contradiction_is_kept_while_an_agreeing_pair_is_left_out() -> None:
    rng = np.random.default_rng(0)
    m = rng.uniform(-1.9, 17, (2, 400))
    m[:, :40] = [[40.0], [-9.0]]  # the first source is sure of 40 pairs that the second rejects
    done = run(pairs_of(margin=m[0], margin_implicit=m[1]), keep=200)
    clash = done.table.filter("conflict")
    assert clash.height >= 40
    assert not clash["kept"].any()
    assert done.facts["reasons"]["conflict"] == clash.height
    # the script that this is about: 0/0 is nan, nan sorts last, and "the last k" takes the contradictions first
    p = [core.clipped_linear(x, -2, core.upper_bound(x, divisor=1.5)) for x in m]
    with np.errstate(invalid="ignore"):
        product = p[0] * p[1] / (p[0] * p[1] + (1 - p[0]) * (1 - p[1]))
    naive = np.argsort(product)[-20:]
    assert np.isnan(product[naive]).all()


def test_conflicts_by_hand_last_or_half() -> None:
    scoring = {"bounds": {"external": (-2, 18), "implicit": (-2, 18)}}
    pairs = pairs_of(margin=[30.0, 1.0], margin_implicit=[-5.0, 1.0])
    last, half = (run(pairs, keep=1.0, scoring={**scoring, "conflict": each}) for each in ("last", "half"))
    assert kept(last) == ["00001", "00000"]
    assert kept(half) == ["00000", "00001"]
    assert half.table["fused_score"].to_list() == pytest.approx([0, 2 * np.log(0.15 / 0.85)])
    assert half.facts["conflicts"] == 1


def test_ties_at_saturation_go_to_the_unclipped_sum() -> None:
    scoring = {"bounds": {"external": (-2, 10), "implicit": (-2, 10)}}
    pairs = pairs_of(margin=[11.0, 50.0, 20.0], margin_implicit=[11.0, 50.0, 20.0])
    assert kept(run(pairs, keep=1.0, scoring=scoring)) == ["00001", "00002", "00000"]


def test_a_saturated_source_that_outvotes_another_is_counted() -> None:
    scoring = {"bounds": {"external": (-2, 10), "implicit": (-2, 10)}}
    pairs = pairs_of(margin=[50.0, 9.0], margin_implicit=[-1.0, 9.0])
    done = run(pairs, keep=0.5, scoring=scoring)
    assert kept(done) == ["00000"]  # p = 1 rules
    assert done.facts["near_conflicts_kept"] == 1


def test_swapped_labels_reverse_the_sum_and_not_the_product() -> None:
    pairs = world(800)
    turned = pairs.with_columns(-pl.col("margin"), -pl.col("margin_implicit"))
    for combine, reverses in (("add", True), ("bayes", False)):
        one, two = (run(each, keep=1.0, combine=combine) for each in (pairs, turned))
        assert (kept(one) == kept(two)[::-1]) is reverses


def test_scaling_all_margins_changes_the_ranking_and_small_ones_are_warned_of() -> None:
    pairs = world(4000)
    small = pairs.with_columns(pl.col("margin") / 20, pl.col("margin_implicit") / 32)
    one, two = run(pairs, keep=0.05), run(small, keep=0.05)
    assert not any("are small" in line for line in one.facts["warnings"])
    assert sum("are small" in line for line in two.facts["warnings"]) == 2
    flat = two.table.filter(pl.col("margin") >= 0)["p_external"]
    assert flat.min() > 0.3
    mended = run(small, keep=0.05, scoring={"rescale": "iqr"})
    assert not any("are small" in line for line in mended.facts["warnings"])
    again = run(pairs, keep=0.05, scoring={"rescale": "iqr"})
    assert kept(mended) == kept(again)  # of any unit


def test_the_score_of_a_margin_of_zero_is_told() -> None:
    done = run(world(), keep=0.1)
    told = done.facts["sources"]["external"]
    assert told["score_of_zero"] == pytest.approx(2 / (told["high"] + 2))
    assert "fused_score" in done.table.columns
    assert not [name for name in done.table.columns if "prob" in name]


def test_the_search_starts_lower_for_an_implicit_source() -> None:
    pairs = pairs_of(margin=[1.0] * 19 + [30.0], margin_implicit=[1.0] * 19 + [30.0])  # too few to move on
    told = run(pairs, keep=0.5).facts["sources"]
    assert (told["external"]["high"], told["implicit"]["high"]) == (20, 15)
    told = run(pairs, keep=0.5, scoring={"divisors": {"implicit": 3.0}}).facts["sources"]
    assert told["implicit"]["high"] == 10


def test_seed_pairs_are_not_ranked_unless_the_recipe_says_so() -> None:
    pairs = world(500)
    seed = np.arange(500) < 50
    leaked = pairs.with_columns(
        seed_pair=pl.Series(seed), margin_implicit=pl.when(pl.Series(seed)).then(500.0).otherwise("margin_implicit")
    )
    done = run(leaked, keep=0.1)
    assert not done.table.filter("seed_pair")["kept"].any()
    assert done.facts["reasons"]["seed_pair"] == 50
    rest = run(leaked.filter(~pl.col("seed_pair")), keep=50)
    assert kept(done) == kept(rest)  # not even their margins move a bound
    told = run(leaked, keep=0.1, limits={"include_seed": True})
    assert told.table.filter("seed_pair")["kept"].any()
    assert any("look better" in line for line in told.facts["warnings"])
    assert (
        run(leaked, margins=["external"]).facts["reasons"].get("seed_pair") is None
    )  # no model was trained for that one


def test_seed_pairs_that_another_model_scored_are_ranked() -> None:
    pairs = world(200).with_columns(
        seed_pair=pl.int_range(pl.len()) < 100, scored_by=pl.when(pl.int_range(pl.len()) >= 50).then(pl.lit("0-1"))
    )
    done = run(pairs, keep=1.0)
    assert done.facts["reasons"] == {"kept": 150, "seed_pair": 50}


def test_a_source_given_twice_counts_twice_and_is_warned_of() -> None:
    pairs = world(3000).with_columns(margin_copy=pl.col("margin"))
    two, three = run(pairs), run(pairs, margins=[*BOTH, "copy"])
    assert two.facts["kept"] == three.facts["kept"]
    assert set(kept(two)) != set(kept(three))
    odds = three.table["fused_score"] - two.table["fused_score"]
    once = core.log_odds(three.table["p_copy"].to_numpy())
    assert odds.to_numpy() == pytest.approx(once)
    assert any("counts one opinion twice" in line for line in three.facts["warnings"])
    assert not any("twice" in line for line in two.facts["warnings"])


def test_tables_are_joined_by_id_and_never_by_row() -> None:
    """Two lists of scores, one row missing in the second: cut to the shorter one they would be shifted silently."""
    pairs = world(100)
    external, implicit = (
        pairs.select("pair_id", "margin"),
        pairs.select("pair_id", "margin_implicit")[1:].sample(fraction=1.0, shuffle=True, seed=1),
    )
    joined = external.join(implicit, on="pair_id", how="left")
    done = run(joined, keep=0.2)
    assert done.facts["reasons"]["margin_implicit_missing"] == 1
    whole = run(pairs[1:], keep=20)
    assert set(kept(done)) == set(kept(whole))


def test_margins_that_are_all_too_low_are_an_error() -> None:
    with pytest.raises(DataError, match="degenerate_bounds"):
        run(pairs_of(margin=[-3.0, -4.0], margin_implicit=[1.0, 1.0]))
    with pytest.raises(DataError, match="nothing to rank"):
        run(pairs_of(margin=[None, 1.0], margin_implicit=[1.0, None]))
    with pytest.raises(DataError, match="no pairs"):
        run(world()[:0])
    assert any("below 30" in line for line in run(world(20)).facts["warnings"])


@pytest.mark.parametrize("combine", ["bayes", "add", "min", "max", "mean", "min_rank"])
@pytest.mark.parametrize("kind", ["clipped", "sigmoid", "rank"])
def test_every_way_of_scoring_and_combining_prefers_right_labels(combine: str, kind: str) -> None:
    rng = np.random.default_rng(5)
    t = rng.normal(0, 1, 6000)
    label = np.where(t + rng.normal(0, 1, 6000) > 0, 1, -1)  # about a quarter is wrong
    pairs = pairs_of(
        margin=5 * (label * t + rng.normal(0, 1, 6000)), margin_implicit=8 * (label * t + rng.normal(0, 1, 6000))
    )
    done = run(pairs, keep=0.1, combine=combine, scoring={"kind": kind})
    right = (label * t > 0)[done.table["kept"].to_numpy()].mean()
    assert right > (label * t > 0).mean() + 0.15
    assert right > 0.9


def test_a_budget_is_a_share_of_all_pairs_or_a_count() -> None:
    pairs = world(1000)
    assert run(pairs, keep=0.25).facts["kept"] == 250
    assert run(pairs, keep=17).facts["kept"] == 17
    assert run(pairs, keep=1).facts["kept"] == 1000
    for wrong in (-0.1, 2.5, float("nan")):
        with pytest.raises(ConfigError, match="keep"):
            Selection(keep=wrong)


def test_unknown_keys_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"limits: unknown per_promt; known: .*per_prompt"):
        Selection(limits={"per_promt": 1})
    with pytest.raises(ConfigError, match="known: bayes"):
        Selection(combine="product")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown rule 'best'; known: margins"):
        run(world(50), rule="best")
    with pytest.raises(ConfigError, match=r"scoring: .*eps"):
        Selection(scoring={"eps": "small"})


def test_caps_hold_per_prompt_source_and_group() -> None:
    pairs = pool(600, per_prompt=5).with_columns(near_group=pl.int_range(pl.len()) // 7)
    done = select(pairs, Selection(keep=0.3, limits={"per_prompt": 2, "per_source": 50, "per_group": 3}))
    took = done.table.filter("kept")
    assert took["prompt_id"].value_counts()["count"].max() == 2
    assert took["source"].value_counts()["count"].max() <= 50
    assert took["near_group"].value_counts()["count"].max() <= 3
    assert {"prompt_cap", "near_duplicate_cap"} <= set(done.facts["reasons"])
    assert took.height == 180


def test_proportional_sources_keep_the_same_share_of_each_and_stay_nested() -> None:
    pairs = pool(800, missing=0).with_columns(source=pl.Series(["big"] * 600 + ["small"] * 200))
    pairs = pairs.with_columns(margin=pl.col("margin") + pl.when(pl.col("source") == "small").then(500).otherwise(0))
    sets = []
    for keep in (0.1, 0.2, 0.5):
        took = select(pairs, Selection(keep=keep, limits={"per_source": "proportional"})).table.filter("kept")
        counts = dict(took["source"].value_counts().iter_rows())
        assert counts == {"big": pytest.approx(600 * keep, abs=1), "small": pytest.approx(200 * keep, abs=1)}
        sets.append(set(took["chosen_id"]))
    assert sets[0] < sets[1] < sets[2]


def test_a_band_is_a_limit_on_any_rule() -> None:
    pairs = pool(500, missing=0)
    done = select(pairs, Selection(keep=1.0, limits={"bands": {"irm": (0.25, 0.75)}}))
    inside = done.table.filter("kept")["irm"].sort()
    assert inside.len() == 250
    assert done.facts["reasons"]["outside_band_irm"] == 250
    assert done.facts["bands"]["irm"]["low"] == inside[0]
    floor = select(pairs, Selection(keep=1.0, limits={"bands": {"irm": (0.45, 0.55)}, "floor": 0.4}))
    assert floor.facts["kept"] == 200
    assert floor.facts["bands"]["irm"]["used"] == pytest.approx([0.3, 0.7], abs=0.01)
    with pytest.raises(ConfigError, match="low below high"):
        select(pairs, Selection(limits={"bands": {"irm": (0.7, 0.2)}}))


def test_controls_keep_the_prompts_where_asked() -> None:
    pairs = pool(600, per_prompt=6)
    done = select(pairs, Selection(keep=0.2, controls={"n": 4, "same_prompts": True}))
    per = done.table.filter("kept")["prompt_id"].value_counts().sort("prompt_id")
    assert done.controls["seed"].unique().to_list() == [0, 1, 2, 3]
    for seed in range(4):
        mine = done.controls.filter(pl.col("seed") == seed)["prompt_id"].value_counts().sort("prompt_id")
        assert mine.equals(per)
    first, second = (set(done.controls.filter(pl.col("seed") == s)["chosen_id"]) for s in (0, 1))
    assert first != second


def test_random_subsets_overlap_as_chance_says() -> None:
    done = run(world(8000), keep=0.25, controls={"n": 20})
    told = done.facts["control"]
    assert told["chance"] == 0.25
    assert told["overlap"] == pytest.approx(0.25, abs=5 * told["chance_sd"] / 20**0.5)


def test_the_rule_random_is_not_its_own_control() -> None:
    done = run(world(4000), rule="random", keep=0.1)
    assert done.facts["control"]["overlap"] < 0.2


def test_wrong_labels_are_estimated_where_three_opinions_are_independent() -> None:
    rng = np.random.default_rng(2)
    n = 40_000
    wrong = rng.random(n) < 0.2  # of the labels
    sources = {}
    for name, error in (("margin", 0.1), ("margin_implicit", 0.3), ("margin_judge", 0.25)):
        size = rng.uniform(0.5, 20, n)
        sources[name] = size * np.where(wrong ^ (rng.random(n) < error), -1, 1)
    done = run(pairs_of(**sources), margins=["judge"], keep=0.2)
    told = done.facts["labels"]
    assert told["pool"] == pytest.approx(0.2, abs=0.02)
    real = wrong[done.table["kept"].to_numpy()].mean()
    assert real < 0.12
    assert set(told["kept"]) == {"external", "implicit"}
    assert told["kept"]["external"]["rate"] == pytest.approx(real, abs=0.03)


def test_labels_made_from_the_scores_cannot_be_checked_by_them() -> None:
    pairs = world(300).with_columns(pl.col("margin").abs())
    told = run(pairs).facts["labels"]
    assert told["pool"] is None
    assert "contradicts none" in told["why"]
    assert "one source or none" in run(pairs.drop("margin_implicit"), margins=["external"]).facts["labels"]["why"]


def test_a_source_that_grows_with_length_is_seen() -> None:
    rng = np.random.default_rng(4)
    lengths = rng.integers(10, 500, (2, 3000))
    gap = lengths[0] - lengths[1]
    pairs = pairs_of(
        margin=rng.normal(2, 5, 3000), margin_implicit=0.05 * gap + rng.normal(0, 2, 3000),
        n_tokens_chosen=lengths[0], n_tokens_rejected=lengths[1],
    )  # fmt: skip
    done = run(pairs, margins=["implicit"], keep=0.1)
    assert done.facts["score_and_length"]["spearman"] > 0.8
    assert done.facts["independence"]["length"]["implicit"] > 0.8
    assert abs(done.facts["independence"]["length"]["external"]) < 0.1
    sets = done.facts["sets"]
    assert sets["kept"]["length"]["chosen_longer"] > 0.95 > 0.6 > sets["pool"]["length"]["chosen_longer"]
    assert done.facts["control"]["mean"]["length"]["chosen_longer"] == pytest.approx(0.5, abs=0.1)


def test_junk_minima_that_pile_up_are_warned_of() -> None:
    pairs = world(1000).with_columns(hit_extreme=pl.col("margin") > 8)
    done = run(pairs, keep=0.1)
    assert done.facts["sets"]["kept"]["rejected_is_lowest"] > done.facts["sets"]["pool"]["rejected_is_lowest"] + 0.1
    assert any("junk at the bottom" in line for line in done.facts["warnings"])
    even = run(world(1000).with_columns(hit_extreme=pl.int_range(pl.len()) % 2 == 0), keep=0.1)
    assert not any("junk" in line for line in even.facts["warnings"])


def test_all_rules_in_one_table() -> None:
    told = compare(pool(400), Selection(margins=BOTH, keep=0.2))
    names = told["names"]
    assert {"margins: external", "margins: bayes", "margins: add", "selective", "tif", "random"} <= set(names)
    assert "warm_up" in told["refused"]["perpcorrect"]
    matrix = np.array(told["overlap"])
    assert (np.diag(matrix) == 1).all()
    assert (matrix == matrix.T).all()
    line = next(each for each in told["rules"] if each["rule"] == "random")
    assert line["kept"] == 80
    assert line["chance"] == 0.2
    low, high = names.index("lowest"), names.index("margins: external")
    assert matrix[low][high] == 0
    assert told["beyond_chance"][low][high] < 0


def test_an_earlier_selection_is_not_selected_from() -> None:
    done = run(world(50))
    with pytest.raises(DataError, match="fused_score, rank, kept, reason already"):
        run(done.table)


def test_ids_are_needed_and_never_null() -> None:
    with pytest.raises(DataError, match="they need pair_id, or prompt_id"):
        run(world(5).drop("pair_id"))
    with pytest.raises(DataError, match="row 2: pair_id is null"):
        run(world(5).with_columns(pair_id=pl.Series(["a", "b", None, "c", "d"])))


def test_large_pools_are_described_by_a_sample_and_ranked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from pairwright.select import facts

    whole = run(world(6000), keep=0.1)
    monkeypatch.setattr(facts, "MOST", 2000)
    part = run(world(6000), keep=0.1)
    assert part.table.equals(whole.table)
    assert 1800 < part.facts["described_by"] < 2200
    mean = [done.facts["sets"]["kept"]["margins"]["external"]["mean"] for done in (whole, part)]
    assert mean[0] == pytest.approx(mean[1], rel=0.1)


def planted(n: int = 40_000, seed: int = 2) -> tuple[pl.DataFrame, np.ndarray]:
    """A rater and a model that err independently of labels of which a fifth is wrong; the model's margin in two forms."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.2
    external, implicit = (
        rng.uniform(0.5, 20, n) * np.where(wrong ^ (rng.random(n) < error), -1, 1) for error in (0.1, 0.3)
    )
    per_token = implicit / rng.uniform(20, 40, n)
    return pairs_of(margin=external, margin_implicit=implicit, margin_per_token=per_token), wrong


def test_two_forms_of_one_margin_are_one_voice() -> None:
    pairs, _ = planted()
    told = run(pairs, keep=0.2).facts
    assert told["labels"]["pool"] is None or told["labels"]["pool"] == pytest.approx(0.2, abs=0.02)
    assert set(told["labels"].get("against", {})) <= {"external", "implicit"}
    alone = run(pairs.drop("margin"), margins=["implicit"], keep=0.2).facts["labels"]
    assert alone["pool"] is None
    assert "one source or none" in alone["why"]
    renamed = pairs.rename({"margin_per_token": "implicit_per_token"})
    for each in (pairs, renamed):
        names = compare(each, Selection(margins=["external"], keep=0.2))["names"]
        assert {"margins: external", "margins: implicit"} <= set(names)
        assert not [name for name in names if "per_token" in name]
    with pytest.raises(NotIdentifiable, match="ensemble of 1"):
        run(pairs, margins=["external"], rule="ensemble")
    with pytest.raises(NotIdentifiable, match="ensemble of 1"):
        run(renamed, margins=["implicit", "implicit_per_token"], rule="ensemble")
    twice = run(renamed, margins=["implicit", "implicit_per_token"], scoring={"kind": "rank"})
    assert any("one model's margin in two forms" in line for line in twice.facts["warnings"])


@pytest.mark.parametrize(
    ("settings", "judges"),
    [
        ({"rule": "ensemble", "margins": ["external", "judge"]}, {"implicit"}),
        ({"rule": "selective"}, {"external", "judge"}),
        ({"rule": "random"}, {"external", "implicit", "judge"}),
        ({"margins": ["external"], "limits": {"bands": {"margin_implicit": (0.5, 1.0)}}}, {"judge"}),
        ({"rule": "lowest", "options": {"column": "margin_judge"}}, {"external", "implicit"}),
    ],
)
def test_only_a_source_that_had_no_say_judges_what_was_kept(settings: dict[str, Any], judges: set[str]) -> None:
    pairs, _ = planted()
    rng = np.random.default_rng(9)
    judge = rng.uniform(0.5, 20, pairs.height) * np.where(rng.random(pairs.height) < 0.3, -1, 1)
    pairs = pairs.with_columns(
        margin_judge=pl.col("margin").sign() * judge, loss_cross=(-0.1 * pl.col("margin_implicit")).exp()
    )
    told = run(pairs, keep=0.2, **settings).facts["labels"]
    assert set(told["kept"]) == judges


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "length_matched", "options": {"match": 1.0}},
        {"rule": "rs_dpo"},
        {"rule": "length_balanced"},
        {"rule": "lowest_gap", "margins": ["external"], "options": {"column": "margin_implicit"}},
        {"margins": ["external"], "limits": {"bands": {"margin_implicit": (0.1, 0.9)}}},
        {"rule": "random", "limits": {"bands": {"irm": (0.1, 0.9)}}},
    ],
)
def test_no_rule_ranks_seed_pairs_by_the_model_that_learnt_from_them(settings: dict[str, Any]) -> None:
    pairs = pool(300, missing=0).with_columns(seed_pair=pl.int_range(pl.len()) < 60)
    done = select(pairs, Selection(**{"margins": ["implicit"], "keep": 1.0, **settings}))
    assert done.facts["reasons"]["seed_pair"] == 60


@pytest.mark.parametrize(
    "settings",
    [
        {"margins": ["judge"]},
        {"margins": ["external", "judge"]},
        {"rule": "ensemble"},
        {"rule": "lowest", "margins": ["implicit"], "options": {"column": "margin_judge"}},
        {"rule": "tif", "options": {"column": "margin_judge"}},
    ],
)
def test_a_rater_ranks_seed_pairs_as_any_others(settings: dict[str, Any]) -> None:
    pairs = pool(300, missing=0).with_columns(seed_pair=pl.int_range(pl.len()) < 60)
    assert "seed_pair" not in select(pairs, Selection(keep=1.0, **settings)).facts["reasons"]


def test_marks_may_be_written_as_one_and_zero() -> None:
    pairs = world(100).with_columns(
        seed_pair=(pl.int_range(pl.len()) < 10).cast(pl.Int64), hit_extreme=pl.int_range(pl.len()) % 2
    )
    done = run(pairs, keep=1.0)
    assert done.facts["reasons"]["seed_pair"] == 10
    assert done.facts["sets"]["pool"]["rejected_is_lowest"] == 0.5
    with pytest.raises(DataError, match="not true or false, nor 1 or 0"):
        run(pairs.with_columns(seed_pair=2), keep=1.0)


def test_numbers_near_the_end_of_floats_count_as_missing() -> None:
    pairs = world(60).with_columns(margin=pl.when(pl.int_range(pl.len()) < 3).then(1e300).otherwise("margin"))
    for combine in ("bayes", "add", "min_rank"):
        done = run(pairs, combine=combine, scoring={"rescale": "sd"})
        assert done.facts["reasons"]["margin_missing"] == 3
    far = pairs.drop("margin").with_columns(
        score_chosen=pl.when(pl.int_range(pl.len()) == 0).then(1.7e308).otherwise(pl.int_range(pl.len())),
        score_rejected=pl.when(pl.int_range(pl.len()) == 0).then(-1.7e308).otherwise(0.0),
    )
    assert run(far, margins=["external"]).facts["reasons"]["margin_missing"] == 1
    with pytest.raises(DataError, match="nothing to rank"):
        run(pairs.with_columns(margin=1e300 * pl.int_range(1, pl.len() + 1)))
    flat = pairs_of(margin=[1e-320 * i for i in range(40)], margin_implicit=[float(i) for i in range(40)])
    with pytest.raises(DataError, match="next to nothing"):
        run(flat, scoring={"rescale": "iqr", "low": -1e-300})


def test_ids_beyond_64_bits_are_one_line() -> None:
    for kind, first in ((pl.UInt64, 2**63), (pl.Int128, 2**70)):
        pairs = world(5).with_columns(pair_id=pl.Series([first + i for i in range(5)], dtype=kind))
        with pytest.raises(DataError, match="write them as text"):
            run(pairs)
    small = world(5).with_columns(pair_id=pl.Series(range(5), dtype=pl.UInt64))
    assert run(small, scoring={"kind": "rank"}).facts["pairs"] == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": float("inf")}, "keep = inf"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**63 - 1}, "seed = 9223372036854775807"),
        ({"scoring": {"bounds": {"extrenal": (-2, 18)}}}, "extrenal, which is no source"),
        ({"scoring": {"divisors": {"implicit": 2.0}}}, "implicit, which is no source"),
        ({"scoring": {"scale": {"judge": 2.0}}}, "judge, which is no source"),
        ({"scoring": {"bounds": {"external": (-float("inf"), 18)}}}, "two finite margins"),
        ({"scoring": {"bounds": {"external": (-2, float("inf"))}}}, "two finite margins"),
        ({"scoring": {"scale": {"external": float("inf")}}}, "above 0 and finite"),
        ({"scoring": {"divisors": {"external": float("inf")}}}, "above 0 and finite"),
        ({"scoring": {"low": float("-inf")}}, "a finite number"),
        ({"limits": {"near": {"by": "minhash"}}}, "per_group, which is not set"),
        ({"options": {"lam": -1.0}}, "lam = -1"),
        ({"options": {"lam": float("nan")}}, "lam = nan"),
    ],
)
def test_settings_that_cannot_be_meant_or_would_do_nothing(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Selection(**settings)


def test_options_that_the_rule_does_not_read_and_ids_as_numbers_are_refused() -> None:
    pairs = pool(60, missing=0, whole=True)
    with pytest.raises(ConfigError, match=r"options\.eta does nothing with rule margins; it belongs to rs_dpo"):
        select(pairs, Selection(options={"eta": 0.9}))
    with pytest.raises(ConfigError, match=r"options\.column does nothing with rule random"):
        select(pairs, Selection(rule="random", options={"column": "margin"}))
    assert select(pairs, Selection(options={"eta": 0.9}), all_rules=True).facts["kept"]
    for settings in (
        {"margins": ["chosen_id"]},
        {"rule": "lowest", "options": {"column": "prompt_id"}},
        {"limits": {"bands": {"rejected_id": (0.1, 0.9)}}},
    ):
        with pytest.raises(ConfigError, match="is an id and says nothing"):
            select(pairs, Selection(**settings))


def test_scoring_by_source_is_compared_with_each_source_alone() -> None:
    settings = Selection(margins=BOTH, keep=0.2, scoring={"bounds": {"external": (-2, 18), "implicit": (-2, 30)}})
    told = compare(pool(200), settings)
    assert {"margins: external", "margins: implicit", "margins: judge"} <= set(told["names"])


def test_random_subsets_obey_the_caps_of_the_selection() -> None:
    pairs = pool(600, per_prompt=5, missing=0)
    done = select(pairs, Selection(keep=0.15, limits={"per_prompt": 1}))
    for (_,), part in done.controls.group_by("seed"):
        assert part["prompt_id"].n_unique() == part.height == 90
    assert done.facts["control"]["capped"] is True
    even = pairs.with_columns(source=pl.Series(["big"] * 500 + ["small"] * 100))
    shared = select(even, Selection(keep=0.2, limits={"per_source": "proportional"}))
    for (_,), part in shared.controls.join(even, on=["prompt_id", "chosen_id", "rejected_id"]).group_by("seed"):
        assert part["source"].value_counts().sort("source")["count"].to_list() == [100, 20]
    clash = select(pairs, Selection(keep=0.3, limits={"per_prompt": 2, "per_source": 45}))
    assert set(clash.controls.group_by("seed").len()["len"]) == {clash.facts["kept"]}
    assert select(pairs, Selection(keep=0.15)).facts["control"]["capped"] is False


def test_a_source_keeps_its_share_of_all_its_pairs_ranked_or_not() -> None:
    pairs = pool(1000, missing=0).with_columns(source=pl.Series(["big"] * 900 + ["small"] * 100))
    holed = pairs.with_columns(margin=pl.when(pl.int_range(pl.len()) >= 450).then("margin"))
    took = select(holed, Selection(keep=0.2, limits={"per_source": "proportional"})).table.filter("kept")
    assert dict(took["source"].value_counts().iter_rows()) == {"big": 180, "small": 20}


def test_a_budget_of_nothing_is_warned_of() -> None:
    assert any("nothing is kept" in line for line in run(world(50), keep=0).facts["warnings"])


def test_a_column_that_the_selection_makes_is_not_replaced_in_silence() -> None:
    for name in ("p_external", "conflict"):
        with pytest.raises(DataError, match=f"have {name} already"):
            run(world(50).with_columns(pl.lit(1.0).alias(name)))
    with pytest.raises(DataError, match="have weight already"):
        select(pool(50).with_columns(weight=7.0), Selection(rule="wpo"))
