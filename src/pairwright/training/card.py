"""The card of a trained model."""

import json
from collections.abc import Mapping
from typing import Any


def card(facts: Mapping[str, Any], *, base: str, manifest: Mapping[str, Any]) -> str:
    """README.md of the model's folder: what it was made of, what became of every pair, what was seen on the way."""
    final = facts["final"]
    loss = facts["settings"]["train"]["loss"]
    lines = "\n".join(
        f"| {each['stage']} | {each['rows_in']} | {each['kept']} | "
        f"{', '.join(f'{reason} {n}' for reason, n in each['dropped'].items()) or '-'} |"
        for each in facts["ledger"]
    )
    trained, whole = facts["parameters"]
    seen = "\n".join(f"| `{name}` | {_number(final[name])} |" for name in _SHOWN if name in final)
    alarms = "\n".join(f"- {each['told']}" for each in facts["alarms"]) or "None."
    library = "peft" if "lora" in facts["settings"]["train"] else "transformers"
    return f"""---
library_name: {library}
base_model: {json.dumps(base)}
tags:
- dpo
- trl
- pairwright
---

# {base}, trained with the loss `{loss}`

{facts["steps"]} steps of {facts["pairs_per_step"]} pairs, {trained:,} of {whole:,} parameters, reference: {facts["reference"]}.

## What happened to every pair

| stage | in | kept | dropped |
| --- | --- | --- | --- |
{lines}

## Last values

| | |
| --- | --- |
{seen}

These are about the training pairs unless they begin with `eval_`; none of them says that answers are better.
`pairwright compare` draws answers and compares them with the base model and with controls.

## Alarms of the guard

{alarms}

## Settings

```json
{json.dumps(manifest["settings"], indent=2, ensure_ascii=False)}
```
"""


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


_SHOWN = (
    "loss", "rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "pairwright/logratio/chosen",
    "pairwright/logratio/rejected", "pairwright/displaced", "pairwright/kl_ref", "eval_loss", "eval_rewards/accuracies",
    "eval_rewards/margins",
)  # fmt: skip
