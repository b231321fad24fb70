"""A reward model proves itself before its first score is believed: one text, one score, alone, in a batch and padded.

A scorer is any function of token ids and mask that gives logits, so the same test runs against a model in process, a
server or a planted defect. Nothing here knows a framework. What can be found:

    batch_variant_scores    a score depends on the neighbours in the batch
    padding_variant_scores  a score depends on padding: on its side or on how much there is
    pad_is_eos              padding looks like the end of a text, and the read-out may stop one token early
    missing_pad_token       nothing to pad with; the model's own rule then cannot batch at all
    missing_template        bare text would be scored (found where the tokenizer is loaded, never let through)
    doubled_bos             the template writes the BOS token and the tokenizer adds it again
    softmaxed_single_logit  every score is 1: a softmax over one logit
    head_not_named          several outputs and no names for them
    constant_scores         all texts score the same
    not_finite              a score is nan or infinite
    readout_differs         the last token, read apart from the model's own code, gives another number
    untrained_head          the checkpoint holds no weights for the head (found where the model is loaded)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import BackendError, DataError

# Largest difference between two ways of scoring one text, as a share of the range of the probes' scores: an offset that
# all share says nothing about what separates texts. Measured on four kinds of tiny models with six seeds each, where
# nothing was wrong: 3e-6, 0.006 and 0.05; an encoder without its mask: 0.45 and more.
TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
BITS = {"float32": 23, "float16": 10, "bfloat16": 7}  # behind the leading one
ROUNDING = {23: 8, 10: 1, 7: 1}  # steps of the scores' own precision, by its bits, that come on top
EXTRA = 9  # columns of needless padding

Readout = Literal["auto", "last_attended", "model"]


class Scorer(Protocol):
    """Logits of shape (B, H), or (B,), from ids and mask of shape (B, T); the mask is 1 where there is text."""

    def __call__(self, ids_BT: Ints, mask_BT: Ints, /) -> NDArray[np.floating]: ...


class Probe(NamedTuple):
    """A text of the self-test as the token ids that the run would score."""

    name: str
    ids: Sequence[int]


class Special(NamedTuple):
    """Ids of the special tokens, None where there is none."""

    pad: int | None
    eos: int | None
    bos: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What the self-test noticed. `changes` says that the scores are not what they seem: the run is refused."""

    code: str
    message: str
    changes: bool
    probe: str = ""
    numbers: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class SelfTest:
    """`scores[way][head]` holds one number per probe; ways are alone, batched, right, left and extra."""

    probes: tuple[str, ...]
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]
    dtype: str
    tolerance: tuple[float, ...]  # absolute, for these probes, by head
    largest: float  # difference from the score alone
    flips: tuple[tuple[str, str, str], ...]  # (probe, probe, way): which of the two is better depends on the way
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the scores may be believed; findings that change no number are allowed."""
        return not any(each.changes for each in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.code for each in self.findings))

    def told(self) -> dict[str, object]:
        """The record as plain values, for the manifest; null is a score that is not finite."""
        scores = {way: {head: [_plain(x) for x in row] for head, row in by.items()} for way, by in self.scores.items()}
        return {**asdict(self), "scores": scores, "largest": _plain(self.largest), "ok": self.ok}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Options(NamedTuple):
    """What the scorer claims to be. `other` is the second way to read it out: the model's own rule, in most cases."""

    heads: tuple[str, ...] | None = ("",)  # None: nobody named them
    dtype: str = "float32"
    readout: Readout = "last_attended"  # auto: the user said nothing
    left: bool = True  # whether left padding must not matter; encoders number positions from the left
    other: Scorer | None = None


ONE_HEAD = Options()


def self_test(scorer: Scorer, probes: Sequence[Probe], special: Special, options: Options = ONE_HEAD) -> SelfTest:
    """Score the probes in every way and compare. DataError below two probes: one text shows no batch.

    Differences under a head are held against `TOLERANCE[dtype]` times the range of its scores, plus their rounding; so
    are the gaps of two probes that change places.
    """
    if len(probes) < 2:
        raise DataError(f"a self-test needs two probes or more, not {len(probes)}")
    ways, broken = _ways(scorer, probes, special, options)
    if broken:
        return _record(probes, ways, options, broken)
    finite = {way: np.isfinite(score_IH).all() for way, score_IH in ways.items()}
    if not all(finite.values()):
        return _record(probes, ways, options, [_not_finite(probes, ways)])
    step_H, bits = _step(ways["alone"], options.dtype)
    tolerance_H = TOLERANCE[options.dtype] * np.ptp(ways["alone"], axis=0) + ROUNDING[bits] * step_H
    findings = [
        *_variants(probes, ways, tolerance_H, _names(ways["alone"], options)),
        *_flat(ways["alone"], step_H, _names(ways["alone"], options)),
        *_begins(scorer, probes, ways["alone"], special),
        *_ends(scorer, probes, ways["alone"], special, options, tolerance_H),
    ]
    return _record(probes, ways, options, findings, tolerance_H)


