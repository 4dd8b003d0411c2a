"""The programs of docs/engine-guide.md really remove a VM: VDSM simulated, the poller real.

They run with the rights of `atm_engine` alone, as the guide says.
"""

import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import Connection
from tests.documents.reader import ROOT, Block, Reader, blocks_of, with_a_free_port
from tests.documents.tcp import tcp_address

GUIDE = ROOT / "docs" / "engine-guide.md"
DRIVER = Path("/usr/share/java/postgresql.jar")
needs_java = pytest.mark.skipif(
    shutil.which("javac") is None or not DRIVER.exists(),
    reason="needs javac and /usr/share/java/postgresql.jar"
    " (Debian: default-jdk-headless, libpostgresql-jdbc-java)",
)
ENGINE_ROLE = "-c role=atm_engine"
OF_PYTHON = "e0000000-0000-4000-8000-000000000008"
OF_JAVA = "e0000000-0000-4000-8000-000000000009"


def jdbc_url(dsn: str, address: tuple[str, int]) -> str:
    named = conninfo_to_dict(dsn)
    parameters = {"user": str(named["user"]), "options": ENGINE_ROLE}
    if password := named.get("password"):
        parameters["password"] = str(password)
    where = f"{address[0]}:{address[1]}/{named['dbname']}"
    return f"jdbc:postgresql://{where}?{urlencode(parameters, quote_via=quote)}"


class Guide:
    """The guide up to its programs: tables and pool are there, VDSM and poller run."""

    def __init__(self, dsn: str, db: Connection, directory: Path, opened: ExitStack) -> None:
        self.db, self._storage = db, directory / "setup" / "guide-storage"
        url = jdbc_url(dsn, opened.enter_context(tcp_address(dsn)))
        setting_up = Reader({"PYATM_DSN": dsn}, self._sub(directory, "setup"))
        opened.callback(setting_up.close)
        as_engine = {"PYATM_DSN": make_conninfo(dsn, options=ENGINE_ROLE), "JDBC_URL": url}
        self._engine = Reader(as_engine, self._sub(directory, "engine"))
        opened.callback(self._engine.close)
        self._text = with_a_free_port(GUIDE.read_text(encoding="utf-8"))
        for block in self._blocks("## Before the first command"):
            if block.is_run:
                setting_up.run(block)
        for block in self._blocks("## A VDSM and a poller"):
            setting_up.run(block)
        self._until_polled()

    def program(self, chapter: str) -> str:
        """Run the blocks of a program's chapter; what they printed."""
        return "".join(self._engine.run(block) for block in self._blocks(chapter))

    def disks(self, vm_id: str) -> list[str]:
        query = "SELECT disk_id::text FROM my_engine.disk WHERE vm_id = %s ORDER BY disk_id"
        return [row[0] for row in self.db.execute(query, [vm_id])]

    def vms(self) -> set[str]:
        return {row[0] for row in self.db.execute("SELECT vm_id::text FROM my_engine.vm")}

    def removed_by_vdsm(self) -> list[str]:
        """Images that VDSM has removed, from its own storage."""
        return sorted(path.name for path in self._storage.glob("*/*/removed/*"))

    def put_back(self, vm_id: str, disk_ids: list[str]) -> None:
        """The engine's rows are there again, the images are not."""
        self.db.execute("INSERT INTO my_engine.vm VALUES (%s)", [vm_id])
        for disk_id in disk_ids:
            self.db.execute("INSERT INTO my_engine.disk VALUES (%s, %s)", [disk_id, vm_id])

    def until_cleared(self) -> None:
        self._until("SELECT count(*) = 0 FROM atm.commands")

    def outcomes(self) -> list[tuple[str, str, list[str]]]:
        query = (
            "SELECT h.engine_name, h.outcome, array_agg(t.outcome ORDER BY t.task_id)"
            " FROM atm.history h JOIN atm.history_tasks t USING (command_id)"
            " GROUP BY h.command_id, h.engine_name, h.outcome, h.ended_at ORDER BY h.ended_at"
        )
        return self.db.execute(query).fetchall()

    def _blocks(self, title: str) -> list[Block]:
        chapter = self._text.partition(f"\n{title}")[2].partition("\n## ")[0]
        found = blocks_of(f"{title}{chapter}\n")
        assert found, title
        return found

    def _until_polled(self) -> None:
        # A poll that listed the tasks: the simulated VDSM answers and the poller works.
        self._until("SELECT count(*) = 1 FROM atm.pools WHERE polled_at IS NOT NULL")

    def _until(self, query: str) -> None:
        end = time.monotonic() + 60
        while self.db.execute(query.encode()).fetchone() != (True,):
            assert time.monotonic() < end, query
            time.sleep(0.1)

    @staticmethod
    def _sub(directory: Path, name: str) -> Path:
        made = directory / name
        made.mkdir()
        return made


@pytest.fixture
def guide(dsn: str, db: Connection, tmp_path: Path) -> Generator[Guide]:
    with ExitStack() as opened:
        yield Guide(dsn, db, tmp_path, opened)


@pytest.mark.parametrize(
    ("chapter", "vm_id", "engine"),
    [
        ("## In Python", OF_PYTHON, "engine-in-python"),
        pytest.param("## In Java", OF_JAVA, "engine-in-java", marks=needs_java),
    ],
)
def test_the_program_of_the_guide_removes_a_vm_and_only_what_vdsm_has_removed(
    guide: Guide, chapter: str, vm_id: str, engine: str
) -> None:
    disk_ids = guide.disks(vm_id)
    assert len(disk_ids) == 2
    printed = guide.program(chapter)
    assert guide.disks(vm_id) == [], printed
    assert vm_id not in guide.vms()
    assert guide.removed_by_vdsm() == disk_ids
    guide.until_cleared()
    assert guide.outcomes() == [(engine, "succeeded", ["succeeded", "succeeded"])]

    guide.put_back(vm_id, disk_ids)
    printed = guide.program(chapter)
    assert "failed" in printed
    assert guide.disks(vm_id) == disk_ids
    assert guide.vms() >= {vm_id}
    guide.until_cleared()
    (_, failed) = guide.outcomes()
    assert failed[1] == "failed"
    assert "succeeded" not in failed[2]
