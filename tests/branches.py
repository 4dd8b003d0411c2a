"""Which branches of the PL/pgSQL functions the tests have run, from the profiler of plpgsql_check.

Used by tests/debian/run, on a server that preloads plpgsql_check. The profiler counts per
database, and each test has its own: `collect` saves the counters of one before it is dropped, and
`python -m tests.branches DIRECTORY` adds them up.

A branch is each body of IF, CASE, loops and exception handlers, and the way past an IF without
ELSE.
"""

import json
import os
import sys
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

DIRECTORY: Final = "PYATM_BRANCHES"
"""The environment variable that names where the counters go; without it nothing is collected."""
WANTED: Final = 95.0
"""Percent of all branches."""

COUNTERS: Final = """
select p.oid::regprocedure::text, s.stmtid, s.parent_stmtid, s.parent_note, s.lineno, s.stmtname,
       s.exec_stmts
  from pg_proc p
  join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
 cross join lateral plpgsql_profiler_function_statements_tb(p.oid) s
 where p.pronamespace in (select oid from pg_namespace where nspname in ('atm', 'atm_internal'))
 order by 1, 2
"""


def collect(dsn: str) -> None:
    """Saves the counters of a database that is about to be dropped."""
    directory = os.environ.get(DIRECTORY)
    if directory is None:
        return
    with psycopg.connect(dsn, autocommit=True) as db:
        if db.execute("select 1 from pg_extension where extname = 'plpgsql_check'").fetchone():
            rows = db.execute(COUNTERS).fetchall()
            Path(directory, f"{uuid.uuid4()}.json").write_text(json.dumps(rows))


@dataclass(slots=True)
class Statement:
    """A statement of a function, with its bodies: the name of each, and its first statement."""

    line: int
    name: str
    bodies: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Function:
    """A function: its statements by number, and how often each has run."""

    statements: dict[int, Statement] = field(default_factory=dict[int, Statement])
    runs: defaultdict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    databases: int = 0

    def branches(self) -> list[tuple[int, str, bool]]:
        """Line, what it is, and whether it was run."""
        found: list[tuple[int, str, bool]] = []
        for number, statement in self.statements.items():
            bodies = {
                name: self.runs[first]
                for name, first in statement.bodies.items()
                if name != "body"  # of a block: no choice
            }
            if statement.name == "IF" and "else body" not in bodies:
                bodies["no else"] = self.runs[number] - sum(bodies.values())
            found += [
                (statement.line, f"{statement.name}, {name}", runs > 0)
                for name, runs in bodies.items()
            ]
        return found


def read(directory: Path) -> dict[str, Function]:
    """The sum of all counters in a directory."""
    functions: defaultdict[str, Function] = defaultdict(Function)
    for path in directory.glob("*.json"):
        for name, number, parent, note, line, statement, runs in json.loads(path.read_text()):
            function = functions[name]
            if number not in function.statements:
                function.statements[number] = Statement(line, statement)
                if parent in function.statements:  # the block around a handler is not listed
                    function.statements[parent].bodies.setdefault(note, number)
            function.runs[number] += runs or 0
            function.databases += number == 1
    # A function of a single database is one that a test has made.
    return {name: function for name, function in functions.items() if function.databases > 1}


def main(directory: Path) -> int:
    """Prints what was not run; the exit code says whether enough was."""
    functions = read(directory)
    all_branches = run_branches = 0
    for name in sorted(functions):
        branches = functions[name].branches()
        missed = [f"line {line} ({what})" for line, what, was_run in branches if not was_run]
        all_branches += len(branches)
        run_branches += len(branches) - len(missed)
        never = "" if any(functions[name].runs.values()) else " (never called)"
        if missed or never:
            share = 100 * (1 - len(missed) / max(1, len(branches)))
            print(f"  {share:5.1f} %  {name}{never}: not run: {'; '.join(missed)}")
    share = 100 * run_branches / max(1, all_branches)
    print(f"branches: {run_branches} of {all_branches} run, {share:.1f} % (wanted: {WANTED} %)")
    return share < WANTED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
