"""The layouts of published pairs: one function in and one out for each.

A reader names the columns it used up; scores, ids, models and what is left over are the business of `rows`.
"""

from itertools import takewhile
from typing import Any

from pairwright.io.layouts.model import Messages, Options, PairRow, Refused, Row, Sides
from pairwright.io.layouts.ratings import parse_rating
from pairwright.io.layouts.turns import (
    answer,
    assistant,
    hh_text,
    hh_turns,
    messages,
    only_answer,
    only_user,
    prompt_of,
    records,
    same_text,
    split,
    text,
    user,
    whole_prompt,
)

ECHO = 32  # characters; both answers to a prompt like "Good morning!" may begin with it
TASK = "preference"  # NeMo RL's task_name where nobody gave one


def _answer(value: object, *, what: str) -> Messages:
    """One side as text, or as messages that hold only new turns."""
    if isinstance(value, str):
        return answer(assistant(value), what=what)
    return answer(messages(value, what=what), what=what)


# TRL


def read_explicit(row: Row, options: Options) -> Sides:
    """Messages on all three; a side that repeats the prompt is cut behind it, as TRL would not."""
    prompt = prompt_of(row["prompt"])
    notes: tuple[str, ...] = ()
    sides = []
    for what in ("chosen", "rejected"):
        turns = messages(row[what], what=what)
        if turns[: len(prompt)] == prompt:
            turns, notes = turns[len(prompt) :], ("prompt_repeated_in_sides",)
        elif turns and turns[0]["role"] in ("user", "system", "developer"):
            raise Refused("prompt_column_differs_from_conversation", f"{what} begins with another prompt")
        sides.append(answer(turns, what=what))
    return Sides(prompt, sides[0], sides[1], frozenset({"prompt", "chosen", "rejected"}), notes=notes)


def write_explicit(row: PairRow, options: Options) -> Row:
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}


def write_pairwright(row: PairRow, options: Options) -> Row:
    return {**write_explicit(row, options), "meta": None}


def read_pairwright(row: Row, options: Options) -> Sides:
    sides = read_explicit(row, options)
    return sides._replace(used=sides.used | ({"meta"} if row.get("meta") is None else set()))


def read_implicit(row: Row, options: Options) -> Sides:
    """Two whole conversations."""
    sides = split(messages(row["chosen"], what="chosen"), messages(row["rejected"], what="rejected"))
    return Sides(*sides, frozenset({"chosen", "rejected"}))


def write_implicit(row: PairRow, options: Options) -> Row:
    return {"chosen": row.prompt + row.chosen, "rejected": row.prompt + row.rejected}


def read_standard(row: Row, options: Options) -> Sides:
    return _texts(row, "prompt", "chosen", "rejected")


def _texts(row: Row, prompt: str, chosen: str, rejected: str) -> Sides:
    """Texts. Sides that repeat the prompt are cut behind it, unless it is so short that an answer may echo it."""
    turns, sides = prompt_of(row[prompt]), [text(row[name], what=name) for name in (chosen, rejected)]
    notes: tuple[str, ...] = ()
    said = row[prompt]
    if isinstance(said, str) and all(side.startswith(said) for side in sides):
        if len(said) < ECHO and "\n" not in said and not said[-1].isspace() and said[-1] not in ":?":
            notes = ("sides_begin_with_prompt",)
        else:
            sides, notes = [side[len(said) :] for side in sides], ("prompt_repeated_in_sides",)
    answers = [_answer(side, what=name) for name, side in zip((chosen, rejected), sides, strict=True)]
    return Sides(turns, answers[0], answers[1], frozenset({prompt, chosen, rejected}), notes=notes)


def write_standard(row: PairRow, options: Options) -> Row:
    return {
        "prompt": only_user(row.prompt, layout="trl_standard"),
        "chosen": only_answer(row.chosen, layout="trl_standard"),
        "rejected": only_answer(row.rejected, layout="trl_standard"),
    }


