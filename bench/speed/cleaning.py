"""Robust fits against what people use today: python bench/speed/cleaning.py [comparisons] [matrices] [--small]"""

import argparse

import cleaning_comparisons
import cleaning_matrices

PARTS = {"comparisons": cleaning_comparisons.main, "matrices": cleaning_matrices.main}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        print(f"\n== {name}")
        PARTS[name](small=options.small)


if __name__ == "__main__":
    main()
