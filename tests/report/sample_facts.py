"""Facts of a small run that could have happened, ways to take pieces out of them, and a reader of the page."""

from collections.abc import Callable
from html.parser import HTMLParser
from typing import cast

import numpy as np

from pairwright.report import facts as shapes
from pairwright.report.facts import Candidate, Facts, Histogram, Pick, Prompt, Rater, SideRater, Stage

HOSTILE_ID = "0f0f0f0f0f0f0f0f"
SAMPLES = 16
QUESTIONS = [
    "Why is the sky blue in the day and red at sunset? Three sentences, no formulas.",
    "Write a two-line poem about a lighthouse.",
    "لماذا يبدو البحر أزرق؟ أجب في جملتين.",
    "List the planets in order of size, smallest first.",
    "Say something in HTML.",
]
ARABIC = "يبدو البحر أزرق لأن الماء يمتص الضوء الأحمر أكثر من الأزرق، ولأنه يعكس لون السماء."
ENGLISH = (
    "Sunlight is a mixture of colours, and air scatters the short blue waves far more than the long red ones. "
    "In the day that scattered blue reaches you from every direction.\n\n"
    "At sunset the light has crossed so much air that most of the blue is gone, and what is left is red."
)


def hostile(address: str = "http://127.0.0.1:9/") -> str:
    """A response that, taken as markup anywhere, would run a script, load something and mark the page."""
    deed = "document.title='owned';document.documentElement.setAttribute('data-owned','1')"
    return (
        f"</script><script>{deed}</script></style></title></textarea>"
        f"<script>{deed}</script><img src='{address}img' onerror=\"{deed}\">"
        f'<svg onload="{deed}"></svg><a href="javascript:{deed}" autofocus onfocus="{deed}">x</a>'
        f'<style>@import url({address}css);</style><iframe srcdoc="<script>parent.{deed}</script>"></iframe>'
        f'--><!-- ]]> \u2028\u2029 \u202e &lt;script&gt; ${{title}} $title {{{{7*7}}}} " \' onmouseover="{deed}" \0 end'
    )


