"""Names of cells: the factors of an experiment in one line, and back."""


def named(**factors: object) -> str:
    """The name of a cell: its factors."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in factors.items()
    )


def factors(cell: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in cell.split(" ") if "=" in part)
