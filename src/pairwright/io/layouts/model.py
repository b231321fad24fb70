"""What a row of any public layout becomes, and what a layout is.

A `PairRow` holds one pair, a `CandidateRow` all responses to one prompt, a `Lost` the reason why a row became neither:
rows in = rows out + lost, always.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pairwright.errors import DataError
from pairwright.protocols import Message

Row = dict[str, Any]
Messages = list[Message]
NOTHING: Mapping[str, Any] = MappingProxyType({})
FIELDS = ("score_chosen", "score_rejected", "margin", "weight", "prompt_id", "chosen_model", "rejected_model")


class Lost(NamedTuple):
    """A row that became no row, under its stable reason code."""

    reason: str
    detail: str = ""


class Refused(DataError):
    """Raised by the reader or writer of one layout for one row; `read_row` and `write_row` turn it into a `Lost`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.lost = Lost(reason, detail)


@dataclass(frozen=True, slots=True)
class Options:
    """What only the user can know. Nothing here has an effect unless it is set.

    prompt_end      the text that ends a prompt, for strings that hold prompt and answer in one
    score           the score column to believe, for a row with several ("chosen_rating"; "aspects" for their mean)
    judge           the judge to believe where a score is {judge: value}, or "mean"
    weights         {aspect: weight} for HelpSteer2, whose score is helpfulness otherwise
    repair_tens     read an UltraFeedback 10 that its aspects contradict as the 1 it was; it is set aside otherwise
    shared_aspects  the mean of aspects counts only aspects that every response of the prompt has
    """

    prompt_end: str | None = None
    score: str | None = None
    judge: str | None = None
    weights: Mapping[str, float] | None = None
    repair_tens: bool = False
    shared_aspects: bool = False


DEFAULT = Options()


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair. `prompt` ends with a user turn; `chosen` and `rejected` hold only the new turns.

    meta        every other column of the row it was read from
    score_kind  what the scores are, when the layout says it
    as_read     {layout: what else writing that layout again needs}, void as soon as the pair itself changes
    notes       codes of what was seen and mended while reading
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    score_chosen: float | None = None
    score_rejected: float | None = None
    margin: float | None = None  # signed
    weight: float | None = None
    prompt_id: str | None = None
    chosen_model: str | None = None
    rejected_model: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    score_kind: str | None = field(default=None, compare=False)
    as_read: Mapping[str, Any] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def content(self) -> tuple[object, ...]:
        """What `as_read` hangs on."""
        return (self.prompt, self.chosen, self.rejected, *(getattr(self, name) for name in FIELDS))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One response. A higher `score` is better; `reason` says why it is null; `gaps` does so for the `scores` by rater."""

    text: str | None
    source: str | None = None
    score: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    reason: str | None = None
    gaps: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # the layout's other keys of this response


class Picked(NamedTuple):
    """The pair that a file of candidates itself names, by index."""

    chosen: int
    rejected: int
    margin: float | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """All responses to one prompt; `meta`, `score_kind`, `as_read` and `notes` as in `PairRow`."""

    prompt: Messages
    candidates: list[Candidate]
    prompt_id: str | None = None
    pair: Picked | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    score_kind: str | None = field(default=None, compare=False)
    as_read: Mapping[str, Any] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def content(self) -> tuple[object, ...]:
        bare = [(c.text, c.source, c.score, sorted(c.scores.items())) for c in self.candidates]
        return (self.prompt, bare, self.prompt_id, self.pair and tuple(self.pair))


class Sides(NamedTuple):
    """What the reader of a pairs layout finds: texts, the columns it used up, and the `FIELDS` it worked out."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    used: frozenset[str]
    facts: Mapping[str, Any] = NOTHING
    notes: tuple[str, ...] = ()


class Group(NamedTuple):
    """What the reader of a candidates layout finds."""

    prompt: Messages
    candidates: list[Candidate]
    used: frozenset[str]
    pair: Picked | None = None
    notes: tuple[str, ...] = ()


Reader = Callable[[Row, Options], Sides | Group]
Writer = Callable[[Any, Options], Row]  # of a PairRow or a CandidateRow, by the kind of the layout


@dataclass(frozen=True, slots=True)
class Layout:
    """One public layout.

    needs       {column, or "one|other": the shapes its values may have}: what the layout is known by
    without     columns that this layout never has
    own         {field of FIELDS: the layout's own name of it}
    carries     fields that `write` puts into the row itself
    takes       keys of the meta that `write` puts into the row itself
    group       the column that joins the rows of one prompt, where a row is one response
    """

    name: str
    kind: Literal["pairs", "candidates"]
    about: str
    needs: Mapping[str, frozenset[str]]
    read: Reader
    write: Writer
    score_kind: str | None = None
    without: frozenset[str] = frozenset()
    own: Mapping[str, str] = field(default_factory=dict)
    carries: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    group: str | None = None
