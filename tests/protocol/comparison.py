"""Compares the simulator's frames with recorded ones, after ids are translated.

Every deviation that is meant is in this table; each is applied by a rule below that needs no name
of a scenario.

===========================  ==================================================================
deviation                    reason
===========================  ==================================================================
TRANSIENT                    within 0.15 s of what changed a task, a status may be one step
                             earlier or later: VDSM's threads race with its answers there
ORDER_AFTER_RESTART          tasks read back from disk are listed in the order of a directory,
                             which differs from run to run in VDSM itself
OVERFLOW                     which requests get error 1100 depends on how fast workers take the
                             first ones (the transcripts' README says so); their number may differ
                             by the number of workers, and others then answer in another order
SWAP                         answers recorded within 0.15 s of each other may change places:
                             eight threads write them
BEATS                        the number of heart-beats of a connection may differ by what the
                             machine's lateness explains
===========================  ==================================================================
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.protocol.stage import UUID

if TYPE_CHECKING:
    from pyatm.vdsm.stomp import Frame

RACE = 0.15

# The steps of a task on its way, as clients and Host.getAllTasks see them.
_STEPS = (
    {"init", "preparing", "acquiring", "queued", "running"},
    {"running", "aborting", "cleaning", "finished", "racquiring", "recovering", "recovered"},
)


class Ids:
    """Which id of the recording is which of the simulator; only VDSM's own ids differ."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}

    def ours(self, text: str) -> str:
        """Recorded text with the simulator's ids."""
        return re.sub(UUID, lambda m: self._ours.get(m[0], m[0]), text)

    def theirs(self, text: str) -> str:
        """The simulator's text with recorded ids."""
        return re.sub(UUID, lambda m: self._theirs.get(m[0], m[0]), text)

    def learn(self, recorded: Any, simulated: Any) -> None:
        """Pair ids that stand in the same place and are both unknown."""
        if isinstance(recorded, dict) and isinstance(simulated, dict):
            new = [key for key in recorded if key not in simulated and self._is_new(key, True)]
            mine = [key for key in simulated if key not in recorded and self._is_new(key, False)]
            for theirs, ours in zip(new, mine, strict=False):
                self._pair(theirs, ours)
            for key, value in recorded.items():
                other = simulated.get(self._ours.get(key, key))
                self.learn(value, other)
        elif (
            isinstance(recorded, str)
            and isinstance(simulated, str)
            and recorded != simulated
            and self._is_new(recorded, True)
            and self._is_new(simulated, False)
        ):
            self._pair(recorded, simulated)

    def _is_new(self, text: str, recorded: bool) -> bool:
        known = self._ours if recorded else self._theirs
        return re.fullmatch(UUID, text) is not None and text not in known

    def _pair(self, theirs: str, ours: str) -> None:
        self._ours[theirs], self._theirs[ours] = ours, theirs


def body_of(frame: Frame) -> Any:
    """The JSON value of a MESSAGE, None of any other frame."""
    return json.loads(frame.body) if frame.command == "MESSAGE" else None


def same_frame(recorded: Frame, simulated: Frame) -> bool:
    """Equal to the last byte, apart from the length of a body that differs."""

    def headers(frame: Frame) -> list[tuple[str, str]]:
        return [(k, "" if k == "content-length" else v) for k, v in frame.headers]

    return recorded.command == simulated.command and headers(recorded) == headers(simulated)


def difference(recorded: Any, simulated: Any, *, racing: bool, restarted: bool) -> str | None:
    """Why two answers are not the same, None when they are or deviate as meant."""
    if _text(recorded) == _text(simulated):
        return None
    codes = {_code(recorded), _code(simulated)}
    if 1100 in codes:
        return None  # OVERFLOW; the caller compares the numbers
    if restarted and _text(recorded, sort=True) == _text(simulated, sort=True):
        return None  # ORDER_AFTER_RESTART
    if racing and _shape(recorded) == _shape(simulated):
        return None  # TRANSIENT
    return f"recorded {_text(recorded)}\nsimulated {_text(simulated)}"


def _text(value: Any, *, sort: bool = False) -> str:
    return json.dumps(value, sort_keys=sort)


def _code(answer: Any) -> int | None:
    error = answer.get("error") if isinstance(answer, dict) else None
    return error["code"] if isinstance(error, dict) else None


def _shape(value: Any) -> Any:
    """An answer without what changes when a task takes a step."""
    if not isinstance(value, dict):
        return value
    moving = {"taskState", "taskResult", "state", "code", "message"}
    if "taskID" in value or {"verb", "state"} <= value.keys():
        state = value.get("state", value.get("taskState"))
        assert any(state in steps for steps in _STEPS) or state == "failed", state
        return {key: "" if key in moving else _shape(item) for key, item in value.items()}
    return {key: _shape(item) for key, item in value.items()}
