"""Every SQL and shell block of README.md and docs/ is run, and writes what its document says."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import Connection
from tests.documents.__main__ import refreshed
from tests.documents.outputs import alike, normal
from tests.documents.preparations import prepare
from tests.documents.reader import (
    DOCUMENTS,
    FILE,
    ROOT,
    Block,
    Reader,
    blocks_of,
    with_a_free_port,
    with_files,
)


@pytest.fixture
def reader(dsn: str, tmp_path: Path) -> Generator[Reader]:
    made = Reader({"PYATM_DSN": dsn}, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_document_runs(document: Path, reader: Reader, dsn: str) -> None:
    prepare(document, dsn)
    for block in blocks_of(with_a_free_port(document.read_text(encoding="utf-8"))):
        if not block.is_run:
            continue
        written = reader.run(block)
        if block.output is not None:
            assert normal(written) == normal(block.output), (
                f"line {block.line}: the output has changed; python -m tests.documents writes"
                " the new ones"
            )
    assert reader.alive(), "a program that the document starts in background has ended"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_that_the_document_shows_are_shown_as_they_are(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert len(FILE.findall(text)) == text.count("<!-- file: ")
    assert with_files(document, text) == text, "python -m tests.documents writes the new text"


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


def test_a_block_that_is_to_fail_does_not_end_the_session(reader: Reader) -> None:
    assert "division by zero" in reader.run(Block("sql", "SELECT 1/0;\n", "fails", 7))
    assert "(1 row)" in reader.run(Block("sql", "SELECT 1;\n", "", 8))


def test_blocks_are_found_with_their_marks() -> None:
    text = "a\n\n<!-- background -->\n```sh\nsleep 1\n```\n\n```sql\nSELECT 1;\n```\n"
    assert blocks_of(text) == [
        Block("sh", "sleep 1\n", "background", 4),
        Block("sql", "SELECT 1;\n", "", 8),
    ]


def test_the_output_of_a_block_is_found() -> None:
    text = "```sql\nSELECT 1;\n```\n\n<!-- output -->\n\n```text\n 1\n```\n\n```text\nx\n```\n"
    (block,) = blocks_of(text)
    assert block.output == " 1\n"
    assert text[slice(*block.span)] == " 1\n"


def test_times_and_widths_are_no_difference_between_outputs_but_values_are() -> None:
    printed = " at                  | n\n---------+---\n 2026-01-02 03:04:05 | 7\n(1 row)\n"
    later = " at  | n\n------------------------+---\n 2027-11-12 13:14:15+00 | 7\n(1 row)\n"
    assert alike(printed, later)
    assert alike(" 00:00:05", " 3 days 10:20:30.5")
    assert not alike(printed, later.replace("| 7", "| 8"))
    assert not alike(printed, later.replace("(1 row)", "(2 rows)"))
    assert not alike(" 00:00:05", " ")


def test_outputs_that_have_changed_are_written_and_the_others_stay(
    tmp_path: Path, dsn: str
) -> None:
    shown = "<!-- output -->\n\n```text\n"
    document = tmp_path / "page.md"
    document.write_text(
        f"```sql\nSELECT 1 AS n;\n```\n\n{shown}```\n\nwords\n\n"
        f"```sql\nSELECT '00:00:05'::interval AS age;\n```\n\n"
        f"{shown} age\n-----\n 00:00:07\n(1 row)\n```\n"
    )
    assert refreshed(document, dsn) == (
        f"```sql\nSELECT 1 AS n;\n```\n\n{shown} n\n---\n 1\n(1 row)\n```\n\nwords\n\n"
        f"```sql\nSELECT '00:00:05'::interval AS age;\n```\n\n"
        f"{shown} age\n-----\n 00:00:07\n(1 row)\n```\n"
    )


def test_a_file_that_a_document_shows_replaces_what_was_shown_before(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(1)\n")
    for before in ("", "old\n", "x\ny\n"):
        text = f"<!-- file: a.py -->\n\n```python\n{before}```\n\n```python\nother\n```\n"
        assert with_files(tmp_path / "page.md", text) == (
            "<!-- file: a.py -->\n\n```python\nprint(1)\n```\n\n```python\nother\n```\n"
        )
