"""Runs one PostgreSQL server, if it is private for as long as its parent process lives.

Started by `pyatm.database.embedded` as a program of its own (standard library only, so that it is
up in milliseconds). Its standard input is a pipe whose other end only the parent holds: when the
parent ends in whatever way, SIGKILL included, the pipe closes and the server is stopped. A line on
the pipe (`fast`, `immediate`) stops it as asked. Should this process itself be killed, the kernel
tells the server to stop (Linux). Standard output says `ready`, or `failed` and the reason.

A server that is to be kept is only started, so that it becomes a child of init and not of whoever
needed it first.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
START_TIMEOUT: Final = 60.0
"""Seconds until a starting server has to be ready; recovery after a kill is part of it."""
STOP_TIMEOUT: Final = 20.0
"""Seconds for one way of stopping before the next, harder one is tried."""


def _die_with_parent() -> Callable[[], None] | None:
    """A hook for the child that has the kernel send it SIGINT when this process dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def _is_ready(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return (
        len(lines) >= 8
        and lines[0].strip() == str(pid)
        and lines[7].strip() in ("ready", "standby")
    )


def _wait_ready(server: "subprocess.Popen[bytes]", data: Path) -> str | None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return f"the server ended with exit code {server.returncode}"
        if _is_ready(data, server.pid):
            return None
        if select.select([0], [], [], 0.02)[0]:
            return "the parent process is gone"
    return f"the server was not ready within {START_TIMEOUT:g} s"


def _woken(number: int, frame: FrameType | None) -> None:
    """Nothing to do: the wake-up pipe ends the wait."""


def _wait_told(server: "subprocess.Popen[bytes]") -> str:
    """Wait until the parent speaks or is gone, or the server has ended by itself."""
    ended_read, ended_write = os.pipe()
    os.set_blocking(ended_write, False)
    signal.set_wakeup_fd(ended_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _woken)
    while server.poll() is None:
        readable, _, _ = select.select([0, ended_read], [], [], 5.0)
        if 0 in readable:
            return os.read(0, 100).decode().strip()
        if ended_read in readable:
            os.read(ended_read, 100)
    return "ended"


def _stop(server: "subprocess.Popen[bytes]", first: signal.Signals) -> None:
    for number in (first, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is not None:
            return
        server.send_signal(number)
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue


def main() -> None:
    """Run the server that the first argument (JSON) describes."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    data = Path(spec["data"])
    switch: dict[str, Any] = spec["switch"]
    # Ctrl-C is for the parent, which then lets go of the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(spec["log"]).open("ab") as log:
        # Whatever goes wrong here is found in the server's log.
        os.dup2(log.fileno(), 2)
        command: list[str] = spec["command"]
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data,
            env=spec["environment"],
            preexec_fn=_die_with_parent() if spec["private"] else None,
            start_new_session=True,
            user=switch.get("user"),
            group=switch.get("group"),
            extra_groups=switch.get("extra_groups"),
        )
    problem = _wait_ready(server, data)
    print(f"failed {problem}" if problem else "ready", flush=True)  # noqa: T201
    if not spec["private"] and not problem:
        return
    order = "immediate" if problem else _wait_told(server)
    # Without a word from the parent nobody will look at the data again if it is to be deleted.
    hard = order == "immediate" or (order == "" and spec["delete"] is not None)
    _stop(server, signal.SIGQUIT if hard else signal.SIGINT)
    if order == "" and spec["delete"] is not None:
        for directory in spec["delete"]:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
