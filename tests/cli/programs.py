"""Starts the program as a user does: as a process, with an environment of the test's own."""

import os
import pwd
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path


def environment(**changes: str) -> dict[str, str]:
    """Our environment without the settings of whoever runs the tests, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYATM_", "PG")) and name != "CREDENTIALS_DIRECTORY"
    }
    return {**kept, "COLUMNS": "100", **changes}


@dataclass(frozen=True, slots=True)
class Program:
    """`pyatm` with settings of its own.

    Attributes:
        variables: environment variables on top.
    """

    variables: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, *arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run it to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pyatm.cli.main", *arguments],
            env=environment(**self.variables),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@dataclass(frozen=True, slots=True)
class OrdinaryUser:
    """Another account, for tests that run as root.

    Attributes:
        uid: its user id.
        gid: its group id.
        python: an interpreter that it can execute, with our packages on `python_path`.
        python_path: for PYTHONPATH.
    """

    uid: int
    gid: int
    python: str
    python_path: str


def ordinary_user() -> OrdinaryUser | None:
    """The account `nobody` with an interpreter; None when it cannot execute any of our version."""
    entry = pwd.getpwnam("nobody")
    root = Path(__file__).parents[2]
    path = f"{root}:{sysconfig.get_path('purelib')}"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{minor}", f"/usr/local/bin/python{minor}"):
        try:
            subprocess.run(
                [python, "-c", "import pyatm.database.embedded"],
                env=environment(PYTHONPATH=path),
                cwd="/",
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
                capture_output=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return OrdinaryUser(entry.pw_uid, entry.pw_gid, python, path)
    return None


def exists(pid: int) -> bool:
    """Whether a process with this id runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
