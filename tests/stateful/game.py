"""One run: the truth, the oracle and the database, moved together and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .database import Way
from .engine_moves import EngineMoves
from .moves import ENGINES, POLLERS, POOLS, REASON
from .operator_moves import OperatorMoves
from .poller_moves import PollerMoves

if TYPE_CHECKING:
    from collections.abc import Callable

    from .database import Database
    from .facts import Settings


class Game(EngineMoves, PollerMoves, OperatorMoves):
    """What the rules of the machine call; each move is checked against the oracle."""

    def __init__(self, database: Database, settings: Settings, luck: int) -> None:
        super().__init__(database, settings, luck)
        database.empty()
        for name, value in (
            ("absence_polls", settings.absence_polls),
            ("end_action_attempts", settings.attempts),
            ("end_action_backoff", "0"),
            ("orphan_policy", settings.orphans),
            ("notify", "off"),
        ):
            self._set(name, value)
        self.set_time(settle=settings.settle_over, absence=settings.absence_over)
        for pool in POOLS:
            self.set_pool(pool)
        for engine in ENGINES:
            self.start_engine(engine, killed=True, way=Way())
        for poller in POLLERS:
            self.acquire(poller, 1, short=False, way=Way())

    def on_command(self, what: str, epoch: int, command: str, way: Way, *, flag: bool) -> None:
        """What an engine or the operator does with a whole command."""
        calls: dict[str, tuple[str, Callable[[], None], str, list[Any]]] = {
            "seal": (
                "engine 1",
                lambda: self.oracle.seal(epoch, command),
                "select atm.seal_command(%s, %s)",
                [epoch, command],
            ),
            "abort": (
                "engine 2",
                lambda: self.oracle.abort(epoch, command, flag),
                "select atm.abort_command(%s, %s, %s, %s)",
                [epoch, command, REASON, flag],
            ),
            "cancel": (
                "operator",
                lambda: self.oracle.cancel(command),
                "select * from atm.cancel_command(%s, %s, false)",
                [command, REASON],
            ),
            "retry": (
                "operator",
                lambda: self.oracle.retry_end_action(command),
                "select atm.retry_end_action(%s, %s, false)",
                [command, REASON],
            ),
        }
        who, expected, query, args = calls[what]
        self.move(way, expected, who, query, *args)
