"""Two rows of every layout as their sources publish them, with columns that no layout knows."""

from typing import Any


def talk(*turns: str) -> list[dict[str, str]]:
    """ "user: Hi" as a message."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def gpt(*turns: str) -> list[dict[str, str]]:
    """ "human: Hi" as a ShareGPT message."""
    return [dict(zip(("from", "value"), turn.split(": ", 1), strict=True)) for turn in turns]


def _whole(question: str, answer: str) -> list[dict[str, str]]:
    return talk(f"user: {question}", f"assistant: {answer}")


def _completion(model: str, said: str, overall: Any, ratings: list[str]) -> dict[str, Any]:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    notes = {a: {"Rating": r, "Rationale": "so", "Type": ["1"]} for a, r in zip(aspects, ratings, strict=True)}
    return {
        "annotations": notes,
        "critique": "Fine.",
        "custom_system_prompt": "Be kind.",
        "fine-grained_score": 3.5,
        "model": model,
        "overall_score": overall,
        "principle": "honesty",
        "response": said,
    }


def _steer(prompt: str, said: str, *aspects: int) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": said, **dict(zip(names, aspects, strict=True)), "split": "train"}


_OWN = {"weight": 1.0, "prompt_id": "p1", "chosen_model": "m1", "rejected_model": "m2"}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "pairwright": [
        {
            "prompt": talk("system: Be brief.", "user: Name a colour."),
            "chosen": talk("assistant: Blue."),
            "rejected": talk("assistant: Seven."),
            "score_chosen": 8.0,
            "score_rejected": 3.5,
            "margin": 4.5,
            **_OWN,
            "meta": '{"rule":"max/min","z_chosen":1.25}',
        },
        {
            "prompt": talk("user: Name a fish."),
            "chosen": talk("assistant: Cod."),
            "rejected": talk("assistant: Dog."),
            "score_chosen": 1.0,
            "score_rejected": 0.5,
            "margin": 0.5,
            **_OWN,
            "meta": None,
        },
    ],
    "trl_explicit": [
        {"prompt": talk("user: Q"), "chosen": talk("assistant: a"), "rejected": talk("assistant: b"), "topic": "x"},
        {
            "prompt": talk("user: Q", "assistant: A", "user: R"),
            "chosen": talk("assistant: c"),
            "rejected": talk("assistant: d"),
            "topic": None,
        },
    ],
    "trl_implicit": [
        {"chosen": _whole("Q", "a"), "rejected": _whole("Q", "b"), "margin": 2.0},
        {"chosen": _whole("R", "c"), "rejected": _whole("R", "d"), "margin": None},
    ],
    "trl_standard": [
        {"prompt": "Q", "chosen": "a", "rejected": "b", "score": {"x": 1}},
        {"prompt": "R", "chosen": "c", "rejected": "d", "score": {"x": 2}},
    ],
    "trl_standard_implicit": [
        {"chosen": "Is the sky blue? Yes", "rejected": "Is the sky blue? Yes, very", "n": 1},
        {"chosen": "Why? Because", "rejected": "Why? No idea", "n": 2},
    ],
    "ultrafeedback": [
        {
            "source": "evol_instruct",
            "instruction": "Name a fish.",
            "models": ["m1", "m2"],
            "completions": [
                _completion("m1", "Cod.", 8.5, ["5", "4", "5", "N/A"]),
                _completion("m2", "Dog.", 2.0, ["1", "2", "1", "1"]),
            ],
            "correct_answers": ["None"],
        },
        {
            "source": "flan",
            "instruction": "Add 2 and 2.",
            "models": ["m1", "m2", "m3"],
            "completions": [
                _completion("m1", "5", "10", ["1", "1", "2", "1"]),
                _completion("m2", "4", "9", ["5", "5", "5", "5"]),
                _completion("m3", "22", 3.0, ["2", "1", "2", "1"]),
            ],
            "correct_answers": ["4"],
        },
    ],
    "ultrafeedback_binarized": [
        {
            "prompt": "Q",
            "prompt_id": "abc",
            "chosen": _whole("Q", "a"),
            "rejected": _whole("Q", "b"),
            "messages": _whole("Q", "a"),
            "score_chosen": 8.0,
            "score_rejected": 6.5,
            "source_index": 7,
        },
        {
            "prompt": "R",
            "prompt_id": "def",
            "chosen": _whole("R", "c"),
            "rejected": _whole("R", "d"),
            "messages": _whole("R", "another"),
            "score_chosen": 7.0,
            "score_rejected": 7.0,
            "source_index": 8,
        },
    ],
    "argilla_binarized": [
        {
            "source": "sharegpt",
            "instruction": "Q",
            "chosen_response": "a",
            "rejected_response": "b",
            "chosen_avg_rating": 4.25,
            "rejected_avg_rating": 4.0,
            "chosen_model": "m1",
        },
        {
            "source": "flan",
            "instruction": "R",
            "chosen_response": "c",
            "rejected_response": "d",
            "chosen_avg_rating": 5,
            "rejected_avg_rating": 2.5,
            "chosen_model": "m2",
        },
    ],
    "argilla_cleaned": [
        {
            "source": "sharegpt",
            "prompt": "Q",
            "chosen": _whole("Q", "a"),
            "chosen-rating": 5.0,
            "chosen-model": "m1",
            "rejected": _whole("Q", "b"),
            "rejected-rating": 3.0,
            "rejected-model": "m2",
        }
    ]
    * 2,
    "helpsteer2": [
        _steer("P", "a", 4, 4, 4, 2, 1),
        _steer("P", "b", 3, 3, 4, 3, 4),
        _steer("Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nJoke?", "c", 1, 1, 1, 1, 1),
        _steer("Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nJoke?", "d", 0, 1, 1, 1, 1),
    ],
    "helpsteer3": [
        {
            "domain": "code",
            "language": "python",
            "context": talk("user: Q"),
            "response1": "a",
            "response2": "b",
            "overall_preference": -2,
            "individual_preference": [{"score": -2, "reasoning": "so"}],
        },
        {
            "domain": "general",
            "language": "english",
            "context": talk("user: R"),
            "response1": "c",
            "response2": "d",
            "overall_preference": 3,
            "individual_preference": [],
        },
    ],
    "hh_rlhf": [
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: Knock knock",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: No",
        },
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So", "rejected": "\n\nHuman: Why?\n\nAssistant: Hm "},
    ],
    "nectar": [
        {
            "prompt": "\n\nHuman: Name a fish. \n\nAssistant: ",
            "answers": [
                {"answer": "Dog", "model": "m1", "rank": 3.0},
                {"answer": "Cod", "model": "m2", "rank": 1.0},
                {"answer": "Eel", "model": "m3", "rank": 2.0},
            ],
            "turns": 1,
            "source": ["ultrachat"],
            "good_natured": True,
        },
        {
            "prompt": "\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: So?\n\nAssistant: ",
            "answers": [{"answer": "Yes", "model": "m1", "rank": 2.0}, {"answer": "No", "model": "m2", "rank": 1.0}],
            "turns": 2,
            "source": ["sharegpt"],
            "good_natured": False,
        },
    ],
    "simpo": [
        {
            "prompt_id": "s0",
            "prompt": "Q",
            "all_generated_responses": ["a", "b", "c"],
            "all_rm_scores": [0.1, 0.3, 0.2],
            "chosen": _whole("Q", "b"),
            "rejected": _whole("Q", "a"),
        },
        {
            "prompt_id": "s1",
            "prompt": "R",
            "all_generated_responses": ["a", "b", "c"],
            "all_rm_scores": [0.1, 0.3, 0.2],
            "chosen": _whole("R", "c"),
            "rejected": _whole("R", "a"),
        },
    ],
    "rlhflow": [
        {"prompt": "Q", "responses": ["a", "b"], "rewards": [0.5, -1.5], "idx": 0},
        {"prompt": "R", "responses": ["c", "d"], "rewards": [1, 2], "idx": 1},
    ],
    "distilabel_generations": [
        {"instruction": "Q", "generations": ["a", "b"], "generation_models": ["m1", "m2"], "ratings": [4, 2]},
        {"instruction": "R", "generations": ["c", "d"], "generation_models": ["m1", "m2"], "ratings": [1, 5.0]},
    ],
    "distilabel": [
        {
            "instruction": "Q",
            "generations": ["a", "b"],
            "ratings": [5, 1],
            "prompt": "Q",
            "prompt_id": "0f",
            "chosen": _whole("Q", "a"),
            "chosen_model": "m1",
            "chosen_rating": 5,
            "rejected": _whole("Q", "b"),
            "rejected_model": "m2",
            "rejected_rating": 1,
        }
    ]
    * 2,
    "open_instruct": [
        {
            "id": "t-0",
            "source": "wildchat",
            "prompt": "Hi",
            "chosen": talk("user: Hi", "assistant: Yo", "user: Q", "assistant: a"),
            "rejected": talk("user: Hi", "assistant: Yo", "user: Q", "assistant: b"),
            "chosen_rating": 4.5,
            "rejected_rating": 3.0,
        },
        {
            "id": "t-1",
            "source": "flan",
            "prompt": "R",
            "chosen": _whole("R", "c"),
            "rejected": _whole("R", "d"),
            "chosen_rating": 4.0,
            "rejected_rating": 2.0,
        },
    ],
    "skywork": [
        {"chosen": _whole("Q", "a"), "rejected": _whole("Q", "b"), "source": "helpsteer2"},
        {"chosen": _whole("R", "c"), "rejected": _whole("R", "d"), "source": None},
    ],
    "halos": [
        {
            "prompt_id": "h0",
            "prompt": talk("user: Q"),
            "output_A": talk("assistant: a"),
            "output_B": talk("assistant: b"),
            "label": 0,
            "reward_A": 0.25,
            "reward_B": 0.75,
            "reward_difference": 0.5,
            "type": "pairwise_feedback",
            "split": "train",
        },
        {
            "prompt_id": "h1",
            "prompt": talk("user: R"),
            "output_A": talk("assistant: c"),
            "output_B": talk("assistant: d"),
            "label": 1,
            "reward_A": 2.0,
            "reward_B": 1.0,
            "reward_difference": 1.0,
            "type": "pairwise_feedback",
            "split": "train",
        },
    ],
    "nemo_rl": [
        {
            "context": talk("user: Q"),
            "completions": [
                {"rank": 1, "completion": talk("assistant: b")},
                {"rank": 0, "completion": talk("assistant: a")},
            ],
            "task_name": "my_task",
        },
        {
            "context": talk("system: S", "user: R"),
            "completions": [
                {"rank": 0, "completion": talk("assistant: c")},
                {"rank": 1, "completion": talk("assistant: d")},
            ],
            "task_name": "preference",
        },
    ],
    "nemo_aligner": [
        {"prompt": "Q", "chosen_response": "a", "rejected_response": "b", "chosen_reward": 3.0, "rejected_reward": 1.0},
        {"prompt": "R", "chosen_response": "c", "rejected_response": "d", "chosen_reward": 2, "rejected_reward": -1},
    ],
    "openrlhf": [
        {"chosen": _whole("Q", "a"), "rejected": _whole("Q", "b"), "chosen_score": 5.0, "rejected_score": 4.0},
        {"chosen": _whole("R", "c"), "rejected": _whole("R", "d"), "chosen_score": 1.5, "rejected_score": 2.0},
    ],
    "llamafactory": [
        {
            "conversations": gpt("system: S", "human: Hi", "gpt: Yo", "human: Q"),
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
            "lang": "en",
        },
        {
            "conversations": gpt("human: R"),
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "d"},
            "lang": "zh",
        },
    ],
    "llamafactory_alpaca": [
        {"instruction": "Translate.", "input": "Katze", "chosen": "cat", "rejected": "dog"},
        {"instruction": "Q", "input": "", "chosen": "a", "rejected": "b", "history": [["Hi", "Yo"]], "system": "S"},
    ],
    "axolotl": [
        {
            "messages": talk("system: S", "user: Q"),
            "chosen": {"role": "assistant", "content": "a"},
            "rejected": {"role": "assistant", "content": "b"},
            "id": 3,
        },
        {
            "messages": talk("user: R"),
            "chosen": {"role": "assistant", "content": "c"},
            "rejected": {"role": "assistant", "content": "d"},
            "id": 4,
        },
    ],
    "ms_swift": [
        {"messages": talk("system: S", "user: Q", "assistant: a"), "rejected_response": "b", "margin": 1.5},
        {"messages": _whole("R", "c"), "rejected_messages": _whole("R", "d")},
    ],
}
