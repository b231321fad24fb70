"""Log-probabilities as a table: made out of a model's replies, checked, read as implicit rewards, handed to training.

All values are sums over a response's tokens, in nats; no beta is applied. A row belongs to a text (`response_hash`), a
model (`model_hash`) and a way of making tokens (`template_hash`); numbers of two templates are never set against each
other.
"""

from collections.abc import Iterable

import polars as pl

from pairwright.errors import DataError
from pairwright.protocols import Answered, LogProb, LogProbs
from pairwright.tables import LOGPS, SCORES, conform, text_hash

ID = ["prompt_id", "response_id"]
BOTH = [*ID, "model_hash", "template_hash"]
FINDINGS = {"code": pl.String, "prompt_id": pl.String, "response_id": pl.String, "detail": pl.String}


def to_ask(prompts: pl.DataFrame, responses: pl.DataFrame) -> tuple[list[Answered], pl.DataFrame]:
    """What to ask of a LogProbs, and which response each (key, place) of its replies is.

    Rows without a text are not asked; they are in the frame with key and place null.
    """
    messages = dict(prompts.select("prompt_id", "prompt").iter_rows())
    asks: list[Answered] = []
    parts = [
        pl.DataFrame(schema={**dict.fromkeys(ID, pl.String), "response": pl.String, "key": pl.Int64, "place": pl.Int64})
    ]
    for key, ((prompt_id,), rows) in enumerate(responses.group_by("prompt_id", maintain_order=True)):
        if prompt_id not in messages:
            raise DataError(
                f"prompt {prompt_id} has responses but is not among the prompts; give the prompts of this run"
            )
        said = pl.col("response").is_not_null()
        place = pl.when(said).then(said.cum_sum().cast(pl.Int64) - 1)
        keyed = pl.when(said).then(pl.lit(key, pl.Int64))
        parts.append(rows.select(*ID, "response", key=keyed, place=place))
        asks.append(Answered(key, messages[prompt_id], rows["response"].drop_nulls().to_list()))
    return [ask for ask in asks if ask.responses], pl.concat(parts)


def logp_rows(asked: pl.DataFrame, replies: Iterable[LogProb], model: LogProbs, *, name: str) -> pl.DataFrame:
    """The `logps` of the responses that `to_ask` gave; `name` is the model in words.

    Every response has a row: one without a reply is null with the reason no_reply, one without a text with no_response.
    A reply to a question that was not asked, or a second one, is a DataError.
    """
    told = pl.DataFrame(
        [reply[:6] for reply in replies],
        schema={"key": pl.Int64, "place": pl.Int64, "logp": pl.Float64, "n_tokens": pl.Int32,
                "truncated": pl.Boolean, "reason": pl.String},
        orient="row",
    )  # fmt: skip
    if (twice := told.filter(pl.struct("key", "place").is_duplicated())).height:
        raise DataError(f"{name} replied twice to key {twice['key'][0]}, place {twice['place'][0]}")
    if (strange := told.join(asked, on=["key", "place"], how="anti")).height:
        raise DataError(f"{name} replied to key {strange['key'][0]}, place {strange['place'][0]}, which was not asked")
    rows = asked.join(told, on=["key", "place"], how="left", maintain_order="left")
    silent = pl.when(pl.col("n_tokens").is_null()).then(pl.lit("no_reply")).otherwise(pl.col("reason"))
    why = pl.when(pl.col("response").is_null()).then(pl.lit("no_response")).otherwise(silent)
    hashes = [None if text is None else text_hash(text) for text in rows["response"]]
    made = rows.select(
        *ID,
        "logp",
        pl.col("n_tokens").fill_null(0),
        pl.col("truncated").fill_null(False),
        model=pl.lit(name),
        model_hash=pl.lit(model.model_hash),
        template_hash=pl.lit(model.template_hash),
        reason=why,
        response_hash=pl.Series(hashes, dtype=pl.String),
    )
    return conform(made, LOGPS, where=name)


def implicit(
    policy: pl.DataFrame, reference: pl.DataFrame, *, per_token: bool = False, rater: str = "implicit"
) -> pl.DataFrame:
    """log pi - log ref of every response that either table knows, as `scores` rows (nats, beta not applied).

    `per_token` divides by the number of tokens. Joined by id and text; null with the reason policy_missing,
    reference_missing, text_differs, policy: ..., reference: ..., truncated, or token_counts_differ. DataError where a
    table holds two models or the tables were tokenised differently.
    """
    for side, data in (("policy", policy), ("reference", reference)):
        _one_model(data, side)
    templates = [set(data["template_hash"]) for data in (policy, reference)]
    if all(templates) and templates[0] != templates[1]:
        raise DataError(
            f"policy and reference were tokenised differently (template_hash {templates[0].pop()} and "
            f"{templates[1].pop()}): their difference means nothing; make both with one template and one max_length"
        )
    wanted = ["logp", "n_tokens", "truncated", "reason", "response_hash"]
    rows = policy.select(*ID, *wanted, policy=True).join(
        reference.select(*ID, *wanted, reference=True),
        on=ID,
        how="full",
        coalesce=True,
        maintain_order="left_right",
        suffix="_ref",
    )
    unsaid = {
        side: pl.concat_str(pl.lit(f"{side}: "), pl.col(reason).fill_null("logp_missing"))
        for side, reason in (("policy", "reason"), ("reference", "reason_ref"))
    }
    cases = [
        (pl.col("policy").is_null(), pl.lit("policy_missing")),
        (pl.col("reference").is_null(), pl.lit("reference_missing")),
        (pl.col("response_hash").ne_missing(pl.col("response_hash_ref")), pl.lit("text_differs")),
        (pl.col("logp").is_null(), unsaid["policy"]),
        (pl.col("logp_ref").is_null(), unsaid["reference"]),
        (pl.col("truncated") | pl.col("truncated_ref"), pl.lit("truncated")),
        (pl.col("n_tokens") != pl.col("n_tokens_ref"), pl.lit("token_counts_differ")),
    ]
    why = pl.lit(None, pl.String)
    for case, reason in reversed(cases):
        why = pl.when(case).then(reason).otherwise(why)
    rows = rows.with_columns(why=why)
    ratio = pl.col("logp") - pl.col("logp_ref")
    ratio = ratio / pl.col("n_tokens") if per_token else ratio
    made = rows.select(
        *ID,
        rater=pl.lit(rater),
        score=pl.when(pl.col("why").is_null()).then(ratio),
        reason=pl.col("why"),
        scale_min=pl.lit(None, pl.Float64),
        scale_max=pl.lit(None, pl.Float64),
    )
    return conform(made, SCORES, where=rater)


