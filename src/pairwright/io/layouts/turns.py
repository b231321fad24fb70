"""Conversations: checking them, cutting them into prompt and answers, and the text forms that some layouts use."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pairwright.io.layouts.model import Messages, Refused
from pairwright.tables import ROLES

_HH = re.compile(r"\n\n(Human|Assistant):[ ]?")
_HH_LINE = re.compile(r"^(Human|Assistant):", re.MULTILINE)
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_MARK = re.compile(r"\n?<extra_id_[01]>(System|User|Assistant)\n")
_FROM = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_FROM |= {"observation": "tool", "function_call": "function"}
_TO = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation", "function": "function_call"}


def messages(value: object, *, what: str, keys: tuple[str, str] = ("role", "content")) -> Messages:
    """A list of messages, reduced to role and content."""
    if value is None:
        raise Refused("null_side" if what != "prompt" else "prompt_missing", f"{what} is null")
    if not isinstance(value, list):
        raise Refused("unusable_turn", f"{what} is {type(value).__name__}, not a list of messages")
    return [message(turn, what=what, keys=keys) for turn in value]


def message(turn: object, *, what: str, keys: tuple[str, str] = ("role", "content")) -> dict[str, str]:
    """One message; a tool call or a content that is no text is refused: without it the pair means another thing."""
    if turn is None:
        raise Refused("null_side", f"{what} is null")
    if not isinstance(turn, dict):
        raise Refused("unusable_turn", f"{what} holds {type(turn).__name__}, not a message")
    role, content = turn.get(keys[0]), turn.get(keys[1])
    if not isinstance(role, str) or role not in ROLES:
        raise Refused("unusable_turn", f"{what} has a turn with the {keys[0]} {role!r}")
    if content is None and not turn.get("tool_calls") and role == "assistant":
        raise Refused("null_side", f"{what} has an answer without text")
    if not isinstance(content, str) or turn.get("tool_calls"):
        raise Refused("unusable_turn", f"{what} has a turn that is not plain text")
    return {"role": role, "content": content}


def text(value: object, *, what: str) -> str:
    if value is None:
        raise Refused("prompt_missing" if what == "prompt" else "null_side", f"{what} is null")
    if not isinstance(value, str):
        raise Refused("unusable_turn", f"{what} is {type(value).__name__}, not text")
    return value


def records(value: object, *, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Refused("unusable_turn", f"{what} is not a list of records")
    return value


def user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def assistant(content: str) -> Messages:
    return [{"role": "assistant", "content": content}]


def prompt_of(value: object, *, what: str = "prompt") -> Messages:
    """A prompt given as text or as messages; it ends with a user turn."""
    turns = user(text(value, what="prompt")) if not isinstance(value, list) else messages(value, what="prompt")
    return whole_prompt(turns, what=what)


def whole_prompt(turns: Messages, *, what: str = "prompt") -> Messages:
    if not turns or not turns[-1]["content"].strip():
        raise Refused("prompt_missing", f"{what} is empty")
    if turns[-1]["role"] != "user":
        raise Refused("prompt_unusable", f"{what} ends with a {turns[-1]['role']} turn, not with a user turn")
    return turns


def answer(turns: Messages, *, what: str) -> Messages:
    """The new turns of one side: the assistant's, with tools in between; a second answer means the sides parted earlier."""
    if not turns or not turns[-1]["content"].strip():
        raise Refused("empty_side", f"{what} is empty")
    roles = [turn["role"] for turn in turns]
    if not set(roles) <= {"assistant", "tool", "function"} or ("assistant", "assistant") in pairwise(roles):
        raise Refused("parts_before_last_turn", f"{what} holds a dialogue, not one answer")
    if roles[0] != "assistant" or roles[-1] != "assistant":
        raise Refused("unusable_turn", f"{what} does not begin and end with the assistant")
    return turns


