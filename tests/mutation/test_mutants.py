"""The table of mutants is true: every text still stands in its file, once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_texts_of_a_mutant_stand_in_their_files_once(mutant: Mutant) -> None:
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit.old
        assert edit.new != edit.old


def test_no_two_mutants_have_the_same_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_document_has_each_mutant_and_tests_that_exist() -> None:
    text = (ROOT / "docs/mutants.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \| `(.+?)::(.+?)` \|$", text, re.MULTILINE)
    assert [(name, rule) for name, rule, _, _ in rows] == [(m.name, m.rule) for m in MUTANTS]
    for _, _, file, test in rows:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
