"""An own PostgreSQL server, for use without an installed one.

It runs in one of two ways. *Kept*: below the user's data directory, started by whoever needs it
first, shared by all processes, running until `stop`. *Private*: for one demo or test run, in a
temporary directory; it ends, and its files go, with the process that started it, however that
process ends.

The server listens on a Unix socket in a directory that only its account may enter, where it trusts
everybody; on request on a loopback TCP port too, with a password.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pyatm.database.errors import EmbeddedServerError
from pyatm.database.postgres_programs import (
    POSTGRES_MAJOR,
    Programs,
    clean_environment,
    find_programs,
)

DATABASE: Final = "pyatm"
SUPERUSER: Final = "postgres"
SOCKET_PORT: Final = 5432
"""Without TCP it is only part of the socket's name, in a directory of the server's own."""
SOCKET_PATH_LIMIT: Final = 100
"""Bytes; the kernel's limit is 107 on Linux and 103 on macOS."""
START_TIMEOUT: Final = 90.0
STOP_TIMEOUT: Final = 60.0
INITDB_TIMEOUT: Final = 120.0


class EmbeddedServer:
    """One embedded server in one directory.

    Args:
        directory: holds everything of this server; made when missing.
        private: end the server with this process instead of keeping it.
        delete: remove `directory` when a private server is closed or its parent is gone.
        durable: False switches fsync off: faster, and a power failure may lose the data. Killed
            processes lose nothing either way.
        tcp: listen on a free loopback port as well.
        settings: further server settings, as in `postgresql.conf`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        private: bool = False,
        delete: bool = False,
        durable: bool = True,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / f"postgresql-{POSTGRES_MAJOR}"
        self.log = self.directory / "server.log"
        self._private = private
        self._delete = delete
        self._durable = durable
        self._tcp = tcp
        # Chosen once, so that the connection strings stay good over a stop and start.
        self._port = _free_port() if tcp else SOCKET_PORT
        self._settings = dict(settings or {})
        self._programs: Programs | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def programs(self) -> Programs:
        """The server's programs, `psql` and `pg_dump` among them."""
        if self._programs is None:
            self._programs = find_programs(self.data)
        return self._programs

    @property
    def socket_directory(self) -> Path:
        """Where the Unix socket is; aside in the temporary directory if the path is too long."""
        inside = self.directory / "run"
        if len(str(inside)) + len(f"/.s.PGSQL.{self._port}") <= SOCKET_PATH_LIMIT:
            return inside
        name = hashlib.sha256(str(self.directory).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"pyatm-{name}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        lines = self._pid_file()
        return int(lines[0]) if lines else None

    @property
    def port(self) -> int:
        """The port, which is also part of the Unix socket's name."""
        lines = self._pid_file()
        return int(lines[3]) if lines else self._port

    def dsn(self, database: str = DATABASE, *, tcp: bool = False) -> str:
        """A libpq connection string for the superuser.

        Args:
            database: its name.
            tcp: over the loopback port (with the password) instead of the Unix socket.

        Raises:
            EmbeddedServerError: TCP was asked for and the server does not listen there.
        """
        if not tcp:
            return make_conninfo(
                host=str(self.socket_directory),
                port=self.port,
                user=SUPERUSER,
                dbname=database,
            )
        lines = self._pid_file()
        if not lines or lines[5] != "127.0.0.1":
            raise EmbeddedServerError("the embedded server does not listen on a TCP port")
        return make_conninfo(
            host="127.0.0.1",
            port=self.port,
            user=SUPERUSER,
            dbname=database,
            password=(self.directory / "password").read_text(encoding="ascii").strip(),
        )

    def start(self) -> None:
        """Start the server unless it runs; returns when it takes connections.

        Safe when several processes do it at the same time.

        Raises:
            EmbeddedServerError: it cannot be started; the message names the server's log.
        """
        if self._answers():
            return
        self._make_directory(self.directory)
        with self._locked():
            if not self._answers():
                self._check_version()
                if not (self.data / "PG_VERSION").exists():
                    self._initialise()
                self._make_directory(self.socket_directory)
                self._await_end()
                self._launch()
                self._create_database()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server; does nothing when it does not run.

        Args:
            immediate: as after a crash, without a checkpoint; nothing committed is lost.
        """
        order = b"immediate\n" if immediate else b"fast\n"
        if self._supervisor is not None:
            supervisor, self._supervisor = self._supervisor, None
            # Already gone when the server was killed from outside.
            with supervisor:
                if supervisor.poll() is None:
                    _write(supervisor, order)
                supervisor.wait()
            return
        pid = self.pid
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGQUIT if immediate else signal.SIGINT)
        except ProcessLookupError:
            return
        except PermissionError:
            raise EmbeddedServerError(
                f"the server in {self.directory} belongs to another user"
            ) from None
        self._await_end()

    def close(self) -> None:
        """Stop a private server and delete its directory if that was asked for."""
        if not self._private:
            return
        self.stop(immediate=self._delete)
        if self._delete:
            for directory in (self.directory, self.socket_directory):
                shutil.rmtree(directory, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether the server takes connections."""
        return self._answers()

    def _await_end(self) -> None:
        """Wait until the postmaster of the pid file, stopped or killed, has really ended."""
        pid = self.pid
        deadline = time.monotonic() + STOP_TIMEOUT
        while pid is not None and self.pid == pid and _exists(pid):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the server in {self.directory} (process {pid}) neither answers nor ends; "
                    f"see {self.log}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        if self.pid is None or not self.socket_directory.is_dir():
            return False
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=10, autocommit=True).close()
        except psycopg.OperationalError as error:
            # Its connections being used up does not mean that another server is needed.
            return "too many clients" in str(error) or "connection slots" in str(error)
        return True

    def _pid_file(self) -> list[str] | None:
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise EmbeddedServerError(
                f"{self.directory} belongs to another user; set data_dir to a directory of yours"
            ) from None
        # Written line by line while the server starts.
        return [line.strip() for line in lines] if len(lines) >= 8 else None

    @contextmanager
    def _locked(self) -> Generator[None]:
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_directory(self, directory: Path) -> None:
        account = self.programs.account
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = directory.stat().st_uid
            if owner not in (account.uid, os.geteuid()):
                raise EmbeddedServerError(
                    f"{directory} belongs to user id {owner}; set data_dir to another directory"
                )
            if os.geteuid() == 0:
                os.chown(directory, account.uid, account.gid)
            directory.chmod(0o700)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot make the directory {directory}: {error.strerror}; set data_dir"
            ) from None
        if not _may_enter(directory, self.programs):
            raise EmbeddedServerError(
                f"account {account.name}, which runs the embedded server, cannot enter "
                f"{directory}; set data_dir to a directory outside closed home directories"
            )

    def _check_version(self) -> None:
        for other in self.directory.glob("postgresql-*/PG_VERSION"):
            found = other.read_text(encoding="ascii").strip()
            if found != str(POSTGRES_MAJOR):
                raise EmbeddedServerError(
                    f"{other.parent} was made by PostgreSQL {found}, and this is {POSTGRES_MAJOR}; "
                    "dump it with the older version or set data_dir to a new directory"
                )

    def _initialise(self) -> None:
        # Made aside and renamed, so that a kill leaves no half cluster under the final name.
        aside = Path(tempfile.mkdtemp(dir=self.directory, prefix=".new-"))
        self._make_directory(aside)
        password = self.directory / "password"
        password.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        password.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(password, self.programs.account.uid, self.programs.account.gid)
        self.programs.run(
            "initdb",
            f"--pgdata={aside}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *([] if self._durable else ["--no-sync"]),
            cwd=self.directory,
            timeout=INITDB_TIMEOUT,
        )
        aside.rename(self.data)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(self._port),
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "cluster_name": "pyatm",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%u@%d %a ",
            **({} if self._durable else {"fsync": "off", "full_page_writes": "off"}),
            **self._settings,
        }
        command = [self.programs.path("postgres"), "-D", str(self.data)]
        return command + [f"--{name}={value}" for name, value in settings.items()]

    def _launch(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        while (problem := self._try_launch()) is not None:
            # The last children of a killed postmaster end a moment after it.
            if "shared memory block" not in problem or time.monotonic() > deadline:
                raise EmbeddedServerError(problem)
            time.sleep(0.2)

    def _try_launch(self) -> str | None:
        """Start the server once; what went wrong, None when it is ready."""
        if self._supervisor is not None:
            # The server was killed from outside, and its supervisor has ended or is about to.
            with self._supervisor as supervisor:
                supervisor.wait(START_TIMEOUT)
        spec = {
            "command": self._command(),
            "data": str(self.data),
            "log": str(self.log),
            "environment": clean_environment(),
            "switch": self.programs.account.switch(),
            "private": self._private,
            "delete": ([str(self.directory), str(self.socket_directory)] if self._delete else None),
        }
        script = Path(__file__).with_name("supervisor.py")
        supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        answer = supervisor.stdout.readline().decode() if supervisor.stdout else ""
        if not answer.startswith("ready"):
            with supervisor:
                pass
            return (
                f"the embedded server does not start: {answer.removeprefix('failed ').strip()}; "
                f"its log {self.log} ends with:\n{self._log_tail()}"
            )
        if self._private:
            self._supervisor = supervisor
        else:
            with supervisor:
                pass
        return None

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-10:])

    def _create_database(self) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", [DATABASE]
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


@contextmanager
def private_server(
    *,
    durable: bool = True,
    tcp: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Generator[EmbeddedServer]:
    """A running private server in a temporary directory, gone with its files afterwards.

    Args:
        durable: False switches fsync off.
        tcp: listen on a loopback port too.
        settings: further server settings.
    """
    directory = Path(tempfile.mkdtemp(prefix="pyatm-"))
    server = EmbeddedServer(
        directory, private=True, delete=True, durable=durable, tcp=tcp, settings=settings
    )
    try:
        server.start()
        yield server
    finally:
        server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _may_enter(directory: Path, programs: Programs) -> bool:
    """Try it as the account: permissions of every directory above count too."""
    done = subprocess.run(
        # Changing into it is the shell's work: subprocess itself would do it while still root.
        ["/bin/sh", "-c", 'cd "$1" && test -w .', "sh", str(directory)],
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=False,
        **programs.account.switch(),
    )
    return done.returncode == 0


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _write(supervisor: "subprocess.Popen[bytes]", order: bytes) -> None:
    if supervisor.stdin is not None:
        with suppress(BrokenPipeError):
            supervisor.stdin.write(order)
            supervisor.stdin.flush()
