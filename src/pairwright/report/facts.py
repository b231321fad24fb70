"""What a report shows, as plain data. Whoever computes the numbers fills these in; the page only lays them out.

None means that a number does not exist (nothing scored, a spread of 0); nan and inf are refused. Histograms have one
edge more than counts, or neither where there is nothing to count.
"""

from typing import Any, TypedDict

from pairwright.report.clean import CleanFacts


class Stage(TypedDict):
    """rows_in = kept + dropped by reason. Rows set aside stay in their table and count in neither."""

    stage: str
    unit: str  # what a row is: "prompts", "responses", ...
    rows_in: int
    kept: int
    dropped: dict[str, int]
    set_aside: dict[str, int]
    seconds: float | None
    note: str


class Histogram(TypedDict):
    edges: list[float]
    counts: list[int]


class Rater(Histogram):
    rater: str
    n: int  # scores that are there
    nulls: dict[str, int]  # missing scores by reason
    low: float | None
    mean: float | None
    high: float | None
    sd: float | None
    distinct: int


class Rules(TypedDict):
    """The rules of the pairs, and how often the rejected rule picks the response that `compared_with` picks."""

    chosen: str
    rejected: str
    compared_with: str
    prompts: int
    same: int
    same_by_theorem: int  # of `same`: so few responses that no scores could have made a difference
    advice: list[str]
    ddof: int


class Pairs(TypedDict):
    n: int
    margin: Histogram
    z_chosen: float | None  # means over the pairs
    z_rejected: float | None
    hit_extreme: int
    truncated_chosen: int
    truncated_rejected: int
    skewness_mean: float | None


class Message(TypedDict):
    role: str
    content: str


class Pick(TypedDict):
    rule: str
    side: str  # "chosen" or "rejected"
    id: str


class Candidate(TypedDict):
    """`reason` says why there is no score, or why a scored response took no part."""

    id: str
    score: float | None
    reason: str | None
    text: str | None
    finish_reason: str | None
    n_tokens: int | None
    z: float | None
    parts: dict[str, float]


class Prompt(TypedDict):
    prompt_id: str
    messages: list[Message]
    n: int
    mean: float | None
    sd: float | None
    skewness: float | None
    outcome: str  # "pair", or "dropped: " and the reason
    picks: list[Pick]
    candidates: list[Candidate]


class SideRater(TypedDict):
    """`ties` is a share of the comparisons within prompts, `at_low` and `at_high` shares of the scores."""

    rater: str
    n: int
    nulls: dict[str, int]
    distinct: int
    constant: bool
    low: float | None
    high: float | None
    scale: list[float | None]
    at_low: float | None
    at_high: float | None
    ties: float | None


class Pairwise(TypedDict):
    """Two raters within prompts: mean Spearman over `prompts`, its standard error, Krippendorff's alpha of the ranks."""

    a: str
    b: str
    rho: float | None
    se: float | None
    prompts: int
    too_few: int
    constant: int
    alpha: float | None


class Alpha(TypedDict):
    raters: list[str]
    value: float | None
    low: float | None
    high: float | None


class Agreement(TypedDict):
    raters: list[SideRater]
    agreement: list[Pairwise]
    alpha: Alpha | None


class Facts(TypedDict):
    title: str
    summary: str
    created: str
    version: str
    run: str
    settings: dict[str, object]
    versions: dict[str, str]
    inputs: dict[str, str]  # path: sha256
    stages: list[Stage]
    raters: list[Rater]
    agreement: Agreement | None  # None where one rater stands alone, or nothing was compared
    clean: CleanFacts | None  # None where nothing was cleaned
    select: dict[str, Any] | None  # of the select stage, with the pairs that are shown; None where none were selected
    rules: Rules
    pairs: Pairs
    prompts_total: int
    prompts_shown: int
    prompts_chosen_by: str
    prompts: list[Prompt]