def read_standard_implicit(row: Row, options: Options) -> Sides:
    """Prompt and answer in one string: cut behind the last `prompt_end` that both sides share."""
    left, right = text(row["chosen"], what="chosen"), text(row["rejected"], what="rejected")
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False)))
    if not shared and left and right:
        raise Refused("prompt_mismatch", "the two strings share no beginning")
    if not options.prompt_end:
        raise Refused("prompt_boundary_unknown", "say with prompt_end what text the prompts end with")
    at = left.rfind(options.prompt_end, 0, shared)
    if at < 0:
        raise Refused("prompt_boundary_unknown", f"{options.prompt_end!r} is not in what the sides share")
    cut = at + len(options.prompt_end)
    chosen, rejected = _answer(left[cut:], what="chosen"), _answer(right[cut:], what="rejected")
    return Sides(whole_prompt(user(left[:cut])), chosen, rejected, frozenset({"chosen", "rejected"}))


def write_standard_implicit(row: PairRow, options: Options) -> Row:
    bare = write_standard(row, options)
    if not options.prompt_end:
        raise Refused("prompt_boundary_unknown", "say with prompt_end what text the prompts end with")
    return {what: bare["prompt"] + bare[what] for what in ("chosen", "rejected")}


# conversations beside a prompt as text


def read_beside(row: Row, options: Options) -> Sides:
    """Whole conversations, and their question once more in the column `prompt`, which must agree."""
    prompt, chosen, rejected = split(messages(row["chosen"], what="chosen"), messages(row["rejected"], what="rejected"))
    asked = text(row["prompt"], what="prompt")
    users = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not (same_text(asked, users[-1]) or same_text(asked, users[0])):
        raise Refused(
            "prompt_column_differs_from_conversation", f"prompt {asked!r:.60}, conversation {users[-1]!r:.60}"
        )
    return Sides(prompt, chosen, rejected, frozenset({"prompt", "chosen", "rejected"}))


def write_beside(row: PairRow, options: Options) -> Row:
    return {"prompt": row.prompt[-1]["content"], **write_implicit(row, options)}


def read_binarized(row: Row, options: Options) -> Sides:
    """HuggingFaceH4: `messages` repeats the chosen conversation."""
    sides = read_beside(row, options)
    return sides._replace(used=sides.used | ({"messages"} if row.get("messages") in (None, row["chosen"]) else set()))


def write_binarized(row: PairRow, options: Options) -> Row:
    return {**write_beside(row, options), "messages": row.prompt + row.chosen}


def read_open_instruct(row: Row, options: Options) -> Sides:
    sides = read_beside(row, options)
    return sides._replace(used=sides.used | _if_null(row, "source"))


def write_open_instruct(row: PairRow, options: Options) -> Row:
    return {**write_beside(row, options), "source": row.meta.get("source")}


def read_skywork(row: Row, options: Options) -> Sides:
    sides = read_implicit(row, options)
    return sides._replace(used=sides.used | _if_null(row, "source"))


def write_skywork(row: PairRow, options: Options) -> Row:
    return {**write_implicit(row, options), "source": row.meta.get("source")}


def _if_null(row: Row, name: str) -> set[str]:
    return {name} if row.get(name) is None else set()


# flat text


def _flat(row: Row, prompt: str) -> Sides:
    return _texts(row, prompt, "chosen_response", "rejected_response")


def _flat_row(row: PairRow, prompt: str, layout: str) -> Row:
    return {
        prompt: only_user(row.prompt, layout=layout),
        "chosen_response": only_answer(row.chosen, layout=layout),
        "rejected_response": only_answer(row.rejected, layout=layout),
    }


def read_argilla(row: Row, options: Options) -> Sides:
    return _flat(row, "instruction")


def write_argilla(row: PairRow, options: Options) -> Row:
    return _flat_row(row, "instruction", "argilla_binarized")


def read_nemo_aligner(row: Row, options: Options) -> Sides:
    return _flat(row, "prompt")


def write_nemo_aligner(row: PairRow, options: Options) -> Row:
    return _flat_row(row, "prompt", "nemo_aligner")


# Anthropic


def read_hh(row: Row, options: Options) -> Sides:
    """Two dialogues as text; they may part only at the last answer."""
    told = (hh_turns(text(row[what], what=what), what=what) for what in ("chosen", "rejected"))
    return Sides(*split(*told), frozenset({"chosen", "rejected"}))


def write_hh(row: PairRow, options: Options) -> Row:
    return {"chosen": hh_text(row.prompt + row.chosen), "rejected": hh_text(row.prompt + row.rejected)}


# NVIDIA


