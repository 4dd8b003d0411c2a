"""The points at which an engine is killed or stopped, and what happens when one is reached."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from tests.crash.recording import Recorder

Deed = Literal["die", "freeze"]
DEEDS: Final[tuple[Deed, ...]] = ("die", "freeze")

CALLS: Final = (
    "start_engine",
    "submit_tasks",
    "bind_task",
    "fail_task",
    "doubt_task",
    "abort_command",
    "claim_end_actions",
    "extend_end_action",
    "finish_end_action",
)
"""Functions of schema atm that the engine calls in transactions of their own."""

POINTS: Final = (
    *(f"{moment}-{call}" for call in CALLS for moment in ("before", "commit", "after")),
    "commit-plan_command",
    "after-plan_command",
    "before-rpc",
    "sent-rpc",
    "after-rpc",
    "submitting",
    "answered",
    "bound",
    "refused",
    "doubted",
    "late_bound",
    "claimed",
    "prepared",
    "applied",
    "finished",
    "retried",
)
STARTING: Final = frozenset(point for point in POINTS if "start_engine" in point)
"""Reached once in each life, before everything else."""
RARE: Final = frozenset(
    point
    for point in POINTS
    if any(word in point for word in ("fail_task", "doubt", "abort", "extend", "late", "refused"))
)
"""Reached a few times in the life of an engine only: the first time counts, several are armed."""


class Points:
    """Counts the points of one engine process, and acts at those that were asked for.

    Args:
        orders: `NAME:N:DEED`, at the N-th time that NAME is reached; one per name.
        recorder: told what happened; also told each write that the database has acknowledged.
    """

    def __init__(self, orders: Sequence[str], recorder: Recorder) -> None:
        self._orders: dict[str, tuple[int, str]] = {}
        for order in orders:
            name, times, deed = order.split(":")
            self._orders[name] = (int(times), deed)
        self._recorder = recorder
        self._reached: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self.engine, self.epoch = "", 0

    def disarm(self) -> None:
        """Nothing happens any more."""
        self._orders.clear()

    async def reach(self, name: str) -> None:
        """Reach a point; the engine client calls this as its probe."""
        moment, _, call = name.partition("-")
        if call in CALLS:
            self._note(moment, call)
        self._reached[name] += 1
        times, deed = self._orders.get(name, (0, ""))
        if self._reached[name] == times:
            self._recorder.write("point", point=name, deed=deed, engine=self.engine)
            os.kill(os.getpid(), signal.SIGKILL if deed == "die" else signal.SIGSTOP)

    def _note(self, moment: str, call: str) -> None:
        key = f"{id(asyncio.current_task())} {call}"
        if moment == "before":
            self._began[key] = time.time()
        elif moment == "after":
            began = self._began.pop(key, None)
            # The finishing transaction has no point before it: the runner's handler notes it.
            if began is not None and call != "start_engine":
                self._recorder.write(
                    "write", operation=call, engine=self.engine, epoch=self.epoch, began=began
                )
