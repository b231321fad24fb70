"""The expensive step, one part after the other: python bench/speed/scoring.py [logprobs] [reward] [endpoint] [--full]"""

import argparse

import scoring_endpoint
import scoring_logprobs
import scoring_reward

PARTS = {"logprobs": scoring_logprobs.main, "reward": scoring_reward.main, "endpoint": scoring_endpoint.main}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument(
        "--full", action="store_true", help="SmolLM2-135M and 64 responses per prompt: an hour on 2 cores"
    )
    options = parser.parse_args()
    for name in options.parts or PARTS:
        print(f"\n== {name}")
        PARTS[name](small=not options.full)


if __name__ == "__main__":
    main()
