"""`pyatm flow` as a user types it."""

import subprocess
import sys

import pytest

from tests.cli.printed import printed
from tests.cli.programs import environment


def flow(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pyatm.cli.main", "flow", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_simulated_flow_ends_with_one_json_object() -> None:
    done = flow("remove-vm", "--disks", "2", "--simulate", "--json")
    assert done.returncode == 0, done.stderr
    assert printed("flow", done.stdout) == {
        "flow": "remove-vm",
        "outcome": "succeeded",
        "tasks": 2,
        "live_rows": 0,
        "vdsm_tasks": 0,
    }


def test_a_flow_without_a_pool_says_what_is_missing() -> None:
    done = flow("remove-vm")
    assert done.returncode == 2
    assert "--simulate" in done.stderr
