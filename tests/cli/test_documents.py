"""Every SQL and shell block of README.md and docs/ is run, in the order of its document.

A document has one database and one psql session, so a variable set in one block (`\\gset`) is there
in the next. A shell block runs with `set -e` and `PYATM_DSN` naming that database. A comment before
a block says what is special: `<!-- background -->`, it goes on running until the document's end;
`<!-- not run: reason -->`. VDSM's port is replaced by a free one, because tests run in parallel.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.cli.programs import environment
from tests.conftest import Connection

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n\n?)?^```(?P<language>sql|sh)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
END = "end of the block"
VDSM_PORT = "54321"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a document: its language, its text, what the comment before it says."""

    language: str
    text: str
    mark: str
    line: int


def with_a_free_port(text: str) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    text = text.replace("pyatm vdsm-sim ", f"pyatm vdsm-sim --port {port} ")
    return text.replace(f'"127.0.0.1", "port": {VDSM_PORT}', f'"127.0.0.1", "port": {port}')


def blocks_of(text: str) -> list[Block]:
    return [
        Block(
            found["language"],
            found["text"],
            found["mark"] or "",
            text.count("\n", 0, found.start("language")) + 1,
        )
        for found in BLOCK.finditer(text)
    ]


class Reader:
    """Follows a document: one psql session, shell blocks, and those that go on in background."""

    def __init__(self, variables: dict[str, str], directory: Path) -> None:
        self._directory = directory
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = environment(PATH=path, **variables)
        self._background: list[subprocess.Popen[bytes]] = []
        arguments = ["db", "psql", "--", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--pset=pager=off"]
        self._psql = subprocess.Popen(
            [sys.executable, "-m", "pyatm.cli.main", *arguments],
            env=self._environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: Block) -> str:
        """Run a block; what it wrote. Fails the test when it fails."""
        if block.language == "sql":
            return self._sql(block)
        if block.mark == "background":
            return self._start(block)
        return self._shell(block)

    def close(self) -> None:
        for process in self._background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        assert self._psql.stdin is not None
        self._psql.stdin.close()
        self._psql.wait(20)
        assert self._psql.stdout is not None
        self._psql.stdout.close()

    def alive(self) -> bool:
        return all(process.poll() is None for process in self._background)

    def _sql(self, block: Block) -> str:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        self._psql.stdin.write(f"{block.text}\n\\echo {END}\n")
        self._psql.stdin.flush()
        return self._until_end(self._psql.stdout, block)

    def _until_end(self, output: IO[str], block: Block) -> str:
        lines: list[str] = []
        for line in output:
            if line.strip() == END:
                return "".join(lines)
            lines.append(line)
        pytest.fail(f"line {block.line}: psql stopped:\n{''.join(lines)}")

    def _shell(self, block: Block) -> str:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", block.text],
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"line {block.line}: {done.stdout}"
        return done.stdout

    def _start(self, block: Block) -> str:
        process = subprocess.Popen(
            ["/bin/sh", "-e", "-c", block.text],
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._background.append(process)
        return ""


@pytest.fixture
def reader(dsn: str, tmp_path: Path) -> Generator[Reader]:
    made = Reader({"PYATM_DSN": dsn}, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_document_runs(document: Path, reader: Reader) -> None:
    for block in blocks_of(with_a_free_port(document.read_text(encoding="utf-8"))):
        if not block.mark.startswith("not run: "):
            reader.run(block)
    assert reader.alive(), "a program that the document starts in background has ended"


def test_the_poller_of_the_readme_polls_the_simulated_vdsm_of_the_readme(
    reader: Reader, db: Connection
) -> None:
    text = with_a_free_port((ROOT / "README.md").read_text(encoding="utf-8"))
    chapter = text.partition("## Five minutes as an operator")[2].partition("\n## ")[0]
    for block in blocks_of(chapter):
        reader.run(block)
    deadline = time.monotonic() + 60
    query = "SELECT poller FROM atm.pools WHERE pool_name = 'simulated' AND polled_at IS NOT NULL"
    while (found := db.execute(query).fetchone()) is None:
        assert time.monotonic() < deadline
        assert reader.alive()
        time.sleep(0.2)
    assert found == ("poller-on-my-desk",)


def test_a_failing_sql_block_is_noticed(reader: Reader) -> None:
    with pytest.raises(pytest.fail.Exception, match="line 7: psql stopped"):
        reader.run(Block("sql", "SELECT 1/0;\n", "", 7))


def test_a_failing_shell_block_is_noticed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="line 7"):
        reader.run(Block("sh", "false\ntrue\n", "", 7))


def test_blocks_are_found_with_their_marks() -> None:
    text = "a\n\n<!-- background -->\n```sh\nsleep 1\n```\n\n```sql\nSELECT 1;\n```\n"
    assert blocks_of(text) == [
        Block("sh", "sleep 1\n", "background", 4),
        Block("sql", "SELECT 1;\n", "", 8),
    ]
