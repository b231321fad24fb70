"""Facts about a pairing, gathered batch by batch: what the report shows and what the advice says."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from pairwright.core import shape
from pairwright.core.positions import distinct, moments, n_same
from pairwright.core.segments import starts, text_keys
from pairwright.core.stats import Spread
from pairwright.tables import CUT

SHOWN = 60  # prompts whose candidates are shown one by one
SMALLEST = 4  # usable responses of a prompt that is looked at for junk
LISTED = 300  # candidates of a prompt that are shown
TESTED = 2000  # prompts whose score shape is tested
SEPARATE = 28  # from here on the expected minimum of n normal scores lies below -2 sigma


@dataclass
class Tally:
    """Counts of a pairing; `add` takes a batch, memory does not grow with the number of prompts."""

    chosen: str
    rejected: str
    ddof: int
    sigma_k: float | None  # k of the rejected rule when it is mu + k*sigma
    prompts: int = 0
    same: int = 0
    same_by_theorem: int = 0
    judged: int = 0  # prompts with two or more kept responses
    rows_in: int = 0
    pairs: int = 0
    paired: int = 0  # prompts with a pair
    hit_extreme: int = 0
    truncated: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    margin: Spread = field(default_factory=Spread)
    z_chosen: Spread = field(default_factory=Spread)
    z_rejected: Spread = field(default_factory=Spread)
    skewness: Spread = field(default_factory=Spread)
    looked_at: int = 0  # prompts whose scores were looked at for a junk cluster
    tested: int = 0  # prompts with n >= 8 tested for normality (Anderson-Darling, 5 %)
    not_normal: int = 0
    junk: int = 0  # tested prompts where a far low cluster inflates sigma
    tested_n: Counter[int] = field(default_factory=Counter)
    tied: int = 0  # prompts where several texts share the highest or the lowest score
    copies: int = 0  # kept responses whose text stands earlier in their prompt
    raters: dict[str, Spread] = field(default_factory=dict)
    nulls: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # said before all else
    shown: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def compared_with(self) -> str:
        """The other rule of the page: min, or mu-2sigma when the rule is min itself."""
        return "mu-2sigma" if self.rejected == "min" else "min"

    def add(self, candidates: pl.DataFrame, pairs: pl.DataFrame, stats: pl.DataFrame, dropped: pl.DataFrame) -> None:
        """One batch: the candidates, and what the pair stage made of them."""
        other = "sigma_id" if self.compared_with == "mu-2sigma" else "min_id"
        judged = stats.filter(pl.col("n_distinct") >= 2, pl.col("sd") > 0)
        self.prompts += stats.height
        self.rows_in += candidates.height
        self.judged += judged.height
        self.same += int((judged["rejected_id"] == judged[other]).sum())
        k = self.sigma_k if self.compared_with == "min" else -2.0
        forced = n_same(k, ddof=self.ddof) if k is not None and k < 0 else 0
        agree = judged["rejected_id"] == judged[other]
        self.same_by_theorem += int((agree & (judged["n"] <= min(forced, 2**31 - 1))).sum())
        self.sizes.update(dict(judged["n"].value_counts().iter_rows()))
        self.pairs += pairs.height
        self.paired += int((stats["outcome"] == "pair").sum())
        self.hit_extreme += int(pairs["hit_extreme"].sum())
        self.skipped.update(_counts(dropped.filter(pl.col("response_id").is_null())["reason"]))
        self.aside.update(_counts(dropped.filter(pl.col("response_id").is_not_null())["reason"]))
        for spread, values in (
            (self.margin, pairs["margin"]),
            (self.z_chosen, pairs["z_chosen"]),
            (self.z_rejected, pairs["z_rejected"]),
            (self.skewness, judged["skewness"]),
        ):
            spread.add(values.drop_nulls().to_numpy())
        self.tied += int((judged["tied"] > 0).sum())
        self.copies += int((judged["n"] - judged["n_distinct"]).sum())
        self._truncation(candidates, pairs)
        self._shape(candidates, stats, dropped)
        self._show(candidates, stats, dropped)

    def add_scores(self, rater: str, scores: pl.Series, reasons: pl.Series | None = None) -> None:
        """The scores of one rater; nulls by reason."""
        self.raters.setdefault(rater, Spread()).add(scores.drop_nulls().to_numpy())
        lost = self.nulls.setdefault(rater, Counter())
        if scores.null_count():
            why = reasons if reasons is not None else pl.Series(["score_missing"]).new_from_index(0, len(scores))
            lost.update(_counts(why.filter(scores.is_null()).fill_null("score_missing")))
        if bad := int((~scores.drop_nulls().is_finite()).sum()):
            lost["score_not_finite"] += bad

    def _truncation(self, candidates: pl.DataFrame, pairs: pl.DataFrame) -> None:
        if "finish_reason" not in candidates.columns:
            return
        cut = candidates.filter(pl.col("finish_reason").is_in(CUT)).select("prompt_id", "response_id")
        for side in ("chosen", "rejected"):
            met = pairs.join(
                cut, left_on=["prompt_id", f"{side}_id"], right_on=["prompt_id", "response_id"], how="semi"
            )
            self.truncated[side] += met.height

    def _shape(self, candidates: pl.DataFrame, stats: pl.DataFrame, dropped: pl.DataFrame) -> None:
        """Tests the first prompts with enough scores: normal or not, a junk cluster or not."""
        room = TESTED - self.looked_at
        able = stats.filter(pl.col("n") >= SMALLEST, pl.col("sd") > 0).head(max(0, room)).select("prompt_id")
        if able.is_empty():
            return
        rows = candidates.select("prompt_id", "response_id", "score").join(
            able, on="prompt_id", how="semi", maintain_order="left"
        )
        ids = [pl.col("prompt_id").cast(pl.String), pl.col("response_id").cast(pl.String)]
        lost = dropped.filter(pl.col("response_id").is_not_null())
        rows = rows.with_columns(ids).join(lost, on=["prompt_id", "response_id"], how="anti", maintain_order="left")
        start_P, score_R = starts(rows["prompt_id"].rle_id().to_numpy()), rows["score"].to_numpy()
        statistic_P = shape.anderson_darling(score_R, start_P)
        fair_P = np.isfinite(statistic_P)
        self.looked_at += len(fair_P)
        self.tested += int(fair_P.sum())
        self.tested_n.update(np.diff(start_P)[fair_P].tolist())
        self.not_normal += int((statistic_P[fair_P] > shape.AD_CRITICAL).sum())
        separate = distinct(score_R, start_P)
        self.junk += int(shape.junk_mode(separate, moments(separate)).sum())

    def _show(self, candidates: pl.DataFrame, stats: pl.DataFrame, dropped: pl.DataFrame) -> None:
        """Keeps the prompts with the smallest keys: a sample that does not depend on the order of the file."""
        ids = stats["prompt_id"].cast(pl.String)
        key = text_keys(np.array([text.encode("utf-8", "surrogatepass") for text in ids], np.bytes_))
        worst = self.shown[-1][0] if len(self.shown) == SHOWN else 2**64
        lowest = np.argsort(key, kind="stable")[:SHOWN]
        for at in lowest:
            if key[at] < worst:
                line = stats.row(int(at), named=True)
                rows = _some(candidates.filter(pl.col("prompt_id") == line["prompt_id"]), line)
                lost = dropped.filter(
                    pl.col("prompt_id") == str(line["prompt_id"]), pl.col("response_id").is_not_null()
                )
                aside = dict(lost.select("response_id", "reason").iter_rows())
                self.shown.append((int(key[at]), {"stats": line, "rows": rows, "aside": aside}))
        self.shown = sorted(self.shown, key=lambda item: item[0])[:SHOWN]

    def advice(self) -> list[str]:
        """What a user should know about these rules on this data, in plain words."""
        if not self.judged:
            return [*self.notes, "No prompt has two scored responses: there is nothing to compare."]
        return [*self.notes, *self._about_rules(), *self._about_scores(), *self._about_texts()]

    def _about_rules(self) -> Iterator[str]:
        if self.sigma_k is not None or self.compared_with == "mu-2sigma":
            k = -2.0 if self.sigma_k is None else self.sigma_k
            rule = self.rejected if self.sigma_k is not None else "mu-2sigma"
            n, share = _middle(self.sizes), self.same / self.judged
            if n <= n_same(k, ddof=self.ddof) and k < 0:
                more = f"; {SEPARATE} or more would separate them on normal scores" if k == -2 else ""
                yield f"Half of the prompts have {n} usable responses or fewer: there {rule} and min are the same method{more}."
            elif share > 0.9:
                yield (
                    f"{rule} and min pick the same response for {share:.0%} of the prompts, though {n} samples could "
                    "separate them: the scores have no tail that reaches past the position."
                )
        if lost := self.skipped["no_such_position"]:
            sigma = "two distinct scores and nothing between; --rejected min pairs them."
            yield f"{lost} prompts have no such position ({self.chosen} / {self.rejected})" + (
                f": {sigma}" if self.sigma_k is not None else ": the rule finds no response there."
            )

    def _about_scores(self) -> Iterator[str]:
        if self.looked_at and self.junk / self.looked_at > 0.05:
            yield (
                f"In {self.junk / self.looked_at:.0%} of {self.looked_at} prompts a few scores lie far below the rest and "
                "inflate sigma: positions in sigma are those of the junk. Look at the lowest texts first."
            )
        if self.tested:
            low, high = min(self.tested_n), max(self.tested_n)
            yield (
                f"Normality (Anderson-Darling, estimated mean and sd, 5 %) is rejected for {self.not_normal / self.tested:.0%} "
                f"of {self.tested} tested prompts with n = {low if low == high else f'{low} to {high}'}"
                + ("; at so small an n the test sees little." if _middle(self.tested_n) < 30 else ".")
            )
        if self.tied:
            yield (
                f"In {self.tied / self.judged:.0%} of the prompts several texts share the highest or the lowest score; "
                "the earliest of them is taken."
            )

    def _about_texts(self) -> Iterator[str]:
        if self.copies:
            yield f"{self.copies} responses repeat the text of another one of their prompt."
        for side in ("chosen", "rejected"):
            if self.pairs and self.truncated[side] / self.pairs > 0.1:
                yield f"{self.truncated[side] / self.pairs:.0%} of the {side} responses were cut off."


def _some(rows: pl.DataFrame, line: dict[str, Any]) -> pl.DataFrame:
    """The first candidates of a prompt and those that were picked: a page of 100,000 texts helps nobody."""
    picked = [line[name] for name in ("max_id", "min_id", "sigma_id", "chosen_id", "rejected_id")]
    kept = (pl.int_range(pl.len()) < LISTED) | pl.col("response_id").is_in(
        [each for each in picked if each is not None]
    )
    return rows.filter(kept) if rows.height > LISTED else rows


def _middle(sizes: Counter[int]) -> int:
    """The median of counted values (the lower of the two middle ones)."""
    ranked = sorted(sizes.elements())
    return ranked[(len(ranked) - 1) // 2]


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.value_counts().iter_rows()) if len(values) else {}


def prompt_facts(
    shown: dict[str, Any], compared_with: str, rules: tuple[str, str], parts: pl.DataFrame | None
) -> dict[str, Any]:
    """One prompt for the page: its statistics, its picks, all its candidates."""
    stats, rows = shown["stats"], shown["rows"]
    other = stats["sigma_id"] if compared_with == "mu-2sigma" else stats["min_id"]
    picks = [
        (rules[0], "chosen", stats["chosen_id"]),
        (rules[1], "rejected", stats["rejected_id"]),
        (compared_with, "rejected", other),
    ]
    by_response: dict[str, dict[str, float]] = {}
    if parts is not None:
        for response, rater, score in parts.select("response_id", "rater", "score").iter_rows():
            by_response.setdefault(str(response), {})[rater] = score
    mean, sd = stats["mean"], stats["sd"]
    candidates = []
    for row in rows.iter_rows(named=True):
        score = row["score"] if row["score"] is not None and np.isfinite(row["score"]) else None
        z = (score - mean) / sd if score is not None and sd else None
        candidates.append(
            {
                "id": str(row["response_id"]),
                "score": score,
                "reason": shown["aside"].get(str(row["response_id"])),
                "text": row.get("response"),
                "finish_reason": row.get("finish_reason"),
                "n_tokens": row.get("n_tokens"),
                "z": z,
                "parts": by_response.get(str(row["response_id"]), {}),
            }
        )
    return {
        "prompt_id": str(stats["prompt_id"]),
        "messages": rows["prompt"].head(1).to_list()[0] if rows.height and "prompt" in rows.columns else [],
        "n": stats["n"],
        "mean": mean,
        "sd": sd,
        "skewness": stats["skewness"],
        "outcome": "pair" if stats["outcome"] == "pair" else f"dropped: {stats['outcome']}",
        "picks": [{"rule": rule, "side": side, "id": str(at)} for rule, side, at in picks if at is not None],
        "candidates": candidates,
    }


def histogram(spread: Spread) -> dict[str, Any]:
    edges, counts = spread.histogram()
    return {"edges": edges, "counts": counts}


def rater_facts(tally: Tally) -> list[dict[str, Any]]:
    """One line per rater."""
    lines = []
    for rater, spread in tally.raters.items():
        edges, counts = spread.histogram()
        told = {"rater": rater, "n": spread.n, "nulls": dict(tally.nulls.get(rater, {})), "distinct": spread.distinct}
        held = spread.n > 0
        told |= {"low": spread.low if held else None, "high": spread.high if held else None}
        lines.append(told | {"mean": spread.mean, "sd": spread.sd, "edges": edges, "counts": counts})
    return lines


def pairing_facts(tally: Tally) -> dict[str, Any]:
    """The sections `rules` and `pairs` of the page."""
    rules = {
        "chosen": tally.chosen,
        "rejected": tally.rejected,
        "compared_with": tally.compared_with,
        "prompts": tally.judged,
        "same": tally.same,
        "same_by_theorem": tally.same_by_theorem,
        "advice": tally.advice(),
        "ddof": tally.ddof,
    }
    pairs = {
        "n": tally.pairs,
        "margin": histogram(tally.margin),
        "z_chosen": tally.z_chosen.mean,
        "z_rejected": tally.z_rejected.mean,
        "hit_extreme": tally.hit_extreme,
        "truncated_chosen": tally.truncated["chosen"],
        "truncated_rejected": tally.truncated["rejected"],
        "skewness_mean": tally.skewness.mean,
    }
    return {"rules": rules, "pairs": pairs}
