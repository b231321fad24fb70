"""The layouts that trainers ask for: LLaMA-Factory, axolotl, ms-swift. OpenRLHF reads the implicit form of `pairs`."""

from typing import Any

from pairwright.io.layouts.model import Messages, Options, PairRow, Refused, Row, Sides
from pairwright.io.layouts.turns import (
    answer,
    assistant,
    from_sharegpt,
    message,
    messages,
    only_answer,
    prompt_of,
    split,
    text,
    to_sharegpt,
    user,
    whole_prompt,
)


def read_llamafactory(row: Row, options: Options) -> Sides:
    """ShareGPT: `conversations` up to the question, one message per side."""
    prompt = whole_prompt(from_sharegpt(row["conversations"], what="prompt"))
    chosen, rejected = (answer(from_sharegpt(row[what], what=what), what=what) for what in ("chosen", "rejected"))
    return Sides(prompt, chosen, rejected, frozenset({"conversations", "chosen", "rejected"}))


def write_llamafactory(row: PairRow, options: Options) -> Row:
    return {
        "conversations": to_sharegpt(row.prompt),
        "chosen": to_sharegpt(assistant(only_answer(row.chosen, layout="llamafactory")))[0],
        "rejected": to_sharegpt(assistant(only_answer(row.rejected, layout="llamafactory")))[0],
    }


def read_alpaca(row: Row, options: Options) -> Sides:
    """Alpaca: instruction, optional input, system and history of [asked, answered]."""
    asked = text(row["instruction"], what="prompt")
    if row.get("input"):
        asked = f"{asked}\n{text(row['input'], what='prompt')}"
    turns: Messages = [{"role": "system", "content": str(row["system"])}] if row.get("system") else []
    history = row.get("history") or []
    for earlier in history if isinstance(history, list) else [history]:
        if not isinstance(earlier, list) or len(earlier) != 2:
            raise Refused("unusable_turn", "history is not a list of [asked, answered]")
        turns += user(text(earlier[0], what="prompt")) + assistant(text(earlier[1], what="prompt"))
    chosen, rejected = (answer(assistant(text(row[what], what=what)), what=what) for what in ("chosen", "rejected"))
    used = {"instruction", "input", "system", "history", "chosen", "rejected"}
    return Sides(whole_prompt(turns + user(asked)), chosen, rejected, frozenset(used))


def write_alpaca(row: PairRow, options: Options) -> Row:
    turns = list(row.prompt)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise Refused("earlier_turns_have_no_place", "alpaca rows hold turns of user and assistant in alternation")
    history = [[turns[i]["content"], turns[i + 1]["content"]] for i in range(0, len(turns) - 1, 2)]
    out: Row = {
        "instruction": turns[-1]["content"],
        "input": "",
        "chosen": only_answer(row.chosen, layout="llamafactory_alpaca"),
        "rejected": only_answer(row.rejected, layout="llamafactory_alpaca"),
    }
    out |= {"system": system} if system else {}
    return out | ({"history": history} if history else {})


def read_axolotl(row: Row, options: Options) -> Sides:
    """chat_template.default: `messages` up to the question; a side is a text, a message, or a list."""
    prompt = prompt_of(row["messages"], what="messages")
    chosen, rejected = (answer(_last(row[what], prompt, what), what=what) for what in ("chosen", "rejected"))
    return Sides(prompt, chosen, rejected, frozenset({"messages", "chosen", "rejected"}))


def _last(side: Any, prompt: Messages, what: str) -> Messages:
    if isinstance(side, str):
        return assistant(side)
    if isinstance(side, list):
        turns = messages(side, what=what)
        return turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns
    return [message(side, what=what)]


def write_axolotl(row: PairRow, options: Options) -> Row:
    return {
        "messages": row.prompt,
        "chosen": assistant(only_answer(row.chosen, layout="axolotl"))[0],
        "rejected": assistant(only_answer(row.rejected, layout="axolotl"))[0],
    }


def read_swift(row: Row, options: Options) -> Sides:
    """`messages` ends with the chosen answer; the other one is a text, or a whole conversation of its own."""
    whole = messages(row["messages"], what="chosen")
    if row.get("rejected_messages") is not None:
        other = messages(row["rejected_messages"], what="rejected")
    else:
        cut = max((i + 1 for i, turn in enumerate(whole) if turn["role"] == "user"), default=0)
        other = whole[:cut] + assistant(text(row.get("rejected_response"), what="rejected"))
    return Sides(*split(whole, other), frozenset({"messages", "rejected_response", "rejected_messages"}))


def write_swift(row: PairRow, options: Options) -> Row:
    whole = row.prompt + row.chosen
    if len(row.rejected) > 1:
        return {"messages": whole, "rejected_messages": row.prompt + row.rejected}
    return {"messages": whole, "rejected_response": row.rejected[0]["content"]}
