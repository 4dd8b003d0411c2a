"""The statements of `statements.sql`, by name."""

from importlib.resources import files
from typing import LiteralString, cast


def load() -> dict[str, LiteralString]:
    """Every statement of the file; it is part of the program, so its text counts as literal."""
    text = (files("pyatm.bench") / "statements.sql").read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    named = (part.partition("\n") for part in parts)
    return {name.strip(): cast("LiteralString", body.strip()) for name, _, body in named}
