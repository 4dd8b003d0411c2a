"""The processes of the demo: each ends with the demo, however the demo ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT: Final = 10.0
"""Seconds that a process has after SIGTERM."""


class ChildError(Exception):
    """A process of the demo ended when it should not have, or did not start."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a child runs.

    Attributes:
        name: for messages and the name of its log file.
        module: of `pyatm`, run as `python -m` does.
        arguments: its command line.
        environment: variables on top of ours, of which no setting of pyatm is passed on.
    """

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Child:
    """One child process; also an async context manager that starts and stops it.

    Args:
        command: what it runs.
        log: file for what it writes to standard error.
    """

    def __init__(self, command: Command, log: Path) -> None:
        self.command = command
        self.log = log
        self._said: deque[str] = deque(maxlen=15)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ChildError: it was not started.
        """
        if self._process is None:
            raise ChildError(f"the {self.command.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it: negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pyatm.demo.tethered",
                self.command.module,
                *self.command.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**_neutral_environment(), **self.command.environment},
                limit=16 << 20,
                # Ctrl-C in the terminal is for the demo, which decides when this one ends.
                start_new_session=True,
            )
        self._reader = asyncio.create_task(self._read())

    async def kill(self) -> None:
        """SIGKILL, as a crash; returns when it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, after ten seconds SIGKILL; returns when it is gone."""
        await self._end(signal.SIGTERM)

    async def wait(self, seconds: float) -> int:
        """Its exit code, when it ends by itself.

        Raises:
            ChildError: it did not end within `seconds`.
        """
        if self._process is None:
            raise ChildError(f"the {self.command.name} was not started")
        try:
            async with asyncio.timeout(seconds):
                code = await self._process.wait()
        except TimeoutError:
            raise ChildError(
                f"the {self.command.name} did not end within {seconds:g} s\n{self.last_words()}"
            ) from None
        if self._reader is not None:
            await self._reader
        return code

    def require_running(self) -> None:
        """Raise ChildError with its last words if it has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise ChildError(
                f"the {self.command.name} ended with code {self._process.returncode}\n"
                f"{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of what it wrote, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([*lines[-15:], *self._said])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        # Read to the end, or a child that writes much would stand still.
        async for line in self._process.stdout:
            self._said.append(line.decode(errors="replace").rstrip())

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader


def _neutral_environment() -> dict[str, str]:
    """Ours without the settings for the user's own database, poller and hosts."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYATM_", "PG")) and name != "CREDENTIALS_DIRECTORY"
    }
