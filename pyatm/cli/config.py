"""`pyatm config`: the configuration file, explained."""

import ast
import inspect
import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pyatm.config import SYSTEM_CONFIG, Section, Settings

_EXAMPLES: dict[str, str | int] = {
    "dsn": "host=db1.example.com,db2.example.com dbname=pyatm user=pyatm_poller",
    "listen_dsn": "host=db1.example.com,db2.example.com port=5432 dbname=pyatm user=pyatm_poller",
    "data_dir": "/var/lib/pyatm",
    "certificate": "/etc/pki/vdsm/certs/vdsmcert.pem",
    "key": "/etc/pki/vdsm/keys/vdsmkey.pem",
    "ca": "/etc/pki/vdsm/certs/cacert.pem",
    "name": "poller1",
    "metrics_port": 9187,
}
"""Shown for settings that have no default, or one that depends on the user."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(help="The configuration file.", no_args_is_help=True)
    group.command("example")(example)
    app.add_typer(group, name="config")


def example() -> None:
    """Print a commented configuration file with every setting and its default.

    Example: pyatm config example > /etc/pyatm/pyatm.toml
    """
    typer.echo(example_text(), nl=False)


def example_text() -> str:
    """The example as TOML; every setting is commented out, so the file changes nothing."""
    lines = [
        f"# Configuration of pyatm, read from {SYSTEM_CONFIG}, or from the file that --config or",
        "# PYATM_CONFIG names. Each setting is also an environment variable: dsn is PYATM_DSN,",
        "# lease in [poller] is PYATM_POLLER__LEASE. The environment wins over the file, flags win",
        "# over both. Settings that are commented out show their default or an example.",
        "",
    ]
    fields, described = Settings.model_fields, _descriptions(Settings)
    for name, info in fields.items():
        if _section(info) is None:
            lines += _setting(name, info, described)
    for name, info in fields.items():
        section = _section(info)
        if section is not None:
            lines += [f"# {_first_line(section)}", f"[{name}]"]
            described = _descriptions(section)
            for inner, inner_info in section.model_fields.items():
                lines += _setting(inner, inner_info, described)
    return "\n".join(lines).rstrip() + "\n"


def _section(info: FieldInfo) -> type[Section] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _first_line(model: type) -> str:
    text = (model.__doc__ or "").strip().partition("\n")[0]
    words = text.partition(": ")[2] or text
    return words[:1].upper() + words[1:]


def _descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The texts below the settings in the source; reading them at each start would cost 30 ms."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    found: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for setting, text in itertools.pairwise(statements):
        match setting, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=words)):
                found[name] = str(words)
            case _:
                continue
    return found


def _setting(name: str, info: FieldInfo, described: dict[str, str]) -> list[str]:
    description = " ".join(described.get(name, "").split())
    comment = [f"# {description[0].upper()}{description[1:]}"] if description else []
    default: Any = info.get_default(call_default_factory=True, validated_data={})
    value = _EXAMPLES.get(name, default)
    return [*comment, f"# {name} = {_toml(value)}", ""]


def _toml(value: object) -> str:
    if isinstance(value, Path | str):
        return json.dumps(str(value), ensure_ascii=False)
    return json.dumps(value)