def build(payload: str | None = None) -> Facts:
    """Five prompts of 16 candidates: pairs, a prompt without spread, missing scores, right-to-left text, one attack."""
    rng = np.random.default_rng(11)
    attack = hostile() if payload is None else payload
    prompts = [_prompt(i, text, rng, attack) for i, text in enumerate(QUESTIONS)]
    scores = [c["score"] for p in prompts for c in p["candidates"] if c["score"] is not None]
    nulls = 5 * SAMPLES - len(scores)
    compared = [p["picks"] for p in prompts if p["picks"]]
    same = sum(below["id"] == lowest["id"] for _, below, lowest in compared)
    advice = (
        f"On {same} of {len(compared)} prompts both rules reject the same response: with 16 samples the lowest seldom "
        "lies far below mean − 2σ. About 28 samples are needed before the expected minimum passes it."
    )
    return {
        "title": "Instructions with countable checks",
        "summary": f"80 responses of SmolLM2-135M to 5 prompts became {len(compared)} pairs; "
        f"mu-2sigma rejected another response than min on {len(compared) - same} of them.",
        "created": "2025-06-14 09:30 UTC",
        "version": "0.1.0",
        "run": "smoke-7f3a",
        "settings": {
            "seed": 7,
            "sample": {"n": 16, "temperature": 0.9, "max_tokens": 256, "stop": []},
            "pairing": {"chosen": "max", "rejected": "mu-2sigma", "ddof": 0, "min_gap": 0.0, "unfinished": "drop"},
        },
        "versions": {"python": "3.11.9", "numpy": "2.3.1", "polars": "1.34.0"},
        "inputs": {"prompts.jsonl": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        "stages": [
            _stage("prompts", "prompts", 6, 5, dropped={"repeated_prompt": 1}, seconds=0.02),
            _stage("sample", "responses", 80, 80, seconds=61.4, note="SmolLM2-135M on CPU"),
            _stage("score", "responses", 80, 80, set_aside={"judge_unparsed": nulls}, seconds=0.31),
            _stage("pair", "prompts", 5, 4, dropped={"zero_variance": 1}, note="one pair for each prompt at most"),
        ],
        "raters": [
            _rater("rules", scores, {"judge_unparsed": nulls}, bins=16),
            _rater("rules.words", [0.0] * 23 + [1.0] * 57, {}, bins=4),
        ],
        "clean": None,
        "select": None,
        "agreement": {
            "raters": [_side("rules", at_high=0.31), _side("judge", ties=0.42)],
            "agreement": [
                {
                    "a": "rules",
                    "b": "judge",
                    "rho": 0.44,
                    "se": 0.12,
                    "prompts": 4,
                    "too_few": 0,
                    "constant": 1,
                    "alpha": 0.39,
                }
            ],
            "alpha": {"raters": ["rules", "judge"], "value": 0.39, "low": 0.2, "high": 0.5},
        },
        "rules": {
            "chosen": "max",
            "rejected": "mu-2sigma",
            "compared_with": "min",
            "prompts": len(compared),
            "same": same,
            "same_by_theorem": 0,
            "advice": [advice],
            "ddof": 0,
        },
        "pairs": {
            "n": len(compared),
            "margin": histogram([0.61, 0.74, 0.58, 0.93], 5),
            "z_chosen": 1.62,
            "z_rejected": -1.87,
            "hit_extreme": same,
            "truncated_chosen": 0,
            "truncated_rejected": 1,
            "skewness_mean": -0.31,
        },
        "prompts_total": 5,
        "prompts_shown": 5,
        "prompts_chosen_by": "all of them",
        "prompts": prompts,
    }


def _stage(
    stage: str,
    unit: str,
    rows_in: int,
    kept: int,
    *,
    dropped: dict[str, int] | None = None,
    set_aside: dict[str, int] | None = None,
    seconds: float | None = None,
    note: str = "",
) -> Stage:
    return {
        "stage": stage,
        "unit": unit,
        "rows_in": rows_in,
        "kept": kept,
        "dropped": dropped or {},
        "set_aside": set_aside or {},
        "seconds": seconds,
        "note": note,
    }


def _rater(rater: str, scores: list[float], nulls: dict[str, int], *, bins: int) -> Rater:
    return {
        "rater": rater,
        "n": len(scores),
        "nulls": nulls,
        "low": min(scores),
        "mean": float(np.mean(scores)),
        "high": max(scores),
        "sd": float(np.std(scores)),
        "distinct": len(set(scores)),
        **histogram(scores, bins),
    }


def histogram(values: list[float], bins: int) -> Histogram:
    counts, edges = np.histogram(values, bins)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _prompt(i: int, question: str, rng: np.random.Generator, attack: str) -> Prompt:
    flat = i == 3
    drawn = np.full(SAMPLES, 0.5) if flat else np.round(np.clip(rng.normal(0.62, 0.14, SAMPLES), 0.02, 1), 3)
    scores: list[float | None] = [None if (i, k) in {(0, 5), (1, 2), (1, 9)} else float(x) for k, x in enumerate(drawn)]
    there = np.array([x for x in scores if x is not None])
    mean, sd = float(there.mean()), 0.0 if flat else float(there.std())
    text = ARABIC if i == 2 else attack if i == 4 else ENGLISH
    candidates = [_candidate(k, score, text, mean, sd) for k, score in enumerate(scores)]
    return {
        "prompt_id": HOSTILE_ID if i == 4 else f"{i:x}" * 16,
        "messages": [
            *([{"role": "system", "content": "Answer briefly."}] if i == 0 else []),
            {"role": "user", "content": question if i != 4 else f"{question} {attack}"},
        ],
        "n": len(there),
        "mean": mean,
        "sd": sd,
        "skewness": None if flat else float(np.mean(((there - mean) / sd) ** 3)),
        "outcome": "dropped: zero_variance" if flat else "pair",
        "picks": [] if flat else _picks(candidates, mean, sd),
        "candidates": candidates,
    }


def _candidate(k: int, score: float | None, text: str, mean: float, sd: float) -> Candidate:
    return {
        "id": f"{k:06d}",
        "score": score,
        "reason": "judge_unparsed" if score is None else None,
        "text": f"{text} [{k}]" if k != 3 else f"{text} [{k}]\n" * 12,
        "finish_reason": "length" if k == 3 else "stop",
        "n_tokens": 40 + 7 * k,
        "z": (score - mean) / sd if score is not None and sd else None,
        "parts": {} if score is None else {"words": float(k % 2), "closing": 1.0},
    }


def _picks(candidates: list[Candidate], mean: float, sd: float) -> list[Pick]:
    scored = [(c["score"], c["id"]) for c in candidates if c["score"] is not None]
    near = min(scored, key=lambda pair: abs(pair[0] - (mean - 2 * sd)))[1]
    return [
        {"rule": "max", "side": "chosen", "id": max(scored)[1]},
        {"rule": "mu-2sigma", "side": "rejected", "id": near},
        {"rule": "min", "side": "rejected", "id": min(scored)[1]},
    ]


def everywhere(facts: Facts, change: Callable[[str], str]) -> Facts:
    """The facts with every string changed, dict keys that are data included."""
    kinds = [kind for kind in vars(shapes).values() if hasattr(kind, "__required_keys__")]
    shape = {key for kind in kinds for key in kind.__annotations__}

    def walk(value: object) -> object:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict):
            return {key if key in shape else change(key): walk(item) for key, item in value.items()}
        return value

    return cast("Facts", walk(facts))


