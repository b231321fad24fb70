"""Log-probabilities as raters: `logp` of one model, `implicit` of a policy against its reference.

One call is one response under one model; responses of a prompt go to the model together and share its computation.
With an adapter and no reference of its own, the reference is the adapter switched off, and the weights are in memory
once. Two models are loaded one after the other.
"""

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pairwright.errors import ConfigError
from pairwright.pipeline import Frames
from pairwright.protocols import Answered, LogProbs
from pairwright.rating.calls import Record, Unit
from pairwright.rating.works import Asked, Name, Rating, asked, with_drops
from pairwright.score.logprob import implicit
from pairwright.tables import LOGPS, SCORES, Table, frame, text_hash

LIKELY: tuple[Table, ...] = (SCORES, LOGPS)
_READ = ("logp", "n_tokens", "truncated", "reason", "model", "model_hash", "template_hash")


@dataclass(frozen=True, slots=True)
class LogpSettings:
    """Summed log-probability (nats) of the response under one model; `per_token` divides by the number of tokens."""

    model: str
    adapter: str | None = None
    per_token: bool = False
    dtype: str = "auto"
    device: str = "auto"
    max_length: int = 1024
    batch_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class ImplicitSettings:
    """log policy - log reference (nats, no beta). Without `reference` it is the policy with its adapter off."""

    policy: str
    reference: str | None = None
    adapter: str | None = None  # of the policy
    per_token: bool = False
    dtype: str = "auto"
    device: str = "auto"
    max_length: int = 1024
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.reference is None and self.adapter is None:
            raise ConfigError(
                "name a reference, or the adapter of the policy: a model against itself says 0 everywhere"
            )


class LogpRating(Rating):
    """Both kinds; `roles` are the models that every response is looked at under."""

    tables: tuple[Table, ...] = LIKELY

    def __init__(self, name: str, settings: LogpSettings | ImplicitSettings) -> None:
        super().__init__(name, lambda: None)
        self.settings = settings
        two = isinstance(settings, ImplicitSettings)
        self.roles = ("policy", "reference") if two else ("policy",)
        if isinstance(settings, ImplicitSettings) and settings.reference:
            self.window = float("inf")  # two models in turn: each is loaded once
        self._about: dict[str, object] = {}

    def about(self) -> Mapping[str, object]:
        return dict(self._about)

    def units(self, prompts: pl.DataFrame, responses: pl.DataFrame) -> list[Unit]:
        rows = asked(prompts, responses)
        return [Unit((each.prompt_id, each.response_id, each.seen, role), each) for role in self.roles for each in rows]

    def call(self, units: Sequence[Unit]) -> Iterator[tuple[Name, Record]]:
        for role in self.roles:
            mine = [unit for unit in units if unit.id[-1] == role]
            if not mine:
                continue
            model = self._view(role)
            groups = _by_prompt(mine)
            asks = [
                Answered(key, group[0].messages, [each.response for each in group]) for key, group in enumerate(groups)
            ]
            for said in model(asks):
                each = groups[said.key][said.place]
                record: Record = {"logp": said.logp, "n_tokens": said.n_tokens, "truncated": said.truncated}
                record |= {"reason": said.reason, "model": model.model}  # type: ignore[attr-defined]
                record |= {"model_hash": model.model_hash, "template_hash": model.template_hash}
                self._about[role] = dict(model.about)  # type: ignore[attr-defined]
                yield (each.prompt_id, each.response_id, each.seen, role), record

    def _view(self, role: str) -> LogProbs:
        """The model of a role; what was loaded before is let go when it is another one."""
        from pairwright.backends.causal import CausalLM, CausalSettings

        s = self.settings
        named = s.model if isinstance(s, LogpSettings) else s.policy
        other = isinstance(s, ImplicitSettings) and s.reference is not None and role == "reference"
        wanted = (s.reference, None) if other and isinstance(s, ImplicitSettings) else (named, s.adapter)
        if self._held is None or self._held[0] != wanted:
            self._held = None
            _free()
            settings = CausalSettings(str(wanted[0]), wanted[1], s.dtype, s.device, s.max_length, s.batch_tokens)
            self._held = (wanted, CausalLM(settings))
        held: CausalLM = self._held[1]
        if wanted[1] is None:
            return held.logprobs()
        return held.policy() if role == "policy" else held.reference()

    def frames(self, prompts: pl.DataFrame, responses: pl.DataFrame, found: Mapping[Name, Record]) -> Frames:
        rows = asked(prompts, responses)
        by_role = {
            role: frame(LOGPS, [_row(each, found[each[0], each[1], each.seen, role]) for each in rows])
            for role in self.roles
        }
        per_token = self.settings.per_token
        if len(self.roles) == 2:
            scores = implicit(by_role["policy"], by_role["reference"], per_token=per_token, rater=self.name)
        else:
            scores = _as_scores(by_role["policy"], self.name, per_token=per_token)
        return {**with_drops(scores), "logps": pl.concat(list(by_role.values()))}


def _by_prompt(units: Sequence[Unit]) -> list[list[Asked]]:
    groups: dict[str, list[Asked]] = {}
    for unit in units:
        groups.setdefault(unit.id[0], []).append(unit.payload)  # type: ignore[arg-type]
    return list(groups.values())


def _row(each: Asked, record: Record) -> Record:
    ids = {"prompt_id": each.prompt_id, "response_id": each.response_id, "response_hash": text_hash(each.response)}
    return ids | {name: record[name] for name in _READ}


def _as_scores(logps: pl.DataFrame, rater: str, *, per_token: bool) -> pl.DataFrame:
    """A truncated text has no whole log-probability: null."""
    held = pl.when(~pl.col("truncated")).then(pl.col("logp"))
    why = pl.when(pl.col("logp").is_null()).then(pl.col("reason").fill_null("logp_missing"))
    return logps.select(
        "prompt_id",
        "response_id",
        rater=pl.lit(rater),
        score=held / pl.col("n_tokens") if per_token else held,
        reason=why.when(pl.col("truncated")).then(pl.lit("truncated")).otherwise(None),
        scale_min=pl.lit(None, pl.Float64),
        scale_max=pl.lit(None, pl.Float64),
    )


def _free() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
