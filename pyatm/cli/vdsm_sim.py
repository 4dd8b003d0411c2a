"""`pyatm vdsm-sim`: a simulated VDSM on a loopback port."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from pyatm.cli.errors import EXIT_USAGE, CommandError
from pyatm.simulator.plans import JobPlan
from pyatm.simulator.server import Simulator
from pyatm.simulator.settings import SimulatorSettings
from pyatm.simulator.storage import Existence, is_uuid


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("vdsm-sim")(vdsm_sim)


def vdsm_sim(
    directory: Annotated[
        Path,
        typer.Option("--dir", help="Storage directory; simulators may share it."),
    ] = Path("vdsm-sim"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any free one.")] = 54321,
    control_port: Annotated[
        int, typer.Option(help="Port for faults on demand; 0: any free one, -1: none.")
    ] = -1,
    host_id: Annotated[int, typer.Option(min=1, help="Id of this host in its pools.")] = 1,
    pool: Annotated[
        list[str] | None, typer.Option(help="Storage pool (uuid) to connect; may be repeated.")
    ] = None,
    spm: Annotated[bool, typer.Option("--spm", help="Become SPM of the pools at start.")] = False,
    vm: Annotated[
        list[str] | None, typer.Option(help="VM (uuid) that runs here; without it all do.")
    ] = None,
    job_seconds: Annotated[
        str, typer.Option(help="How long tasks work: 0.5, a range 0.5-3, or until-told.")
    ] = "0.2",
    existence: Annotated[
        Existence, typer.Option(help="Which images exist: on disk, until removed, or all.")
    ] = Existence.TRACKED,
    seed: Annotated[int | None, typer.Option(help="Repeats ids and random durations.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Tasks that work at once.")] = 10,
    max_tasks: Annotated[int, typer.Option(min=1, help="Tasks that may wait.")] = 500,
    lock_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a verb waits for a resource.")
    ] = 120.0,
    spm_start_seconds: Annotated[float, typer.Option(min=0, help="How long spmStart works.")] = 0.1,
    starting_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds after the start with code 99 to everything.")
    ] = 0.0,
    tls_dir: Annotated[
        Path | None, typer.Option(help="TLS with the certificates in this directory.")
    ] = None,
    generate_ca: Annotated[
        bool, typer.Option("--generate-ca", help="Make a test CA in --tls-dir if it has none.")
    ] = False,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when standard input ends.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when it is ready.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every step.")] = False,
) -> None:
    """Run a simulated VDSM until Ctrl-C.

    Example: pyatm vdsm-sim --dir /tmp/vdsm --pool 5849b030-626e-47cb-ad90-3ce782d831b3 --spm
    """
    if generate_ca and tls_dir is None:
        raise CommandError(
            "--generate-ca needs a directory", fix="add --tls-dir DIR", exit_code=EXIT_USAGE
        )
    for option, given in (("--pool", pool), ("--vm", vm)):
        for value in given or ():
            if not is_uuid(value):
                raise CommandError(
                    f"{option} cannot be {value!r}", fix="give a uuid", exit_code=EXIT_USAGE
                )
    if tls_dir is not None and generate_ca and not (tls_dir / "ca.pem").exists():
        # Imported only here: it costs a noticeable part of the program's start.
        from pyatm.simulator.ca import generate_ca as make_ca

        make_ca(tls_dir)
    settings = SimulatorSettings(
        directory=directory.absolute(),
        host=host,
        port=port,
        control_port=None if control_port < 0 else control_port,
        host_id=host_id,
        pools=tuple(pool or ()),
        spm=spm,
        vms=None if vm is None else frozenset(vm),
        plan=_plan(job_seconds),
        existence=existence,
        seed=seed,
        task_threads=threads,
        max_tasks=max_tasks,
        lock_timeout=lock_timeout,
        spm_start_seconds=spm_start_seconds,
        starting_seconds=starting_seconds,
        tls_directory=tls_dir,
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("debug" if verbose else "info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        asyncio.run(_serve(settings, exit_with_parent, as_json))
    except OSError as error:
        raise CommandError(
            f"the simulator cannot start: {error}",
            fix="choose another --port or --dir; --port 0 takes any free port",
        ) from None


def _plan(text: str) -> JobPlan:
    if text == "until-told":
        return JobPlan(shortest=None)
    least, dash, most = text.partition("-")
    try:
        plan = JobPlan(shortest=float(least), longest=float(most) if dash else None)
    except ValueError:
        plan = JobPlan(shortest=-1.0)
    if plan.shortest is None or plan.shortest < 0 or (plan.longest or plan.shortest) < 0:
        raise CommandError(
            f"--job-seconds cannot be {text!r}",
            fix="give seconds (0.5), a range (0.5-3), or until-told",
            exit_code=EXIT_USAGE,
        )
    return plan


async def _serve(settings: SimulatorSettings, exit_with_parent: bool, as_json: bool) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    simulator = Simulator(settings, kill=lambda: os.kill(os.getpid(), signal.SIGKILL))
    async with simulator:
        if exit_with_parent:
            # The parent holds the other end: when it dies in any way, this end is readable.
            loop.add_reader(sys.stdin.fileno(), _read_input, over)
        _announce(simulator, as_json)
        await over.wait()


def _read_input(over: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        if os.read(sys.stdin.fileno(), 4096):
            return
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    over.set()


def _announce(simulator: Simulator, as_json: bool) -> None:
    settings = simulator.settings
    spm = simulator.process.spm
    facts: dict[str, Any] = {
        "event": "ready",
        "host": settings.host,
        "port": simulator.port,
        "control_port": simulator.control_port,
        "pid": os.getpid(),
        "host_id": settings.host_id,
        "storage": str(settings.directory),
        "tls": settings.tls_directory is not None,
        "pools": {name: spm.status(pool) for name, pool in spm.pools.items()},
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"VDSM simulator on {settings.host}:{simulator.port}, storage {settings.directory}")
    if simulator.control_port is not None:
        typer.echo(f"control port {simulator.control_port}")
    for name, pool in spm.pools.items():
        typer.echo(f"pool {name}: {pool.role}")


def main() -> None:
    """Run this command alone, for a process that needs no other (it starts faster)."""
    try:
        typer.run(vdsm_sim)
    except CommandError as error:
        typer.echo(f"pyatm: {error}" + (f"\n       {error.fix}" if error.fix else ""), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
