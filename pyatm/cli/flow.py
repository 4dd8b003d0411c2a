"""`pyatm flow`: one of the four flows, run by the reference engine in a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import psycopg
import typer

from pyatm.cli.errors import EXIT_USAGE, CommandError
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, JsonOption, settings_from
from pyatm.cli.output import console, print_json
from pyatm.config import Settings
from pyatm.database.dsn import open_database
from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from pyatm.database.session import connect
from pyatm.flows.hosts import connector
from pyatm.flows.setup import install_inventory, is_installed
from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address
from pyatm.vdsm.spm import find_spm

CLEAR_TIMEOUT: Final = 60.0
"""Seconds for the poller to clear VDSM's tasks after the end of the command."""
DOMAIN: Final = "773adfc7-10d4-4e60-b700-3272ee1871f9"


class FlowName(StrEnum):
    """The flows on the command line."""

    REMOVE_VM = "remove-vm"
    HIBERNATE_VM = "hibernate-vm"
    CREATE_TEMPLATE = "create-template"
    CREATE_SNAPSHOT = "create-snapshot"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the flow runs.

    Attributes:
        vdsm: HOST:PORT of the pool's hosts, empty: those that the database knows.
        environment: of the child processes.
    """

    settings: Settings
    dsn: str
    pool_id: uuid.UUID
    vdsm: tuple[str, ...]
    environment: dict[str, str]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("flow")(flow)


def flow(
    name: Annotated[FlowName, typer.Argument(help="What to do with the VM.")],
    disks: Annotated[int, typer.Option(min=1, max=1000, help="Disks of the new toy VM.")] = 4,
    vm: Annotated[
        uuid.UUID | None, typer.Option(help="A VM of the toy inventory instead of a new one.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="create-snapshot: the VM's memory too.")
    ] = False,
    pool: Annotated[uuid.UUID | None, typer.Option(help="Storage pool.")] = None,
    vdsm: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="A host of the pool; may be repeated."),
    ] = None,
    domain: Annotated[
        uuid.UUID, typer.Option(help="Storage domain of the new VM's disks.")
    ] = uuid.UUID(DOMAIN),
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Own database, simulated VDSM and poller for this run."),
    ] = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a flow on a storage pool, from planning to cleared tasks.

    A poller must run for the pool, except with --simulate. Exit code 0: the command succeeded and
    left nothing behind.

    Example: pyatm flow remove-vm --disks 4 --simulate
    """
    if simulate == (pool is not None):
        raise CommandError(
            "the flow needs either a storage pool or a simulated one",
            fix="give --pool ID (and --vdsm HOST:PORT), or --simulate",
            exit_code=EXIT_USAGE,
        )
    options = ["--flow", name.value, "--disks", str(disks), "--domain", str(domain)]
    options += ["--memory"] if memory else []
    options += ["--vm", str(vm)] if vm is not None else []
    with ExitStack() as stack:
        if simulate:
            place = stack.enter_context(_simulated())
        else:
            settings = settings_from(config, dsn, data_dir)
            database = open_database(settings)
            variables = {"PYATM_DSN": database.dsn}
            if config is not None:
                variables["PYATM_CONFIG"] = str(config)
            assert pool is not None  # noqa: S101 (checked above)
            place = Place(settings, database.dsn, pool, tuple(vdsm or ()), variables)
        _require_inventory(place.dsn)
        result = _run(name.value, place, options, as_json, everything=simulate)
    if as_json:
        print_json(result)
    if result["outcome"] != "succeeded" or result["live_rows"] or result["vdsm_tasks"]:
        raise typer.Exit(1)


def _require_inventory(dsn: str) -> None:
    """Make the toy inventory when it is missing and we may; engines themselves never do."""
    if is_installed(dsn):
        return
    try:
        install_inventory(dsn)
    except psycopg.errors.InsufficientPrivilege as refused:
        raise CommandError(
            f"the database has no toy inventory, and it cannot be made: {refused}".strip(),
            fix="run `pyatm db inventory` as a role that may create schemas",
        ) from None


@contextmanager
def _simulated() -> Generator[Place]:
    pool_id = uuid.uuid4()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyatm-flow-")))
        dsn = stack.enter_context(private_server()).dsn()
        migrate(dsn)
        simulator = stack.enter_context(
            SimulatorProcess(directory / "vdsm", pools=[str(pool_id)], spm=True)
        )
        variables = {
            "PYATM_DSN": dsn,
            "PYATM_CONFIG": "",
            "PYATM_VDSM__TLS": "false",
            "PYATM_POLLER__POLL_INTERVAL_MIN": "0.25",
            "PYATM_POLLER__POLL_INTERVAL_MAX": "1",
        }
        with connect(dsn, application_name="pyatm flow", autocommit=True) as connection:
            hosts = json.dumps([{"address": simulator.host, "port": simulator.port}])
            connection.execute("SELECT atm.set_pool(%s, 'simulated', %s)", [pool_id, hosts])
        stack.enter_context(_poller(variables, directory / "poller.log"))
        plain = settings_from(dsn=dsn)
        vdsm_settings = plain.vdsm.model_copy(update={"tls": False})
        settings = plain.model_copy(update={"vdsm": vdsm_settings})
        yield Place(settings, dsn, pool_id, (f"{simulator.host}:{simulator.port}",), variables)


