"""States of a storage task: the internal ones, the order they allow, and what clients see."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pyatm.simulator import errors


class State(StrEnum):
    """Internal states, by the names that ``Host.getAllTasks`` shows."""

    INIT = "init"
    PREPARING = "preparing"
    BLOCKED = "blocked"
    ACQUIRING = "acquiring"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    WAITRECOVER = "waitrecover"
    RACQUIRING = "racquiring"
    RECOVERING = "recovering"
    RABORTING = "raborting"
    RECOVERED = "recovered"
    FAILED = "failed"
    UNKNOWN = "unknown"


DONE: Final = frozenset({State.FINISHED, State.RECOVERED, State.FAILED})

VISIBLE: Final[dict[State, tuple[str, str]]] = {
    State.INIT: ("init", ""),
    State.PREPARING: ("running", ""),
    State.BLOCKED: ("running", ""),
    State.ACQUIRING: ("running", ""),
    State.QUEUED: ("running", ""),
    State.RUNNING: ("running", ""),
    State.FINISHED: ("finished", "success"),
    State.ABORTING: ("aborting", ""),
    State.WAITRECOVER: ("cleaning", ""),
    State.RACQUIRING: ("cleaning", ""),
    State.RECOVERING: ("cleaning", ""),
    State.RABORTING: ("aborting", ""),
    State.RECOVERED: ("finished", "cleanSuccess"),
    State.FAILED: ("finished", "cleanFailure"),
    State.UNKNOWN: ("unknown", ""),
}
"""``taskState`` and ``taskResult`` of each internal state."""

_ENTERED_FROM: Final[dict[State, frozenset[State]]] = {
    State.PREPARING: frozenset({State.INIT, State.BLOCKED}),
    State.BLOCKED: frozenset({State.PREPARING}),
    State.ACQUIRING: frozenset({State.PREPARING, State.ACQUIRING}),
    State.QUEUED: frozenset({State.ACQUIRING, State.RUNNING}),
    State.RUNNING: frozenset({State.QUEUED}),
    State.FINISHED: frozenset({State.RUNNING, State.PREPARING}),
    State.ABORTING: frozenset(
        {State.PREPARING, State.BLOCKED, State.ACQUIRING, State.QUEUED, State.RUNNING}
    ),
    State.WAITRECOVER: frozenset({State.ABORTING}),
    State.RACQUIRING: frozenset(
        {State.ABORTING, State.FINISHED, State.RACQUIRING, State.WAITRECOVER}
    ),
    State.RECOVERING: frozenset({State.RACQUIRING}),
    State.RABORTING: frozenset({State.RACQUIRING, State.RECOVERING, State.WAITRECOVER}),
    State.RECOVERED: frozenset({State.RECOVERING}),
    State.FAILED: frozenset({State.RECOVERING, State.ABORTING, State.RABORTING}),
}


def check_transition(old: State, new: State) -> None:
    """Refuse (441) a change of state that the state machine does not know."""
    if old not in _ENTERED_FROM.get(new, frozenset()):
        raise errors.wrong_transition(old, new)
