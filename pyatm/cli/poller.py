"""`pyatm poller`: the daemon that polls VDSM."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from pyatm.cli.errors import EXIT_CONFIGURATION, EXIT_FAILURE, CommandError
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, settings_from
from pyatm.cli.output import print_json
from pyatm.config import ConfigurationError, Settings
from pyatm.database.dsn import open_database

if TYPE_CHECKING:
    from collections.abc import Callable


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("poller")(poller)


def poller(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of this process; unique among the pollers.")
    ] = None,
    check_only: Annotated[
        bool,
        typer.Option(
            "--check", help="Try configuration, database, certificates and hosts, and end."
        ),
    ] = False,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when standard input ends.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when it is ready, or the findings.")
    ] = False,
) -> None:
    """Poll the VDSM of storage pools and report to the database until SIGTERM.

    Several may run, on one host or many: they share the pools. SIGHUP reads the settings again.

    Example: PYATM_DSN='host=db1 dbname=pyatm user=poller' pyatm poller
    """
    settings = settings_from(config, dsn, data_dir)
    if check_only:
        _check(settings, as_json)
        return
    _log()
    from pyatm.poller.daemon import tls_files
    from pyatm.poller.database import SchemaError

    try:
        tls_files(settings.vdsm)
    except ValueError as error:
        raise CommandError(str(error), exit_code=EXIT_CONFIGURATION) from None
    database = open_database(settings)
    own_name = (
        name
        or settings.poller.name
        or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    )

    def again() -> Settings:
        return settings_from(config, dsn, data_dir)

    serving = _serve(
        settings, own_name, database.dsn, database.direct_dsn, again, exit_with_parent, as_json
    )
    try:
        asyncio.run(serving)
    except SchemaError as error:
        raise CommandError(str(error)) from None


def _check(settings: Settings, as_json: bool) -> None:
    """Print what was found; exit code 1 when something does not work."""
    from pyatm.poller.check import check

    database = open_database(settings)
    findings = asyncio.run(check(settings, database.dsn, database.direct_dsn))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject}: {finding.text}")
            if finding.fix:
                typer.echo(f"      {finding.fix}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_FAILURE)


def _log() -> None:
    """Lines for people on a terminal, JSON for the journal; from level info on."""
    level = (os.environ.get("PYATM_LOG_LEVEL") or "info").upper()
    threshold = logging.getLevelNamesMapping().get(level, logging.INFO)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if terminal
                else [
                    structlog.processors.dict_tracebacks,
                    structlog.processors.JSONRenderer(default=str),
                ]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _serve(
    settings: Settings,
    name: str,
    dsn: str,
    listen_dsn: str,
    again: "Callable[[], Settings]",
    exit_with_parent: bool,
    as_json: bool,
) -> None:
    from pyatm.poller.daemon import Poller

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    facts: dict[str, object] = {"event": "ready", "name": name, "pid": os.getpid()}

    def ready() -> None:
        if as_json:
            typer.echo(json.dumps(facts))

    daemon = Poller(settings, name=name, dsn=dsn, listen_dsn=listen_dsn, ready=ready)

    def reload() -> None:
        try:
            daemon.reload(again())
        except (ConfigurationError, typer.BadParameter) as error:
            daemon.reload_failed(error)

    loop.add_signal_handler(signal.SIGHUP, reload)
    if settings.poller.metrics_port is not None:
        try:
            facts["metrics_port"] = daemon.metrics.serve(
                settings.poller.metrics_address, settings.poller.metrics_port
            )
        except OSError as error:
            raise CommandError(
                f"poller.metrics_port: {error}", fix="choose another port, or leave it out"
            ) from None
    if exit_with_parent:
        # The parent holds the other end: when it dies in any way, this end is readable.
        loop.add_reader(sys.stdin.fileno(), _read_input, stop)
    await daemon.run(stop)


def _read_input(stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        if os.read(sys.stdin.fileno(), 4096):
            return
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()
