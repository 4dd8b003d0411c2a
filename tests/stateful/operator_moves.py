"""What operators do, and other tools at VDSM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .moves import REASON, Moves
from .truth import Job

if TYPE_CHECKING:
    from .database import Way


class OperatorMoves(Moves):
    """The moves of operators."""

    def resolve_task(self, task: str, outcome: str, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.resolve_task(task, outcome),
            "operator",
            "select atm.resolve_task(%s, %s, %s, false)",
            task,
            outcome,
            REASON,
        )

    def resolve_orphan(self, vdsm: str, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.resolve_orphan(vdsm),
            "operator",
            "select atm.resolve_orphan(%s, %s, false)",
            vdsm,
            REASON,
        )

    def remove_pool(self, pool: str, way: Way) -> None:
        """Removes a pool; when that worked it is set anew, and may be planned in again."""
        done = self.move(
            way,
            lambda: self.oracle.remove_pool(pool),
            "operator",
            "select atm.remove_pool(%s, %s, false)",
            pool,
            REASON,
        )
        if done is not None:
            self.set_pool(pool)

    def drain_pool(self, pool: str, way: Way, *, drained: bool) -> None:
        self.move(
            way,
            lambda: self.oracle.drain_pool(pool, drained),
            "operator",
            "select atm.drain_pool(%s, %s, %s, false)",
            pool,
            REASON,
            drained,
        )

    def another_tool(self, pool: str) -> None:
        """Somebody else makes VDSM work."""
        stray = self.truth.fresh_id()
        self.truth.jobs[stray] = Job(stray, pool)

    def purge_history(self, way: Way) -> None:
        """Drops only months that are over: nothing that the runs have made."""
        query = "select * from atm.purge_history('test', 0, false)"
        self.move(way, lambda: None, "operator", query)