def read_helpsteer3(row: Row, options: Options) -> Sides:
    """overall_preference: below 0 the first, 0 a tie and so no pair, above 0 the second."""
    preference, reason = parse_rating(row["overall_preference"])
    if preference is None:
        raise Refused(reason or "rating_missing", f"overall_preference is {row['overall_preference']!r}")
    if preference == 0:
        raise Refused("tie", "overall_preference is 0")
    first, second = (_answer(row[name], what=name) for name in ("response1", "response2"))
    chosen, rejected = (first, second) if preference < 0 else (second, first)
    used = frozenset({"context", "response1", "response2", "overall_preference"})
    return Sides(prompt_of(row["context"], what="context"), chosen, rejected, used, {"margin": abs(preference)})


def write_helpsteer3(row: PairRow, options: Options) -> Row:
    """The chosen answer first; the margin where it is positive, else 1."""
    return {
        "context": row.prompt,
        "response1": only_answer(row.chosen, layout="helpsteer3"),
        "response2": only_answer(row.rejected, layout="helpsteer3"),
        "overall_preference": -(row.margin if row.margin is not None and row.margin > 0 else 1.0),
    }


def read_nemo_rl(row: Row, options: Options) -> Sides:
    """Completions with ranks: the lowest is chosen, the highest rejected."""
    ranked: list[tuple[float, Any]] = []
    for each in records(row["completions"], what="completions"):
        rank, reason = parse_rating(each.get("rank"))
        if rank is None:
            raise Refused(reason or "rating_missing", "a completion has no rank")
        ranked.append((rank, each.get("completion")))
    if len(ranked) < 2:
        raise Refused("fewer_than_two_scored", f"{len(ranked)} completions")
    best, worst = min(ranked, key=lambda item: item[0]), max(ranked, key=lambda item: item[0])
    if best[0] == worst[0]:
        raise Refused("tie", f"all completions have rank {best[0]:g}")
    used = {"context", "completions"} | ({"task_name"} if row.get("task_name") in (None, TASK) else set())
    chosen, rejected = (_answer(side, what=what) for what, side in (("chosen", best[1]), ("rejected", worst[1])))
    return Sides(prompt_of(row["context"], what="context"), chosen, rejected, frozenset(used))


def write_nemo_rl(row: PairRow, options: Options) -> Row:
    completions = [{"rank": 0, "completion": row.chosen}, {"rank": 1, "completion": row.rejected}]
    return {"context": row.prompt, "completions": completions, "task_name": row.meta.get("task_name", TASK)}


# HALOs


def read_halos(row: Row, options: Options) -> Sides:
    """label 1: A is better, 0: B is. reward_difference has lost its sign, so the rewards are read."""
    label, reason = parse_rating(row["label"])
    if label not in (0.0, 1.0):
        raise Refused(reason or "label_unreadable", f"label is {row['label']!r}, not 0 or 1")
    better, worse = ("A", "B") if label else ("B", "A")
    scores = [parse_rating(row.get(f"reward_{side}"))[0] for side in (better, worse)]
    gap = None if scores[0] is None or scores[1] is None else scores[0] - scores[1]
    used = {"prompt", "output_A", "output_B", "label", "reward_A", "reward_B"}
    distance = parse_rating(row.get("reward_difference"))[0]
    if distance is None or (gap is not None and abs(distance - abs(gap)) <= 1e-9 * max(1.0, abs(gap))):
        used.add("reward_difference")
    if row.get("type") in (None, "pairwise_feedback"):
        used.add("type")
    chosen, rejected = (_answer(row[f"output_{side}"], what=f"output_{side}") for side in (better, worse))
    facts = {"score_chosen": scores[0], "score_rejected": scores[1], "margin": gap}
    return Sides(prompt_of(row["prompt"]), chosen, rejected, frozenset(used), facts)


def write_halos(row: PairRow, options: Options) -> Row:
    both = row.score_chosen is not None and row.score_rejected is not None
    return {
        "prompt": row.prompt,
        "output_A": row.chosen,
        "output_B": row.rejected,
        "label": 1,
        "reward_A": row.score_chosen,
        "reward_B": row.score_rejected,
        "reward_difference": abs((row.score_chosen or 0.0) - (row.score_rejected or 0.0)) if both else None,
        "type": "pairwise_feedback",
    }