def _step(score_IH: Floats, dtype: str) -> tuple[Floats, int]:
    """The spacing of numbers at the largest |score| of each head, and the bits behind it.

    The bits are those of the model's dtype where all scores fit into them; else its head computes in float32.
    """
    bits = BITS[dtype]
    mantissa_IH, _ = np.frexp(score_IH)
    if (np.ldexp(mantissa_IH, bits + 1) % 1).any():
        bits = BITS["float32"]
    _, exponent_H = np.frexp(np.abs(score_IH).max(axis=0))
    return np.ldexp(1.0, exponent_H - 1 - bits), bits


def refuse(test: SelfTest, model: str, *, allow_variant: bool) -> None:
    """BackendError that names code, probe and both numbers of everything that changes scores.

    `allow_variant` lets it pass, except outputs without names: there would be nothing to call the scores.
    """
    grave = [each for each in test.findings if each.changes]
    if allow_variant and "head_not_named" not in test.codes:
        return
    if grave:
        said = "; ".join(f"{each.code}: {each.message}" for each in grave)
        raise BackendError(
            f"the self-test of {model!r} failed and nothing was scored: {said}. To score all the same, with this on "
            "record, allow variant scores"
        )


def padded(
    rows: Sequence[Sequence[int] | NDArray[np.integer]], *, width: int, pad: int, left: bool = False
) -> tuple[Ints, Ints]:
    """Ids and mask of shape (B, width); what is not text holds `pad`."""
    ids_BT = np.full((len(rows), width), pad, np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for ids_T, mask_T, row in zip(ids_BT, mask_BT, rows, strict=True):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids_T[span], mask_T[span] = row, 1
    return ids_BT, mask_BT


def _ways(
    scorer: Scorer, probes: Sequence[Probe], special: Special, options: Options
) -> tuple[dict[str, Floats], list[Finding]]:
    """Scores of shape (I, H) by way; where the outputs cannot be what they are said to be, the finding instead."""
    rows = [each.ids for each in probes]
    longest, pad = max(map(len, rows)), fill(special)
    alone = [_score(scorer, [row]) for row in rows]
    if unfit := _shape(alone[0], options.heads):
        return {"alone": np.concatenate(alone)}, [unfit]
    ways = {
        "alone": np.concatenate(alone),
        "batched": _score(scorer, rows, pad=pad),
        "right": np.concatenate([_score(scorer, [row], width=longest + EXTRA, pad=pad) for row in rows]),
        "extra": _score(scorer, rows[::-1], width=longest + EXTRA, pad=pad)[::-1],
    }
    if options.left:
        ways["left"] = _score(scorer, rows, width=longest, pad=pad, left=True)
    return ways, []


def _score(
    scorer: Scorer, rows: Sequence[Sequence[int]], *, width: int | None = None, pad: int = 0, left: bool = False
) -> Floats:
    wide = max(map(len, rows)) if width is None else width
    logits = np.asarray(scorer(*padded(rows, width=wide, pad=pad, left=left)), np.float64)
    return logits.reshape(len(rows), -1)


def fill(special: Special) -> int:
    """The token that pads: any will do where the mask is heeded."""
    return next((token for token in (special.pad, special.eos) if token is not None), 0)


def _shape(score_IH: Floats, heads: tuple[str, ...] | None) -> Finding | None:
    outputs = score_IH.shape[1]
    if heads is None and outputs > 1:
        return Finding("head_not_named", f"the model has {outputs} outputs and nobody named them", True)
    if heads is not None and len(heads) != outputs:
        return Finding("head_not_named", f"{len(heads)} names ({', '.join(heads)}) for {outputs} outputs", True)
    return None


def _names(score_IH: Floats, options: Options) -> tuple[str, ...]:
    return options.heads or ("",) * score_IH.shape[1]


def _not_finite(probes: Sequence[Probe], ways: Mapping[str, Floats]) -> Finding:
    for way, score_IH in ways.items():
        for probe, score_H in zip(probes, score_IH, strict=True):
            if not np.isfinite(score_H).all():
                return Finding("not_finite", f"probe {probe.name}: {score_H.tolist()} ({way})", True, probe.name)
    raise AssertionError("all scores are finite")


def _variants(
    probes: Sequence[Probe], ways: Mapping[str, Floats], tolerance_H: Floats, heads: tuple[str, ...]
) -> list[Finding]:
    """The worst difference from the score alone, of the batch and of the paddings; else the widest change of places."""
    findings = []
    for code, members in (
        ("batch_variant_scores", ("batched",)),
        ("padding_variant_scores", ("right", "extra", "left")),
    ):
        named = [way for way in members if way in ways]
        worst = max((_moved(probes, ways, way, tolerance_H, heads) for way in named), key=lambda told: told[0])
        if worst[0] <= 1:
            worst = max((_swapped(probes, ways, way, tolerance_H, heads) for way in named), key=lambda told: told[0])
        times, said, name, pair = worst
        if times > 1:
            findings.append(Finding(code, said, True, name, pair))
    return findings


Difference = tuple[float, str, str, tuple[float, float]]  # times the tolerance, in words, probe, both numbers


def _moved(
    probes: Sequence[Probe], ways: Mapping[str, Floats], way: str, tolerance_H: Floats, heads: tuple[str, ...]
) -> Difference:
    """The probe whose score moves furthest."""
    off_IH = np.abs(ways[way] - ways["alone"]) / tolerance_H
    i, h = (int(at) for at in np.unravel_index(off_IH.argmax(), off_IH.shape))
    pair = (float(ways["alone"][i, h]), float(ways[way][i, h]))
    head = f" (head {heads[h]})" if heads[h] else ""
    said = f"probe {probes[i].name}{head}: {pair[0]:.6g} alone, {pair[1]:.6g} {_WAYS[way]}"
    return float(off_IH[i, h]), f"{said}, tolerance {tolerance_H[h]:.2g}", probes[i].name, pair


def _swapped(
    probes: Sequence[Probe], ways: Mapping[str, Floats], way: str, tolerance_H: Floats, heads: tuple[str, ...]
) -> Difference:
    """The two probes that change places over the widest gap, of those alone and in this way."""
    i, j = np.triu_indices(len(probes), 1)
    alone_CH, here_CH = (scores[i] - scores[j] for scores in (ways["alone"], ways[way]))
    gap_CH = np.where(alone_CH * here_CH < 0, np.maximum(np.abs(alone_CH), np.abs(here_CH)), 0.0)
    wide_CH = gap_CH / tolerance_H
    c, h = (int(at) for at in np.unravel_index(wide_CH.argmax(), wide_CH.shape))
    pair = (float(alone_CH[c, h]), float(here_CH[c, h]))
    first, second = probes[i[c]].name, probes[j[c]].name
    head = f" (head {heads[h]})" if heads[h] else ""
    said = f"probes {first} and {second}{head} change places: {pair[0]:.6g} apart alone, {pair[1]:.6g} {_WAYS[way]}"
    return float(wide_CH[c, h]), f"{said}, tolerance {tolerance_H[h]:.2g}", first, pair


_WAYS = {
    "batched": "batched",
    "right": "padded on the right",
    "extra": "batched with extra padding",
    "left": "padded on the left",
}


def _flat(score_IH: Floats, step_H: Floats, heads: tuple[str, ...]) -> list[Finding]:
    """Heads that tell texts apart by no more than rounding; a softmax over one logit is told by its value."""
    flat_H = np.ptp(score_IH, axis=0) <= np.maximum(1e-7, step_H)
    if not flat_H.any():
        return []
    if score_IH.shape[1] == 1 and np.allclose(score_IH, 1.0, rtol=0, atol=1e-6):
        said = "every probe scores 1: a softmax over a single logit; ask the model or the server for raw logits"
        return [Finding("softmaxed_single_logit", said, True, numbers=(1.0, 1.0))]
    names = [name or "the only head" for name, flat in zip(heads, flat_H, strict=True) if flat]
    value = float(score_IH[0, int(flat_H.argmax())])
    said = f"every probe scores {value:.6g}, but for rounding ({', '.join(names)})"
    return [Finding("constant_scores", said, bool(flat_H.all()), numbers=(value, value))]


def _begins(scorer: Scorer, probes: Sequence[Probe], alone_IH: Floats, special: Special) -> list[Finding]:
    if special.bos is None:
        return []
    for probe, score_H in zip(probes, alone_IH, strict=True):
        if list(probe.ids[:2]) == [special.bos] * 2:
            once = _score(scorer, [probe.ids[1:]])[0]
            pair = (float(score_H[0]), float(once[0]))
            said = (
                f"probe {probe.name} begins with the BOS token ({special.bos}) twice: {pair[0]:.6g}, and {pair[1]:.6g} "
                "with one; the template writes it, so the tokenizer must not add it"
            )
            return [Finding("doubled_bos", said, True, probe.name, pair)]
    return []


def _ends(
    scorer: Scorer, probes: Sequence[Probe], alone_IH: Floats, special: Special, options: Options, tolerance_H: Floats
) -> list[Finding]:
    """Where the score is read: `pad_is_eos`, `missing_pad_token` and `readout_differs`."""
    findings = []
    if special.pad is None:
        cannot = options.readout == "model"
        how = "the model's own rule cannot batch without it" if cannot else f"{fill(special)} fills, and is masked"
        findings.append(Finding("missing_pad_token", f"neither tokenizer nor configuration has one: {how}", cannot))
    other = None if options.other is None else np.concatenate([_score(options.other, [each.ids]) for each in probes])
    ends_I = np.array([each.ids[-1] == special.pad for each in probes])
    other_H = tolerance_H if other is None else tolerance_H + _step(other, options.dtype)[0]  # its head rounds as well
    if other is not None and (found := _apart(probes, alone_IH, other, ~ends_I, other_H)):
        name, pair = found
        said = (
            f"probe {name}: {pair[0]:.6g} at the last token, {pair[1]:.6g} by the model's own code; say readout: model"
        )
        findings.append(Finding("readout_differs", said, True, name, pair))
    if special.pad is None or not (special.pad == special.eos or ends_I.any()):
        return findings
    without = np.concatenate([_score(scorer, [_stripped(each.ids, special.pad)]) for each in probes])
    if ends_I.any() and not _apart(probes, alone_IH, without, ends_I, tolerance_H):
        i = int(ends_I.argmax())
        pair = (float(alone_IH[i, 0]), float(without[i, 0]))
        said = f"probe {probes[i].name}: {pair[0]:.6g} with its last token ({special.pad}), {pair[1]:.6g} without it"
        skips = options.readout != "model"  # else it is what the user asked for
        return [*findings, Finding("pad_is_eos", f"{said}: it is skipped", skips, probes[i].name, pair)]
    if options.readout == "auto" and other is not None and (found := _apart(probes, alone_IH, other, ends_I, other_H)):
        name, pair = found
        said = (
            f"probe {name}: {pair[0]:.6g} at its last token ({special.pad}), {pair[1]:.6g} by the model's own rule, which "
            "takes that token for padding; say readout: last_attended or readout: model, as the model was trained"
        )
        return [*findings, Finding("pad_is_eos", said, True, name, pair)]
    said = f"padding is the token {special.pad}, which ends texts; no probe is read at another place because of it"
    return [*findings, Finding("pad_is_eos", said, False)]


def _apart(
    probes: Sequence[Probe], alone_IH: Floats, other_IH: Floats, among_I: Bools, tolerance_H: Floats
) -> tuple[str, tuple[float, float]] | None:
    """The probe whose two scores are furthest apart, when they are further than the tolerance."""
    off_IH = np.where(among_I[:, None], np.abs(alone_IH - other_IH) / tolerance_H, 0.0)
    i, h = (int(at) for at in np.unravel_index(off_IH.argmax(), off_IH.shape))
    if off_IH[i, h] <= 1:
        return None
    return probes[i].name, (float(alone_IH[i, h]), float(other_IH[i, h]))


def _stripped(ids: Sequence[int], pad: int) -> Sequence[int]:
    kept = len(ids)
    while kept > 1 and ids[kept - 1] == pad:
        kept -= 1
    return ids[:kept]


def _record(
    probes: Sequence[Probe],
    ways: Mapping[str, Floats],
    options: Options,
    findings: list[Finding],
    tolerance_H: Sequence[float] | Floats = (),
) -> SelfTest:
    heads = _names(ways["alone"], options) if options.heads else tuple(map(str, range(ways["alone"].shape[1])))
    names = tuple(each.name for each in probes)
    scores = {
        way: {head: tuple(score_IH[:, h].tolist()) for h, head in enumerate(heads[: score_IH.shape[1]])}
        for way, score_IH in ways.items()
    }
    with np.errstate(invalid="ignore"):  # inf - inf
        largest = float(np.max([np.abs(score_IH - ways["alone"]).max() for score_IH in ways.values()]))
        flips = _flips(names, ways)
    return SelfTest(names, scores, options.dtype, tuple(map(float, tolerance_H)), largest, flips, tuple(findings))


def _flips(names: tuple[str, ...], ways: Mapping[str, Floats]) -> tuple[tuple[str, str, str], ...]:
    """Pairs of probes whose order under any head is another than when scored alone."""
    i, j = np.triu_indices(len(names), 1)
    first = ways["alone"][i] - ways["alone"][j]
    found = []
    for way, score_IH in ways.items():
        flipped = (np.sign(score_IH[i] - score_IH[j]) * np.sign(first) < 0).any(axis=1)
        found += [(names[a], names[b], way) for a, b in zip(i[flipped], j[flipped], strict=True)]
    return tuple(found)
