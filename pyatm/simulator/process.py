"""A simulator as a process of its own: started, killed, started again on the same port."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Final, Self

from pyatm.simulator.control import SimulatorControl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COMMAND: Final = (sys.executable, "-m", "pyatm.cli.vdsm_sim")


class SimulatorProcessError(RuntimeError):
    """The simulator did not start, or is not running."""


class SimulatorProcess:
    """Runs ``pyatm vdsm-sim`` as a child; also a context manager that starts and stops it.

    The child ends when this process ends, in whatever way.

    Args:
        directory: the storage directory; several simulators may share it.
        pools: storage pools that are connected.
        spm: become SPM of them at every start.
        host_id: id of the host.
        port: port for STOMP, 0: any free one, kept for later starts.
        options: further command line options, such as ``("--job-seconds", "until-told")``.
        ready_timeout: seconds that a start may take.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pools: Sequence[str] = (),
        spm: bool = False,
        host_id: int = 1,
        port: int = 0,
        options: Sequence[str] = (),
        ready_timeout: float = 30.0,
    ) -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = port
        self.control_port = 0
        self.ready: dict[str, Any] = {}
        """What the child announced: port, control_port, pid, roles in its pools."""
        self._pools, self._spm, self._host_id = tuple(pools), spm, host_id
        self._options = tuple(options)
        self._timeout = ready_timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the child; raises SimulatorProcessError when it does not run."""
        if self._child is None or self._child.poll() is not None:
            raise SimulatorProcessError("the simulator is not running; start it first")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def control(self) -> SimulatorControl:
        """A new connection to the control port, opened at its first use."""
        return SimulatorControl(self.host, self.control_port)

    def start(self) -> None:
        """Start the child and wait until it listens.

        Raises SimulatorProcessError with what it wrote when it does not.
        """
        if self.running:
            raise SimulatorProcessError("the simulator is running already")
        self._release()
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"host-{self._host_id}.log"
        self._errors = log.open("ab")
        before = self._errors.tell()
        self._child = subprocess.Popen(
            self._arguments(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C in the terminal is for the parent, which decides when this one ends.
            start_new_session=True,
        )
        line = self._first_line()
        if not line:
            self.kill()
            written = log.read_bytes()[before:].decode(errors="replace").strip()
            raise SimulatorProcessError(f"the simulator did not start: {written or 'no output'}")
        self.ready = json.loads(line)
        self.port = self.ready["port"]
        self.control_port = self.ready["control_port"]

    def kill(self) -> None:
        """SIGKILL; returns when the child is gone. Harmless when it is not running."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; returns when the child is gone, after ten seconds by SIGKILL."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the connections stay, nothing happens on them."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it, and start it again on the same ports and directory."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _arguments(self) -> list[str]:
        arguments = [*_COMMAND, "--dir", str(self.directory), "--host", self.host]
        arguments += ["--port", str(self.port), "--control-port", str(self.control_port)]
        arguments += ["--host-id", str(self._host_id), "--json", "--exit-with-parent"]
        for pool_id in self._pools:
            arguments += ["--pool", pool_id]
        if self._spm:
            arguments.append("--spm")
        return [*arguments, *self._options]

    def _first_line(self) -> bytes:
        """The line that it prints when it is ready; empty when it ended or took too long."""
        assert self._child is not None and self._child.stdout is not None  # noqa: PT018, S101
        output = self._child.stdout.fileno()
        end = time.monotonic() + self._timeout
        line = b""
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                return b""
            more = os.read(output, 65536)
            if not more:
                return b""
            line += more
        return line

    def _end(self, number: signal.Signals) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(number)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._release()

    def _release(self) -> None:
        if self._child is not None:
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._child = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