def split(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Two whole conversations as their common prompt, up to the last user turn, and what each side adds."""
    if not chosen or not rejected:
        raise Refused("empty_side", f"{'rejected' if chosen else 'chosen'} is empty")
    cut, cut_too = _last_user(chosen), _last_user(rejected)
    if cut != cut_too or chosen[:cut] != rejected[:cut]:
        raise _how_they_part(chosen, rejected, cut, cut_too)
    prompt = whole_prompt(chosen[:cut])
    return prompt, answer(chosen[cut:], what="chosen"), answer(rejected[cut:], what="rejected")


def _last_user(turns: Messages) -> int:
    """How many turns there are up to and with the last one of the user."""
    return max((i + 1 for i, turn in enumerate(turns) if turn["role"] == "user"), default=0)


def _how_they_part(chosen: Messages, rejected: Messages, cut: int, cut_too: int) -> Refused:
    first = next((i for i, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    if first is None or "assistant" in (chosen[first]["role"], rejected[first]["role"]):
        return Refused("parts_before_last_turn", "the sides differ before their last answer")
    if cut == cut_too and [_squeezed(turn) for turn in chosen[:cut]] == [_squeezed(turn) for turn in rejected[:cut]]:
        return Refused("prompt_differs_in_spaces", "the prompts of the two sides differ in white space only")
    return Refused(
        "prompt_mismatch", f"turn {first} of chosen is {chosen[first]['content']!r:.60}, of rejected another"
    )


def _squeezed(turn: dict[str, str]) -> tuple[str, str]:
    return turn["role"], _squeeze(turn["content"])


def _squeeze(content: str) -> str:
    return " ".join(content.split())


def same_text(left: str, right: str) -> bool:
    return left == right or _squeeze(left) == _squeeze(right)


def only_user(prompt: Messages, *, layout: str) -> str:
    """The text of a prompt that is one user turn; other prompts have no place in such a layout."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    if any(turn["role"] in ("system", "developer") for turn in prompt):
        raise Refused("system_prompt_has_no_place", f"{layout} holds a prompt of one user turn as text")
    raise Refused("earlier_turns_have_no_place", f"{layout} holds a prompt of one user turn as text")


def only_answer(side: Messages, *, layout: str) -> str:
    if len(side) != 1:
        raise Refused("several_turns_have_no_place", f"{layout} holds one assistant turn per side")
    return side[0]["content"]


def hh_turns(dialogue: str, *, what: str) -> Messages:
    """Turns that begin with Human: or Assistant: after an empty line, as messages."""
    pieces = _HH.split("\n\n" + dialogue.lstrip("\n"))
    if pieces[0].strip() or len(pieces) < 3:
        raise Refused("unusable_turn", f"{what} does not begin with a Human: or Assistant: marker")
    turns = [{"role": _HH_ROLES[who], "content": said} for who, said in zip(pieces[1::2], pieces[2::2], strict=True)]
    if any(turn["role"] == "assistant" and _HH_LINE.search(turn["content"]) for turn in turns):
        raise Refused("marker_inside_turn", f"{what} has a Human: or Assistant: marker inside an answer")
    return turns


def hh_text(turns: Messages) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    if any(turn["role"] not in names for turn in turns):
        raise Refused("system_prompt_has_no_place", "hh text knows Human and Assistant only")
    if any(_HH.search(turn["content"]) for turn in turns):
        raise Refused("marker_inside_turn", "a turn holds a Human: or Assistant: marker")
    return "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)


def unwrap(dialogue: str) -> Messages:
    """A prompt between "Human:" and a closing "Assistant:", with or without newlines; other text is one user turn."""
    bare = dialogue.strip()
    if not bare.startswith("Human:"):
        return user(dialogue)
    bare = re.sub(r"\s*Assistant:\s*$", "", bare)
    return [{**turn, "content": turn["content"].strip()} for turn in hh_turns("\n\n" + bare, what="prompt")]


def marked_turns(prompt: str) -> Messages:
    """HelpSteer2: the first user turn bare, later ones after <extra_id_1>Assistant and <extra_id_1>User."""
    pieces = _MARK.split(prompt)
    turns = user(pieces[0]) if pieces[0] else []
    return turns + [
        {"role": who.lower(), "content": said} for who, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def marked_text(turns: Messages) -> str:
    if turns[0]["role"] != "user" or any(turn["role"] not in ("user", "assistant") for turn in turns):
        raise Refused("system_prompt_has_no_place", "<extra_id_1> text knows User and Assistant only")
    return turns[0]["content"] + "".join(f"\n<extra_id_1>{t['role'].capitalize()}\n{t['content']}" for t in turns[1:])


def from_sharegpt(value: object, *, what: str) -> Messages:
    """[{"from": "human", "value": ...}] as messages."""
    if value is None:
        raise Refused("null_side" if what != "prompt" else "prompt_missing", f"{what} is null")
    turns = value if isinstance(value, list) else [value]
    renamed = [
        {**t, "from": _FROM.get(str(t.get("from")), t.get("from"))} if isinstance(t, Mapping) else t for t in turns
    ]
    return messages(renamed, what=what, keys=("from", "value"))


def to_sharegpt(turns: Messages) -> list[dict[str, str]]:
    if any(turn["role"] not in _TO for turn in turns):
        raise Refused("developer_prompt_has_no_place", "ShareGPT knows no developer role")
    return [{"from": _TO[turn["role"]], "value": turn["content"]} for turn in turns]
