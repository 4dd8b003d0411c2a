"""The options that most commands have, and the settings that they lead to."""

from pathlib import Path
from typing import Annotated

import typer

from pyatm.config import Settings, load_settings
from pyatm.database.dsn import checked, parse

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file (TOML); also PYATM_CONFIG. [default: /etc/pyatm/pyatm.toml]",
        show_default=False,
    ),
]
DsnOption = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="DSN",
        help="libpq connection string, without a password (use PYATM_DSN or a password file); "
        "left out: the embedded server.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Directory of the embedded server.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def settings_from(
    config: Path | None = None,
    dsn: str | None = None,
    data_dir: Path | None = None,
    **sections: object,
) -> Settings:
    """The settings with these flags on top.

    Args:
        config: `--config`.
        dsn: `--dsn`.
        data_dir: `--data-dir`; it means the embedded server even if a DSN is configured.
        sections: further settings by name, None for those not given.

    Raises:
        ConfigurationError: a setting is wrong.
        typer.BadParameter: both a DSN and a directory were given.
    """
    if dsn is not None and data_dir is not None:
        raise typer.BadParameter(
            "--dsn and --data-dir exclude each other: one names a server, "
            "the other the embedded server's files"
        )
    if dsn is not None and "password" in parse(checked(dsn, "--dsn")):
        typer.echo(
            "pyatm: warning: every user of this machine can see the password in --dsn; "
            "use PYATM_DSN, a password file (PGPASSFILE) or `dsn` in the configuration file",
            err=True,
        )
    settings = load_settings(config, dsn=dsn, data_dir=data_dir, **sections)
    if data_dir is not None:
        return settings.model_copy(update={"dsn": None, "listen_dsn": None})
    if dsn is not None:
        # The configured direct connection belongs to the configured database.
        return settings.model_copy(update={"listen_dsn": None})
    return settings