def no_prompts(facts: Facts) -> None:
    facts["prompts"], facts["prompts_total"], facts["prompts_shown"] = [], 0, 0


def no_pairs(facts: Facts) -> None:
    facts["pairs"] = {
        "n": 0,
        "margin": {"edges": [], "counts": []},
        "z_chosen": None,
        "z_rejected": None,
        "hit_extreme": 0,
        "truncated_chosen": 0,
        "truncated_rejected": 0,
        "skewness_mean": None,
    }


def nothing_compared(facts: Facts) -> None:
    facts["rules"].update({"prompts": 0, "same": 0, "same_by_theorem": 0, "advice": []})


def nothing_scored(facts: Facts) -> None:
    missing = {"low": None, "mean": None, "high": None, "sd": None, "distinct": 0, "n": 0, "edges": [], "counts": []}
    for rater in facts["raters"]:
        rater.update(missing)
    for prompt in facts["prompts"]:
        prompt.update({"n": 0, "mean": None, "sd": None, "skewness": None, "picks": [], "outcome": "dropped: too_few"})
        for candidate in prompt["candidates"]:
            candidate.update(
                {"score": None, "z": None, "parts": {}, "text": None, "n_tokens": None, "finish_reason": None}
            )


def one_candidate(facts: Facts) -> None:
    for prompt in facts["prompts"]:
        prompt["candidates"] = prompt["candidates"][:1]


def nothing_ran(facts: Facts) -> None:
    no_prompts(facts)
    no_pairs(facts)
    nothing_compared(facts)
    facts.update(
        {
            "stages": [],
            "raters": [],
            "settings": {},
            "versions": {},
            "inputs": {},
            "summary": "",
            "prompts_chosen_by": "",
        }
    )


def one_value(facts: Facts) -> None:
    facts["raters"][0].update({"edges": [0.5, 0.5], "counts": [77], "sd": 0.0})


MISSING = [no_prompts, no_pairs, nothing_compared, nothing_scored, one_candidate, nothing_ran, one_value]


VOID = {"meta", "input", "br", "hr", "img", "link"}


class Reader(HTMLParser):
    """Elements with their attributes, text by element, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text[tag] = self.text.get(tag, "") + data

    def inside(self, name: str, **attributes: str) -> list[dict[str, str]]:
        return [told for tag, told in self.elements if tag == name and attributes.items() <= told.items()]


def _side(name: str, *, ties: float = 0.1, at_high: float = 0.05) -> SideRater:
    return {
        "rater": name,
        "n": 75,
        "nulls": {"judge_unparsed": 5},
        "distinct": 12,
        "constant": False,
        "low": 0.0,
        "high": 1.0,
        "scale": [0.0, 1.0],
        "ties": ties,
        "at_low": 0.02,
        "at_high": at_high,
    }
