"""Reads documents: finds their SQL and shell blocks and runs them in order.

A document has one database and one psql session, so a variable set in one block (`\\gset`) is there
in the next. A shell block runs with `set -e` and `PYATM_DSN` naming that database. A comment before
a block says what is special: `<!-- background -->`, it goes on running until the document's end;
`<!-- not run: reason -->`; `<!-- fails -->`, every statement of it, and psql goes on. A text block
below the comment `<!-- output -->` is what the SQL block before it writes. `<!-- example -->` is a
shell block with a test of its own (test_examples.py), and the block below `<!-- file: name -->` has
the text of that file. VDSM's port is replaced by a free one, because tests run in parallel; `docs`
is in the working directory, as in a clone.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pytest

from tests.cli.programs import environment

ROOT: Final = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n\n?)?^```(?P<language>sql|sh)\n(?P<text>.*?)^```\n"
    r"(?:\n<!-- output -->\n\n?```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(
    r"(?P<before>^<!-- file: (?P<name>\S+) -->\n\n?```\w+\n).*?(?=^```$)",
    re.MULTILINE | re.DOTALL,
)
END = "end of the block"
VDSM_PORT = "54321"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a document.

    Attributes:
        language: `sql` or `sh`.
        mark: what the comment before it says.
        line: where its text begins.
        output: what the document says that it writes; None when it says nothing.
        span: where that stands in the document.
    """

    language: str
    text: str
    mark: str
    line: int
    output: str | None = None
    span: tuple[int, int] = (-1, -1)

    @property
    def is_run(self) -> bool:
        """Whether it is run with the others of its document."""
        return self.mark != "example" and not self.mark.startswith("not run: ")


def with_a_free_port(text: str) -> str:
    """The document with a free port in place of VDSM's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    text = text.replace("pyatm vdsm-sim ", f"pyatm vdsm-sim --port {port} ")
    text = text.replace(f'"127.0.0.1", "port": {VDSM_PORT}', f'"127.0.0.1", "port": {port}')
    return text.replace(f" 127.0.0.1:{VDSM_PORT}\n", f" 127.0.0.1:{port}\n")


def with_files(document: Path, text: str) -> str:
    """The document with the present text of the files that it shows."""

    def shown(found: re.Match[str]) -> str:
        now = (document.parent / found["name"]).read_text(encoding="utf-8")
        return found["before"] + now

    return FILE.sub(shown, text)


def blocks_of(text: str) -> list[Block]:
    """The blocks of a document, in order."""
    return [
        Block(
            found["language"],
            found["text"],
            found["mark"] or "",
            text.count("\n", 0, found.start("language")) + 1,
            found["output"],
            found.span("output"),
        )
        for found in BLOCK.finditer(text)
    ]


class Reader:
    """Follows a document: one psql session, shell blocks, and those that go on in background."""

    def __init__(self, variables: dict[str, str], directory: Path) -> None:
        self._directory = directory
        (directory / "docs").symlink_to(ROOT / "docs")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = environment(PATH=path, **variables)
        self._background: list[subprocess.Popen[bytes]] = []
        arguments = ["db", "psql", "--", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--pset=pager=off"]
        arguments += ["--set=SHOW_CONTEXT=never"]
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
        """End psql and the background blocks."""
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
        """Whether all background blocks still run."""
        return all(process.poll() is None for process in self._background)

    def _sql(self, block: Block) -> str:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        before, after = "", ""
        if block.mark == "fails":
            before, after = "\\set ON_ERROR_STOP 0\n", "\\set ON_ERROR_STOP 1\n"
        self._psql.stdin.write(f"{before}{block.text}\n{after}\\echo {END}\n")
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


DOCUMENTS: Final = [
    document
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if blocks_of(document.read_text(encoding="utf-8"))
]
"""Those that have blocks to be run."""