def check_logps(logps: pl.DataFrame, responses: pl.DataFrame) -> pl.DataFrame:
    """What is wrong with a table of log-probabilities of these responses: one row (code, ids, detail) per finding.

    missing_row           a response with a text has no row of a model that the table holds
    unknown_row           a row of a response that is not there
    text_differs          a row made of another text
    positive_logp         a sum above 0; not_finite: NaN or infinite
    null_without_reason   and tokens_missing: a sum over no tokens
    token_counts_differ   two models, tokenised alike, count differently
    two_models            more than one model; two_templates: more than one way of making tokens
    """
    said = responses.filter(pl.col("response").is_not_null())
    texts = said.select(*ID, hash=pl.Series([text_hash(text) for text in said["response"]], dtype=pl.String))
    models = logps.select("model_hash", "template_hash").unique(maintain_order=True)
    lost = texts.join(models, how="cross").join(logps, on=BOTH, how="anti", maintain_order="left")
    edited = logps.join(texts, on=ID, how="inner", maintain_order="left").filter(
        pl.col("hash").ne_missing(pl.col("response_hash"))
    )
    counted = logps.filter(pl.col("logp").is_not_null())
    apart = pl.col("n_tokens").n_unique().over([*ID, "template_hash"]) > 1
    logp, known = pl.col("logp"), logps.join(responses, on=ID, how="anti", maintain_order="left")
    found = [
        _found("missing_row", lost, "model_hash"),
        _found("unknown_row", known, "model_hash"),
        _found("text_differs", edited, "response_hash"),
        _found("positive_logp", logps.filter(logp.is_finite() & (logp > 0)), "logp"),
        _found("not_finite", logps.filter(~logp.is_finite()), "logp"),
        _found("null_without_reason", logps.filter(logp.is_null(), pl.col("reason").is_null()), "model_hash"),
        _found("tokens_missing", counted.filter(pl.col("n_tokens") < 1), "n_tokens"),
        _found("token_counts_differ", counted.filter(apart), "n_tokens"),
    ]
    for code, column in (("two_models", "model_hash"), ("two_templates", "template_hash")):
        if len(names := logps[column].unique().sort().to_list()) > 1:
            found.append(pl.DataFrame([[code, None, None, ", ".join(names)]], schema=FINDINGS, orient="row"))
    return pl.concat(found)


def pair_logps(pairs: pl.DataFrame, logps: pl.DataFrame, responses: pl.DataFrame | None = None) -> pl.DataFrame:
    """`pairs` with ref_chosen_logps and ref_rejected_logps (nats), the columns that DPO training reads.

    Null where the table has no number; with `responses` also where a number was made of another text than theirs.
    DataError where the table holds two models.
    """
    _one_model(logps, "reference")
    if responses is not None:
        texts = [None if text is None else text_hash(text) for text in responses["response"]]
        now = responses.select(*ID, response_hash=pl.Series(texts, dtype=pl.String))
        logps = logps.join(now, on=[*ID, "response_hash"], how="semi")
    for side in ("chosen", "rejected"):
        column = f"ref_{side}_logps"
        held = logps.select("prompt_id", pl.col("response_id").alias(f"{side}_id"), pl.col("logp").alias(column))
        pairs = pairs.join(held, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    return pairs


def _one_model(logps: pl.DataFrame, what: str) -> None:
    for column in ("model_hash", "template_hash"):
        if len(names := logps[column].unique().sort().to_list()) > 1:
            raise DataError(
                f"the {what} log-probabilities hold several {column}: {', '.join(names)}; keep the rows of one"
            )
    if logps.select(pl.struct(ID).is_duplicated().any()).item():
        raise DataError(f"the {what} log-probabilities hold a response twice; keep one row of each")


def _found(code: str, rows: pl.DataFrame, told: str) -> pl.DataFrame:
    detail = pl.concat_str(pl.lit(f"{told} "), pl.col(told).cast(pl.String).fill_null("null"))
    return rows.select(code=pl.lit(code), prompt_id="prompt_id", response_id="response_id", detail=detail)
