"""The statements of a file, by name; each follows a line `-- name: NAME`."""

from importlib.resources import files
from pathlib import Path
from typing import LiteralString, cast


def load(path: Path | None = None) -> dict[str, LiteralString]:
    """Every statement of a file; it is part of the program, so its text counts as literal.

    Args:
        path: the file; None: `statements.sql` beside this module.
    """
    source = files("pyatm.bench") / "statements.sql" if path is None else path
    parts = source.read_text(encoding="utf-8").split("-- name: ")[1:]
    named = (part.partition("\n") for part in parts)
    return {name.strip(): cast("LiteralString", body.strip()) for name, _, body in named}
