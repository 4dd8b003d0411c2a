"""Starts engine processes by forking one that has imported everything already.

The import costs far more than a run, and crash tests start hundreds of engines. Each engine is a
process of its own all the same, with its own environment, and may be killed or stopped.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from pyatm.flows import reference_engine

_LINE = 1 << 16


class Nursery:
    """The process that forks; also a context manager. Its children end when it does."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.flows.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
            )

    def start(
        self, arguments: list[str], variables: dict[str, str], output: int, log: int
    ) -> "Forked":
        """A new engine that writes to these file descriptors."""
        order = {"arguments": arguments, "variables": variables}
        socket.send_fds(self._socket, [json.dumps(order).encode()], [output, log])
        return Forked(self, int(json.loads(self._socket.recv(_LINE))))

    def ask(self, pid: int) -> int | None:
        """The exit code of an engine, None while it lives."""
        self._socket.send(json.dumps({"pid": pid}).encode())
        return json.loads(self._socket.recv(_LINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._child.wait(30)


class Forked:
    """An engine process; what is used of `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._nursery.ask(self.pid)
        return self._code

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < end, f"process {self.pid} does not end"
            time.sleep(0.005)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """The process is not reaped before `poll` has seen its end, so the pid is still its."""
        if self._code is None:
            os.kill(self.pid, number)


def _serve(orders: socket.socket) -> None:
    living: set[int] = set()
    while True:
        text, descriptors, _, _ = socket.recv_fds(orders, _LINE, 2)
        if not text:
            break
        order: dict[str, Any] = json.loads(text)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            living.discard(pid)
            code = os.waitstatus_to_exitcode(status) if pid else None
            orders.send(json.dumps(code).encode())
            continue
        pid = os.fork()
        if pid == 0:
            orders.close()
            _become_engine(order, descriptors)
        living.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(str(pid).encode())
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become_engine(order: dict[str, Any], descriptors: list[int]) -> None:
    code = 70
    try:
        for descriptor, number in zip(descriptors, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(order["variables"])
        code = reference_engine.main(order["arguments"])
    except SystemExit as refused:
        code = refused.code if isinstance(refused.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _serve(given)
