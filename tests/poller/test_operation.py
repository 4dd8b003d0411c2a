"""What an operator sees and does: the check, reload, systemd, metrics."""

import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyatm.simulator.process import SimulatorProcess
from tests.cli.printed import printed
from tests.cli.programs import Program
from tests.poller.stage import QUICK, Stage, until

Running = Callable[..., Any]
UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").glob("*.service"))


def findings(stage: Stage, **settings: str) -> tuple[int, dict[str, dict[str, Any]]]:
    program = Program({**QUICK, "PYATM_DSN": stage.dsn, **settings})
    done = program.run("poller", "--check", "--json")
    return done.returncode, {each["subject"]: each for each in printed("poller", done.stdout)}


def test_the_check_names_what_works_and_what_does_not(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    address = f"host {host.host}:{host.port}"
    code, found = findings(stage)
    assert code == 0
    assert all(each["ok"] for each in found.values())
    assert found[address]["text"] == "answers, role SPM"
    host.stop()
    code, found = findings(stage)
    assert code == 1
    assert found["database"]["ok"]
    assert not found[address]["ok"]
    assert "firewall" in found[address]["fix"]
    assert not found[f"pool {pool}"]["ok"]
    assert stage.holder(pool) is None


def test_the_check_names_a_missing_schema(empty_dsn: str) -> None:
    program = Program({**QUICK, "PYATM_DSN": empty_dsn})
    done = program.run("poller", "--check")
    assert done.returncode == 1
    assert "run `pyatm db migrate`" in done.stdout
    done = program.run("poller")
    assert done.returncode == 1
    assert "run `pyatm db migrate`" in done.stderr
    assert "Traceback" not in done.stderr


def test_tls_without_a_ca_is_a_wrong_configuration(stage: Stage) -> None:
    program = Program({"PYATM_DSN": stage.dsn})
    done = program.run("poller")
    assert done.returncode == 78
    assert "vdsm.ca is missing" in done.stderr


async def test_sighup_reads_the_settings_again(stage: Stage, running: Running) -> None:
    file = stage.directory / "pyatm.toml"
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    other = str(uuid.uuid4())
    stage.pool(host, pool_id=pool)
    stage.pool(host, pool_id=other)
    file.write_text("[poller]\nmax_pools = 1\n")
    poller = running(stage.poller(PYATM_CONFIG=str(file)))
    await until(lambda: stage.holder(pool) or stage.holder(other), "one pool is taken")
    file.write_text("[poller]\nmax_pools = 'many'\n")
    poller.send(signal.SIGHUP)
    await until(lambda: poller.logged("settings not reloaded"), "it complains")
    assert not (stage.holder(pool) and stage.holder(other))
    file.write_text("[poller]\nmax_pools = 2\n")
    poller.send(signal.SIGHUP)
    await until(lambda: stage.holder(pool) and stage.holder(other), "both pools are taken")


async def test_systemd_hears_ready_status_watchdog_and_stopping(
    stage: Stage, running: Running
) -> None:
    path = stage.directory / "notify"
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)

        def hears(text: str) -> bool:
            try:
                while True:
                    heard.append(listener.recv(4096).decode())
            except BlockingIOError:
                pass
            return any(text in message for message in heard)

        poller = running(stage.poller(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000"))
        await until(lambda: hears("READY=1\nSTATUS=0 pools, 0 open tasks"), "it is ready")
        heard.clear()
        await until(lambda: hears("WATCHDOG=1"), "it is alive")
        assert poller.end() == 0
        assert hears("STOPPING=1")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_units_are_locked_down(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/usr/bin/pyatm", "/bin/true")
        name = unit.name.replace("@", "@a")
        (tmp_path / name).write_text(text.replace("man:pyatm(1)", "https://www.ovirt.org"))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        ours = [line for line in done.stderr.splitlines() if "pyatm" in line]
        assert ours == []