@contextmanager
def _poller(variables: dict[str, str], log: Path) -> Generator[None]:
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "pyatm.cli.main", "poller", "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=_environment(variables),
            start_new_session=True,
        )
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)
        if child.stdin is not None:
            child.stdin.close()


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **variables}


def _run(
    name: str, place: Place, options: list[str], as_json: bool, *, everything: bool
) -> dict[str, Any]:
    command = [sys.executable, "-m", "pyatm.flows.reference_engine", *options]
    # A name of its own: a run must not fence another one that is still at work.
    command += ["--pool", str(place.pool_id), "--engine", f"pyatm-flow-{uuid.uuid4()}"]
    for host in place.vdsm:
        command += ["--vdsm", host]
    ended: dict[str, Any] = {}
    bound: set[str] = set()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=None if not as_json else subprocess.DEVNULL,
        env=_environment({"PYATM_LOG_LEVEL": "warning", **place.environment}),
    ) as engine:
        if engine.stdout is None:
            raise CommandError("the engine has no output")
        for line in engine.stdout:
            event = json.loads(line)
            if event["event"] == "error":
                raise CommandError(event["message"])
            if event["event"] == "ended":
                ended = event
            if "vdsm_task_id" in event:
                bound.add(event["vdsm_task_id"])
            if not as_json:
                _show(event)
    if not ended:
        raise CommandError(
            f"the engine ended with code {engine.returncode} before the command did",
            fix="look at atm.stuck; the next engine of this name ends the command",
        )
    live = _wait_cleared(place.dsn, ended["command_id"])
    at_vdsm = asyncio.run(_listed(place))
    left = len(at_vdsm) if everything else len(at_vdsm & bound)
    result = {
        "flow": name,
        "outcome": ended["outcome"],
        "tasks": len(ended["tasks"]),
        "live_rows": live,
        "vdsm_tasks": left,
    }
    if not as_json:
        console().print(
            f"{name}: {result['outcome']}, {result['tasks']} tasks; left: {live} live rows, "
            f"{left} tasks at VDSM"
        )
    return result


def _show(event: dict[str, Any]) -> None:
    texts = {
        "planned": "planned {action_type} {command_id}",
        "submitting": "task {n}: sent to VDSM",
        "bound": "task {n}: bound to {vdsm_task_id}",
        "refused": "task {n}: refused, {reason}",
        "doubted": "task {n}: in doubt, {reason}",
        "late_bound": "task {n}: bound by a late answer",
        "ready": "every task is over, endAction begins: {outcome}",
        "retried": "endAction will be repeated: {reason}",
        "ended": "endAction committed: {outcome}",
    }
    if event["event"] in texts:
        console().print(texts[event["event"]].format(**event), markup=False)


def _wait_cleared(dsn: str, command_id: str) -> int:
    """Wait until the command is in the history; returns how many live rows it still has."""
    end = time.monotonic() + CLEAR_TIMEOUT
    with connect(dsn, application_name="pyatm flow", autocommit=True) as connection:
        while True:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM atm.commands WHERE root_command_id = %(id)s)"
                " + (SELECT count(*) FROM atm.tasks WHERE root_command_id = %(id)s)"
                " + (SELECT count(*) FROM atm.entities WHERE root_command_id = %(id)s)",
                {"id": command_id},
            ).fetchone()
            live = int(row[0]) if row else 0
            if live == 0 or time.monotonic() > end:
                return live
            time.sleep(0.1)


async def _listed(place: Place) -> set[str]:
    """Ids of the tasks that VDSM lists."""
    hosts = place.vdsm
    if not hosts:
        with connect(place.dsn, application_name="pyatm flow", autocommit=True) as connection:
            row = connection.execute(
                "SELECT hosts FROM atm.pools WHERE storage_pool_id = %s", [place.pool_id]
            ).fetchone()
        hosts = tuple(f"{host['address']}:{host['port']}" for host in (row[0] if row else ()))
    make = connector(place.settings)
    addresses = [Address(h.rpartition(":")[0], int(h.rpartition(":")[2])) for h in hosts]
    clients = [make(address) for address in addresses]
    try:
        spm = await find_spm(clients, str(place.pool_id), timeout=10.0)
        if spm is None:
            return set()
        return set((await spm.host.get_all_tasks_statuses()).parse())
    finally:
        for client in clients:
            await client.close()
