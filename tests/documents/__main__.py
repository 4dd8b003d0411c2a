"""Runs the documents that show outputs and writes those that have changed: `make documents`.

python -m tests.documents [README.md docs/dba-guide.md ...]
"""

import sys
import tempfile
from pathlib import Path

from pyatm.database.migrate import migrate
from tests import servers
from tests.documents.outputs import alike, printable
from tests.documents.preparations import prepare
from tests.documents.reader import DOCUMENTS, Reader, blocks_of, with_a_free_port, with_files


def refreshed(document: Path, dsn: str) -> str:
    """The document with the outputs that its blocks have now."""
    text = with_files(document, document.read_text(encoding="utf-8"))
    prepare(document, dsn)
    pieces: list[str] = []
    end = 0
    with tempfile.TemporaryDirectory() as directory:
        reader = Reader({"PYATM_DSN": dsn}, Path(directory))
        try:
            # Ports change no line, so the blocks correspond.
            runnable = blocks_of(with_a_free_port(text))
            for block, run in zip(blocks_of(text), runnable, strict=True):
                if not block.is_run:
                    continue
                written = reader.run(run)
                if block.output is not None and not alike(written, block.output):
                    pieces += [text[end : block.span[0]], printable(written)]
                    end = block.span[1]
        finally:
            reader.close()
    return "".join([*pieces, text[end:]])


def main(names: list[str]) -> None:
    """Refresh the documents named, or all that show outputs."""
    documents = [Path(name).resolve() for name in names] or [
        document
        for document in DOCUMENTS
        if "<!-- output -->" in document.read_text(encoding="utf-8")
    ]
    with servers.running(servers.choose()) as server:
        for number, document in enumerate(documents):
            database = f"pyatm_document_{number}"
            servers.administer(server, f'CREATE DATABASE "{database}"')
            dsn = servers.on(server, database)
            migrate(dsn)
            text = refreshed(document, dsn)
            changed = text != document.read_text(encoding="utf-8")
            document.write_text(text, encoding="utf-8")
            print(f"{document.name}: {'changed' if changed else 'as it was'}")
            servers.administer(server, f'DROP DATABASE "{database}" WITH (FORCE)')


if __name__ == "__main__":
    main(sys.argv[1:])
