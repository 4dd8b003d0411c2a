"""The options that several lookup commands have."""

from typing import Annotated

import typer

from pyatm.cli.filters import checked_age, checked_entity


def _age(text: str | None) -> str | None:
    try:
        return checked_age(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _entity(text: str | None) -> str | None:
    try:
        return checked_entity(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


WatchOption = Annotated[
    float | None,
    typer.Option("--watch", min=0.1, metavar="SECONDS", help="Ask again and again, until Ctrl-C."),
]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000_000, help="Most rows shown.")]
ActionOption = Annotated[
    str | None, typer.Option("--action", metavar="TYPE", help="Only this action, as RemoveVm.")
]
PoolOption = Annotated[
    str | None, typer.Option("--pool", metavar="POOL", help="Only this pool: its name or id.")
]
OlderOption = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        callback=_age,
        help="Only older ones: 30s, 15min, 2h, 7d.",
    ),
]
NewerOption = Annotated[
    str | None,
    typer.Option(
        "--newer-than",
        metavar="AGE",
        callback=_age,
        help="Only newer ones: 30s, 15min, 2h, 7d.",
    ),
]
EntityOption = Annotated[
    str | None,
    typer.Option(
        "--entity", metavar="TYPE:UUID", callback=_entity, help="Only what holds this entity."
    ),
]
