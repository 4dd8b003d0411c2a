"""A bounded pool of workers with a bounded queue in front, as VDSM has two of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

Work = Callable[[], Awaitable[None]]


class WorkerPool:
    """Runs work on at most ``workers`` workers at once, first in first out.

    Args:
        workers: how many pieces of work run at the same time.
        limit: how many may wait.
        failed: called with an exception that a piece of work let out.
    """

    def __init__(self, workers: int, limit: int, failed: Callable[[BaseException], None]) -> None:
        self.workers = workers
        self.limit = limit
        self._failed = failed
        self._waiting: deque[Work] = deque()
        self._blocked: deque[tuple[Work, asyncio.Future[None]]] = deque()
        self._active: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return len(self._active)

    def try_put(self, work: Work) -> bool:
        """Hand over the work; False when all workers are busy and the queue is full."""
        if len(self._active) < self.workers:
            self._start(work)
        elif len(self._waiting) < self.limit:
            self._waiting.append(work)
        else:
            return False
        return True

    async def put(self, work: Work) -> None:
        """Hand over the work; waits, without a time-out, while the queue is full."""
        if self._blocked or not self.try_put(work):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._blocked.append((work, turn))
            await turn

    def resize(self, workers: int, limit: int) -> None:
        """Change both numbers; work that already runs or waits stays."""
        self.workers, self.limit = workers, limit
        self._fill()

    def abandon(self) -> None:
        """Stop at once and forget everything, as a process that dies does."""
        self._waiting.clear()
        for _, turn in self._blocked:
            turn.cancel()
        self._blocked.clear()
        for task in list(self._active):
            task.cancel()

    def _fill(self) -> None:
        while self._waiting and len(self._active) < self.workers:
            self._start(self._waiting.popleft())
        self._let_blocked_in()

    def _start(self, work: Work) -> None:
        task = asyncio.create_task(self._run(work))
        self._active.add(task)
        task.add_done_callback(self._finished)

    async def _run(self, work: Work) -> None:
        try:
            await work()
        except Exception as error:
            self._failed(error)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        if not task.cancelled():
            self._fill()

    def _let_blocked_in(self) -> None:
        """Take over the work of blocked callers while there is room for it."""
        while self._blocked and self.try_put(self._blocked[0][0]):
            _, turn = self._blocked.popleft()
            if not turn.done():
                turn.set_result(None)
