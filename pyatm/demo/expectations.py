"""What must hold after each scenario, and where it is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psycopg

LIVE_VIEWS: Final = ("atm.commands", "atm.tasks", "atm.entities")
"""Without a row once every command has ended and is cleared."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that was expected.

    Attributes:
        what: in words.
        expected: the value that it should have.
        found: the value that it has.
    """

    what: str
    expected: object
    found: object

    @property
    def held(self) -> bool:
        """Whether it is as expected."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario went.

    Attributes:
        name: as in the JSON of the demo.
        outcome: of the command, `succeeded` or `failed`; `unknown` when it did not end.
        tasks: how many were planned.
        seconds: from the start of the engine until nothing was left.
        bound: how many tasks had VDSM's id.
        expectations: everything that was checked.
    """

    name: str
    outcome: str
    tasks: int
    seconds: float
    bound: int
    expectations: tuple[Expectation, ...]

    @property
    def held(self) -> bool:
        """Whether every expectation held."""
        return all(expectation.held for expectation in self.expectations)


async def live_rows(database: psycopg.AsyncConnection[Any]) -> int:
    """Rows in the live views, all together."""
    return sum([await _count(database, view) for view in LIVE_VIEWS])


async def orphans(database: psycopg.AsyncConnection[Any]) -> int:
    """VDSM tasks that nobody here is bound to."""
    return await _count(database, "atm.orphans")


async def _count(database: psycopg.AsyncConnection[Any], view: str) -> int:
    cursor = await database.execute(f"SELECT count(*) FROM {view}".encode())  # noqa: S608
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
