"""Connection strings: from the settings to libpq, from libpq to yoyo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyatm.config import Settings
from pyatm.database.embedded import EmbeddedServer
from pyatm.database.errors import DsnError

YOYO_SCHEME: Final = "postgresql+psycopg"
"""yoyo's name for psycopg 3; plain `postgresql` would import psycopg2."""

Parameters = dict[str, str]
"""libpq's connection parameters by name."""


@dataclass(frozen=True, slots=True)
class Database:
    """The database that the settings name.

    Attributes:
        dsn: for ordinary work; may lead through a pooler.
        direct_dsn: for LISTEN, session locks and migrations; never through a pooler.
        server: the embedded server behind both, None when the DSN was given.
    """

    dsn: str
    direct_dsn: str
    server: EmbeddedServer | None


def resolve(settings: Settings) -> Database:
    """The database of these settings; nothing is started or connected.

    Raises:
        DsnError: a connection string is malformed.
    """
    direct = settings.listen_dsn.get_secret_value() if settings.listen_dsn else None
    if settings.dsn is not None:
        dsn = checked(settings.dsn.get_secret_value(), "dsn")
        return Database(dsn, checked(direct, "listen_dsn") if direct else dsn, None)
    server = EmbeddedServer(Path(settings.data_dir).expanduser())
    return Database(server.dsn(), server.dsn(), server)


def open_database(settings: Settings) -> Database:
    """As `resolve`, and the embedded server runs afterwards.

    Raises:
        DsnError: a connection string is malformed.
        EmbeddedServerError: the embedded server cannot be started.
    """
    database = resolve(settings)
    if database.server is not None:
        database.server.start()
        return resolve(settings)
    return database


def parse(dsn: str) -> Parameters:
    """The parameters of a libpq connection string or URI.

    Raises:
        DsnError: libpq does not understand it; the message does not repeat it (passwords).
    """
    try:
        found = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise DsnError(str(error).strip()) from None
    return {name: str(value) for name, value in found.items() if value is not None}


def checked(dsn: str, setting: str) -> str:
    """The same string if libpq understands it.

    Args:
        dsn: a connection string.
        setting: where it came from, for the message.

    Raises:
        DsnError: it does not.
    """
    try:
        parse(dsn)
    except DsnError as error:
        raise DsnError(
            f"{setting} is not a libpq connection string: {error}; for example "
            "host=db1.example.com dbname=pyatm user=pyatm"
        ) from None
    return dsn


def redacted(dsn: str) -> str:
    """The connection string without its secrets, for messages and logs."""
    parameters = parse(dsn)
    hidden = {name: "***" for name in ("password", "sslpassword") if name in parameters}
    return make_conninfo("", **{**parameters, **hidden})


def yoyo_url(dsn: str, schema: str, application_name: str) -> str:
    """The URL by which yoyo reaches the same database.

    Everything goes into the query, where a list of hosts, a Unix socket's directory and any other
    libpq parameter are allowed; in the place of the host yoyo takes a single name only, and the
    path it does not unquote.

    Args:
        dsn: a libpq connection string.
        schema: for yoyo's own tables.
        application_name: shown in `pg_stat_activity`.
    """
    parameters = {**parse(dsn), "application_name": application_name, "schema": schema}
    query = urlencode(parameters, quote_via=quote)
    return f"{YOYO_SCHEME}:///?{query}"
