"""What single rules promise: thresholds, refusals, mixtures, balance."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from pools import pool

from pairwright.errors import ConfigError, DataError, NotIdentifiable
from pairwright.select.run import Selected, Selection, select


def run(pairs: pl.DataFrame, rule: str, **settings: Any) -> Selected:
    return select(pairs, Selection(rule=rule, **settings))


def ids(done: Selected) -> set[str]:
    return set(done.table.filter("kept")["chosen_id"])


def candidate_pairs(prompts: int = 40, k: int = 6, seed: int = 0) -> pl.DataFrame:
    """All ordered pairs of k samples of each prompt, with signed reward gaps."""
    rng = np.random.default_rng(seed)
    rewards = np.round(rng.normal(0, 1.5, (prompts, k)), 1)
    rows = [
        (f"p{p}", f"p{p}-{i}", f"p{p}-{j}", rewards[p, i], rewards[p, j])
        for p in range(prompts)
        for i in range(k)
        for j in range(k)
        if i != j
    ]
    names = ["prompt_id", "chosen_id", "rejected_id", "score_chosen", "score_rejected"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_rs_dpo_at_one_half_keeps_each_untied_pair_once() -> None:
    pairs = candidate_pairs()
    free = {"limits": {"per_prompt": 10_000}}
    done = run(pairs, "rs_dpo", options={"eta": 0.5}, **free)
    sides = [tuple(sorted(row)) for row in done.table.filter("kept").select("chosen_id", "rejected_id").iter_rows()]
    untied = pairs.filter(pl.col("score_chosen") != pl.col("score_rejected")).height // 2
    assert len(sides) == len(set(sides)) == untied


def test_rs_dpo_keeps_less_as_eta_grows_and_sees_differences_only() -> None:
    pairs = candidate_pairs()
    sets = []
    for eta in (0.5, 0.6, 0.8, 0.95, 0.999):
        done = run(pairs, "rs_dpo", options={"eta": eta}, limits={"per_prompt": 10_000})
        sets.append(set(done.table.filter("kept").select(pl.concat_str("chosen_id", "rejected_id")).to_series()))
        assert done.facts["least_gap"] == pytest.approx(np.log(eta / (1 - eta)))
    assert sets[0] > sets[1] > sets[2] > sets[3] > sets[4]
    shift = 7.25 * (pl.col("prompt_id").str.slice(1).cast(pl.Float64) % 4)
    moved = pairs.with_columns(pl.col("score_chosen") + shift, pl.col("score_rejected") + shift)
    one, two = (run(each, "rs_dpo", options={"eta": 0.8}).table for each in (pairs, moved))
    assert one["kept"].equals(two["kept"])
    with pytest.raises(ConfigError, match="both orders"):
        Selection(options={"eta": 0.4})


def test_rs_dpo_is_capped_per_prompt_and_counts_prompts_without_a_pair() -> None:
    pairs = candidate_pairs()
    one = pl.when(pl.col("prompt_id") == "p3").then(1.0)
    flat = pairs.with_columns(one.otherwise(pl.col(name)).alias(name) for name in ("score_chosen", "score_rejected"))
    done = run(flat, "rs_dpo", options={"eta": 0.5})
    counts = done.table.filter("kept")["prompt_id"].value_counts()
    assert counts["count"].max() == 3
    assert done.facts["prompts_without_a_pair"] == 1
    assert done.facts["reasons"]["prompt_cap"] > 0
    top = done.table.filter(pl.col("prompt_id") == "p1").sort("rank", nulls_last=True)["kept"].to_list()
    assert top[:3] == [True] * 3


def test_fdpo_only_ever_removes() -> None:
    pairs = pool(400, missing=0)
    rng = np.random.default_rng(0)
    rounds = {f"reward_fresh_{k}": pl.Series(rng.normal(4 + k / 2, 2, 400)) for k in (2, 3, 4)}
    alive: list[set[str]] = []
    for k in range(4):
        done = run(pairs.with_columns(**dict(list(rounds.items())[:k])), "fdpo")
        alive.append(ids(done))
        assert list(done.facts["rounds"].values())[-1] == len(alive[-1])
    assert alive[0] > alive[1] > alive[2] > alive[3]
    for threshold, left in ((float("inf"), 400), (float("-inf"), 0)):
        assert run(pairs, "fdpo", options={"threshold": threshold}).facts["kept"] == left
    low = run(pairs, "fdpo", options={"threshold": -5.0})
    assert any("stop here" in line for line in low.facts["warnings"])


def test_perpcorrect_flags_what_was_flipped() -> None:
    rng = np.random.default_rng(1)
    flipped = rng.random(3000) < 0.25
    pairs = pool(3000, missing=0).with_columns(ppl_diff=pl.Series(np.where(flipped, 2, -2) + rng.normal(0, 0.7, 3000)))
    done = run(pairs, "perpcorrect", options={"warm_up": True})
    flagged = (done.table["reason"] == "label_suspect").to_numpy()
    assert (flagged == flipped).mean() > 0.99
    assert done.facts["right"] == pytest.approx(0.75, abs=0.03)
    assert done.facts["cut"] > 0
    assert "spearman_length_gap" in done.facts


def test_perpcorrect_refuses_without_a_clean_warm_up_and_flags_nothing_in_one_hump() -> None:
    pairs = pool(2000, missing=0)
    with pytest.raises(NotIdentifiable, match="known to be clean"):
        run(pairs, "perpcorrect")
    rng = np.random.default_rng(2)
    hump = pairs.with_columns(ppl_diff=pl.Series(rng.normal(-0.3, 1, 2000)))
    turned = pairs.with_columns(ppl_diff=-pl.col("ppl_diff"))  # most labels look flipped
    for each in (hump, turned):
        done = run(each, "perpcorrect", options={"warm_up": True})
        assert done.facts["flagged"] == 0
        assert done.facts["kept"] == 2000
        assert any("not separable" in line for line in done.facts["warnings"])


def test_the_middle_of_the_influence_and_both_ends_dropped() -> None:
    pairs = pool(500, missing=0)
    done = run(pairs, "tif")
    kept = done.table.filter("kept")["influence"]
    assert kept.len() == 400
    dropped = done.table.filter(~pl.col("kept"))["influence"]
    assert not dropped.is_between(kept.min(), kept.max()).any()
    half = run(pairs, "tif", keep=0.2).table.filter("kept")["influence"]
    assert kept.sort()[150] < half.mean() < kept.sort()[250]  # the nearest to the middle of the band
    other = run(pairs, "tif", limits={"bands": {"influence": (0.0, 0.5)}})
    assert other.facts["kept"] == 250


def test_lossdiff_and_irm_are_two_bands_and_warn_of_a_wrong_start() -> None:
    pairs = pool(2000, missing=0)
    done = run(pairs, "lossdiff_irm")
    assert done.facts["kept"] == pytest.approx(0.64 * 2000, rel=0.05)
    assert set(done.facts["reasons"]) == {"kept", "outside_band_lossdiff", "outside_band_irm"}
    assert not done.facts["warnings"]
    wrong = run(pairs.with_columns(lossdiff=-pl.col("irm")), "lossdiff_irm")
    assert any("started at the reference" in line for line in wrong.facts["warnings"])
    with pytest.raises(NotIdentifiable, match="its own reference"):
        run(pairs.with_columns(irm=0.0), "lossdiff_irm")
    with pytest.raises(NotIdentifiable, match="the model itself"):
        run(pairs.with_columns(loss=pl.col("loss_val")), "lossdiff_irm")


def test_cross_fitted_losses_are_taken_before_others() -> None:
    pairs = pool(200, missing=0).with_columns(loss_cross=pl.col("loss") * 3)
    assert set(run(pairs, "selective").table.filter("kept")["loss_cross"]) == set(pairs["loss_cross"].sort()[:100])
    written = pairs.drop("loss_cross").with_columns(scored_by=pl.lit("0-0"))
    done = run(written, "selective")
    assert ids(done) == ids(run(pairs, "selective"))
    assert not done.facts["warnings"]
    trusted = run(pairs.drop("loss_cross"), "selective")
    assert any("taken for" in line for line in trusted.facts["warnings"])
    assert ids(run(pairs, "selective", keep=1.0)) == set(pairs["chosen_id"])


def test_weights_of_wpo_are_clamped_and_given() -> None:
    pairs = pool(300, missing=0)
    done = run(pairs, "wpo", keep=0.5)
    assert done.table["weight"].max() == 1
    assert done.facts["clamped"] == (pairs["wpo_weight"] > 1).sum()
    assert done.facts["effective_pairs"] < 300
    with pytest.raises(DataError, match="below 0"):
        run(pairs.with_columns(wpo_weight=-pl.col("wpo_weight")), "wpo")


def test_an_ensemble_needs_two_and_says_where_it_has_one() -> None:
    pairs = pool(300, missing=0)
    with pytest.raises(NotIdentifiable, match="ensemble of 1"):
        run(pairs.drop("margin_judge"), "ensemble")
    holed = pairs.with_columns(margin_judge=pl.when(pl.int_range(pl.len()) < 20).then(None).otherwise("margin_judge"))
    done = run(holed, "ensemble", keep=1.0)
    assert done.facts["members"] == ["margin", "margin_judge"]
    assert done.facts["pairs_with_one_member"] == 20
    assert done.facts["reasons"]["ensemble_sd_missing"] == 20
    assert done.table["ensemble_sd"][:20].null_count() == 20
    scaled = holed.with_columns(margin_judge=pl.col("margin_judge") * 50)
    assert run(scaled, "ensemble", keep=1.0).table["rank"].equals(done.table["rank"])
    worst = run(pairs, "ensemble", keep=0.1, options={"lam": float("inf")}).table
    low = worst.select(
        pl.min_horizontal(pl.col(name) / pl.col(name).std(ddof=0) for name in ("margin", "margin_judge"))
    )
    assert worst["fused_score"].to_numpy() == pytest.approx(low.to_series().to_numpy())


def test_ends_and_middles_of_irm() -> None:
    pairs = pool(100, missing=0)
    order = pairs.sort("irm")["chosen_id"].to_list()
    assert ids(run(pairs, "irm_large", keep=10)) == set(order[-10:])
    assert ids(run(pairs, "irm_extremes", keep=10)) == {*order[:5], *order[-5:]}
    small = set(pairs.sort(pl.col("irm").abs())["chosen_id"][:10])
    assert ids(run(pairs, "irm_small", keep=10)) == small


def test_lengths_are_matched_or_balanced_in_every_bin() -> None:
    pairs = pool(3000, missing=0).with_columns(
        n_tokens_chosen=pl.when(pl.int_range(pl.len()) % 50 == 0)
        .then("n_tokens_rejected")
        .otherwise(pl.col("n_tokens_chosen") + 60)
    )
    matched = run(pairs, "length_matched", keep=0.5).table.filter("kept")
    longest = pl.max_horizontal("n_tokens_chosen", "n_tokens_rejected")
    assert (
        matched.select(((pl.col("n_tokens_chosen") - pl.col("n_tokens_rejected")).abs() / longest).max()).item() <= 0.2
    )
    done = run(pairs, "length_balanced")
    took = done.table.filter("kept")
    gap = took["n_tokens_chosen"] - took["n_tokens_rejected"]
    assert (gap > 0).sum() == (gap < 0).sum()
    equal = pairs.filter(pl.col("n_tokens_chosen") == pl.col("n_tokens_rejected")).height
    assert (gap == 0).sum() == equal
    assert sum(each["lost"] for each in done.facts["bins"]) == done.facts["reasons"]["length_balance"]
    assert all(each["longer_before"] > 0.55 and each["longer_after"] == 0.5 for each in done.facts["bins"])
    edges = np.quantile(pairs["margin"], np.arange(1, 10) / 10)
    of = np.searchsorted(edges, took["margin"])
    for at in range(10):
        mine = gap.to_numpy()[of == at]
        assert abs(int((mine > 0).sum()) - int((mine < 0).sum())) <= 1
    for keep in (200, 900):  # a smaller budget is balanced as well
        few = run(pairs, "length_balanced", keep=keep).table.filter("kept")
        assert (few["n_tokens_chosen"] > few["n_tokens_rejected"]).mean() == pytest.approx(0.5, abs=0.03)
    thinned = run(pairs, "random", keep=took.height).table.filter("kept")  # down-sampling alone changes nothing
    assert (thinned["n_tokens_chosen"] > thinned["n_tokens_rejected"]).mean() > 0.55


def test_the_flips_of_an_ensemble_know_no_units_and_nothing_of_a_pair_without_members() -> None:
    pairs = pool(300, missing=0).with_columns(
        pl.when(pl.int_range(pl.len()) >= 5).then(name).name.keep() for name in ("margin", "margin_judge")
    )
    one = run(pairs, "ensemble").table["ensemble_flip"]
    other = run(pairs.with_columns(pl.col("margin") / 1000), "ensemble").table["ensemble_flip"]
    assert other[5:].to_numpy() == pytest.approx(one[5:].to_numpy())
    assert one[:5].null_count() == 5
    assert one[5:].is_between(0, 1).all()
    scaled = [pairs[name][5:] / pairs[name][5:].std(ddof=0) for name in ("margin", "margin_judge")]
    assert one[5:].to_numpy() == pytest.approx(sum(1 / (1 + np.exp(each.to_numpy())) for each in scaled) / 2)
