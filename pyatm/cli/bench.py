"""`pyatm bench`: what pyatm costs on this machine, beside the floor."""

from typing import Annotated, Any

import typer
from rich.table import Table

from pyatm.bench.run import TINY, Size, run
from pyatm.cli.options import JsonOption
from pyatm.cli.output import console, print_json


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(bench)


def bench(
    as_json: JsonOption = False,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Interleaved rounds.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Of each measurement of the workload.")
    ] = 1.5,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Only try that it runs; the figures mean nothing.")
    ] = False,
) -> None:
    """Measure pyatm against the same writes without any rule, on an embedded server.

    The floor is plain SQL in 8 transactions per command, prepared; floor-min is the same in 4.
    Ratios are medians over the rounds, each taken within its round. fsync is on, full page images
    are off. A submitter of pyatm lets up to 16 commands stand open, as an engine does.

    Example: pyatm bench --json
    """
    size = TINY if tiny else Size(rounds=rounds, seconds=seconds)
    answer = run(size, lambda line: None if as_json else typer.echo(line, err=True))
    if as_json:
        print_json(answer)
        return
    _show(answer)


def _show(answer: dict[str, Any]) -> None:
    submitters: dict[str, dict[str, Any]] = answer["workload"]
    table = Table("per command of 4 tasks", *submitters, title="workload")
    for name in next(iter(submitters.values())):
        table.add_row(name, *(_cell(figures[name]) for figures in submitters.values()))
    console().print(table)
    probes = Table("probe", "figure", "value")
    for name in ("report_poll", "plan_1000"):
        for figure, value in answer[name].items():
            probes.add_row(name, figure, _cell(value))
    for live, figures in answer["lookup"].items():
        for figure, value in figures.items():
            probes.add_row(f"lookup, {live} live tasks", figure, _cell(value))
    console().print(probes)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        pairs: dict[str, Any] = dict[str, Any](value)  # pyright: ignore[reportUnknownArgumentType]
        return ", ".join(f"{name} {figure}" for name, figure in pairs.items())
    return str(value)
