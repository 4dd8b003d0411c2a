"""Where the SQL files are: beside the package in a checkout, inside it in an installed wheel."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pyatm.database.errors import MigrationError


@dataclass(frozen=True, slots=True)
class SqlFiles:
    """The two directories of SQL files.

    Attributes:
        migrations: numbered yoyo migrations, never edited once released.
        sql: repeatable files, loaded whole in the order of their names.
    """

    migrations: Path
    sql: Path

    def migration_files(self) -> list[Path]:
        """The migrations in the order of their names."""
        found = (p for p in self.migrations.glob("*.sql") if not p.name.endswith(".rollback.sql"))
        return sorted(found, key=lambda path: path.name)

    def repeatable_files(self) -> list[Path]:
        """The repeatable files in the order of their names."""
        return sorted(self.sql.glob("*.sql"), key=lambda path: path.name)

    def repeatable_hash(self) -> str:
        """A hash over the names and contents of the repeatable files."""
        digest = hashlib.sha256()
        for path in self.repeatable_files():
            content = path.read_bytes()
            digest.update(f"{path.name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


def packaged_files() -> SqlFiles:
    """The files that belong to this program.

    Raises:
        MigrationError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for migrations, sql in (
        (package / "_migrations", package / "_sql"),
        (package.parent / "migrations", package.parent / "sql"),
    ):
        if migrations.is_dir() and sql.is_dir():
            return SqlFiles(migrations, sql)
    raise MigrationError(
        f"the SQL files are missing beside {package}; install pyatm again from its wheel"
    )


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256sum` prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
