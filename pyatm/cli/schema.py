"""`pyatm schema`: what --json prints, as JSON Schema or as the page docs/json.md."""

import types
import typing
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from pyatm.cli.errors import EXIT_USAGE, CommandError
from pyatm.cli.json_models import SCHEMAS, Printed
from pyatm.cli.output import print_json

HEAD = """# What --json prints

Made by `pyatm schema --markdown` from the types in `pyatm/cli/json_models.py`; a test holds real
output against them. `pyatm schema COMMAND` prints the JSON Schema of one command.

Every command prints one JSON value on one line of standard output; with `--watch` a line per
answer. Times are ISO 8601 with a zone, spans of time are seconds, ids are text. A key that is
here stays with its meaning; a new version may add keys, so ignore those that you do not know.
Errors go to standard error as text, see [the exit codes](command-line.md).
"""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("schema")(schema)


def schema(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Such as tasks, or operate cancel; none: all."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/json.md instead.")
    ] = False,
) -> None:
    """Print what the commands print with --json, as JSON Schema.

    Example: pyatm schema operate cancel
    """
    if markdown:
        typer.echo(page(), nl=False)
        return
    name = " ".join(command or ())
    if name and name not in SCHEMAS:
        raise CommandError(
            f"there is no command {name!r} with --json",
            fix=f"one of: {', '.join(SCHEMAS)}",
            exit_code=EXIT_USAGE,
        )
    found = {each: _json_schema(models) for each, models in SCHEMAS.items()}
    print_json(found[name] if name else found)


def _json_schema(models: tuple[type[Printed], ...]) -> dict[str, Any]:
    schemas = [model.model_json_schema(mode="serialization") for model in models]
    return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}


def page() -> str:
    """docs/json.md."""
    parts = [HEAD]
    shown: set[type[Printed]] = set()
    for name, models in SCHEMAS.items():
        parts.append(f"## pyatm {name} --json\n")
        for model in models:
            parts += _described(model, shown)
    return "\n".join(parts)


def _described(model: type[Printed], shown: set[type[Printed]]) -> list[str]:
    """A model, and the models of its fields that the page does not have yet."""
    title = f"### {model.__name__}\n"
    if model in shown:
        return [f"A [{model.__name__}](#{model.__name__.lower()}).\n"]
    shown.add(model)
    lines = [title, f"{model.__doc__}\n", "| key | type |", "|---|---|"]
    inner: list[type[Printed]] = []
    hints = typing.get_type_hints(model, include_extras=True)
    lines += [f"| `{key}` | {_words(hints[key], inner)} |" for key in model.model_fields]
    lines.append("")
    for each in inner:
        if each not in shown:
            lines += _described(each, shown)
    return lines


def _words(kind: Any, inner: list[type[Printed]]) -> str:
    """A type for people; models in it are added to `inner`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(arguments[1].description)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(each, inner) for each in arguments)
    if origin is list:
        return f"list of {_words(arguments[0], inner)}"
    if origin is dict:
        return "object"
    if isinstance(kind, type) and issubclass(kind, Printed):
        inner.append(kind)
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    names = {"str": "text", "int": "integer", "bool": "true or false", "NoneType": "null"}
    names |= {"float": "number", "UUID": "uuid", "datetime": "time"}
    return names[kind.__name__]
