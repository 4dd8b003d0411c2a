"""docs/sql-reference.md is what the database says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

REFERENCE = Path(__file__).parents[2] / "docs" / "sql-reference.md"


def test_the_reference_is_what_the_comments_in_the_database_say(
    db: psycopg.Connection[Any],
) -> None:
    row = db.execute("select atm.reference()").fetchone()
    assert row is not None
    assert REFERENCE.read_text(encoding="utf-8") == row[0], (
        "make it again from select atm.reference(), without psql's extra newline"
    )
