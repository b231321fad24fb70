"""What a user pastes into the configuration of the program that reads a layout."""

import json
from collections.abc import Collection
from pathlib import Path

_TRL = "datasets:\n  - path: {kind}\n    data_files: {path}"
_LOAD = 'load_dataset("{kind}", data_files="{path}", split="train")'
_NEMO = "data:\n  train:\n    dataset_name: PreferenceDataset\n    data_path: {path}"
_TEXTS = {
    **dict.fromkeys(("pairwright", "trl_explicit", "trl_implicit", "trl_standard", "trl_standard_implicit"), _TRL),
    "axolotl": "rl: dpo\ndatasets:\n  - path: {path}\n    ds_type: {kind}\n    split: train\n"
    "    type: chat_template.default\n"
    "    field_messages: messages\n    field_chosen: chosen\n    field_rejected: rejected",
    "openrlhf": "--data.dataset {path} --data.chosen_key chosen --data.rejected_key rejected "
    "--data.apply_chat_template",
    "ms_swift": "swift rlhf --rlhf_type dpo --dataset {path}",
    "halos": "launch.py loss=dpo train_datasets=[{path}]",
    "nemo_rl": _NEMO,
    "nemo_aligner": "model:\n  data:\n    data_prefix: {{train: [{path}]}}\n"
    "    default_chosen_reward: 1.0\n    default_rejected_reward: 0.0",
    "open_instruct": "--dataset_mixer_list {path} 1.0 --dataset_mixer_list_splits train",
}


def declaration(layout: str, path: Path, columns: Collection[str]) -> str:
    """The lines that make the reader of this layout find the file; `columns` are those that were written."""
    kind = "parquet" if path.suffix in {".parquet", ".pq"} else "json"
    if layout.startswith("llamafactory"):
        return _llamafactory(layout, path, columns)
    return _TEXTS.get(layout, _LOAD).format(kind=kind, path=path)


def _llamafactory(layout: str, path: Path, written: Collection[str]) -> str:
    """An entry of dataset_info.json. `ranking` makes it a preference set."""
    entry: dict[str, object] = {"file_name": path.name, "ranking": True}
    if layout == "llamafactory":
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        entry |= {"formatting": "sharegpt", "columns": columns}
    else:
        columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
        entry["columns"] = columns | {name: name for name in ("system", "history") if name in written}
    return json.dumps({path.stem: entry}, indent=2)
