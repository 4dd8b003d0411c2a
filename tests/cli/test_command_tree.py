"""Every command explains itself, names its JSON, and can be completed in each shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from typer.testing import CliRunner

from pyatm.cli.json_models import SCHEMAS
from pyatm.cli.main import app
from pyatm.cli.schema import page
from tests.cli.programs import Program, environment

if TYPE_CHECKING:
    from tests.conftest import Connection

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^ *Example: (.+)$", re.MULTILINE)


def leaves(command: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands of the tree that do something, by what has to be typed."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        return {path: command}
    found: dict[tuple[str, ...], Any] = {}
    for name in command.commands:
        found |= leaves(command.commands[name], (*path, name))
    return found


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, "--help")}


def test_every_command_has_help_with_an_example_that_it_understands() -> None:
    tree = leaves()
    assert len(tree) > 30
    for path, command in tree.items():
        found = EXAMPLE.search(command.help or "")
        assert found, f"pyatm {' '.join(path)} has no example"
        example = found[1].partition(" | ")[0].partition(" > ")[0].partition(" -- ")[0]
        _, begin, rest = example.partition(f"pyatm {' '.join(path)}")
        assert begin, f"the example of {path} is of another command: {example}"
        used = {word for word in shlex.split(rest) if word.startswith("--")}
        assert used <= options(command), f"the example of {path} uses unknown options"


def test_the_help_of_every_command_and_group_is_printed() -> None:
    groups = {path[:n] for path in leaves() for n in range(len(path) + 1)}
    for path in sorted(groups):
        done = CliRunner().invoke(app, [*path, "--help"])
        assert done.exit_code == 0
        assert f"Usage: {' '.join(['pyatm', *path])} [OPTIONS]" in done.stdout
        # Each option says what it does.
        assert "--" in done.stdout


def test_every_option_is_explained() -> None:
    for path, command in leaves().items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"


def test_every_command_with_json_has_its_schema() -> None:
    with_json = {
        " ".join(path) for path, command in leaves().items() if "--json" in options(command)
    }
    assert with_json == set(SCHEMAS)


def test_the_page_of_the_json_is_what_the_types_say() -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert text == page(), "make it again: pyatm schema --markdown > docs/json.md"


def test_the_types_have_the_columns_of_their_views(db: Connection) -> None:
    query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
    for view in ("commands", "tasks", "orphans", "stuck", "history", "settings", "audit"):
        columns = [name for (name,) in db.execute(query, [f"atm.{view}"]).fetchall()]
        (model,) = SCHEMAS[view]
        row = model.model_fields[view].annotation.__args__[0]  # pyright: ignore
        assert list(row.model_fields) == columns, view


def test_a_schema_can_be_asked_for_by_command() -> None:
    one = CliRunner().invoke(app, ["schema", "operate", "cancel"])
    assert '"cancel_command"' in one.stdout
    wrong = Program().run("schema", "nonsense")
    assert wrong.returncode == 2
    assert "operate cancel" in wrong.stderr


def test_the_exit_codes_of_a_wrong_configuration_and_of_an_unreachable_database(
    tmp_path: Path,
) -> None:
    wrong = tmp_path / "pyatm.toml"
    wrong.write_text("nonsense = 1\n")
    assert Program().run("tasks", "--config", str(wrong)).returncode == 78
    assert Program({"PYATM_DSN": "nonsense"}).run("stuck").returncode == 78
    lost = Program({"PYATM_DSN": "host=127.0.0.1 port=1"}).run("history")
    assert lost.returncode == 1
    assert "the database cannot be reached" in lost.stderr
    unknown = Program().run("taks")
    assert unknown.returncode == 2
    assert "Did you mean 'tasks'" in unknown.stderr


def test_a_command_imports_only_what_it_needs() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pyatm.cli.main import app;"
        "CliRunner().invoke(app, ['tasks', '--help']);"
        "print([m for m in ('textual', 'pyatm.demo', 'pyatm.simulator', 'pyatm.poller')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == "[]\n"


def completed(shell: str, **variables: str) -> str:
    names = {"_PYATM_COMPLETE": f"complete_{shell}", **variables}
    done = CliRunner().invoke(app, [], env=names, prog_name="pyatm")
    return done.stdout


def test_commands_and_options_are_completed() -> None:
    assert completed("bash", COMP_WORDS="pyatm ta", COMP_CWORD="1").split() == ["tasks"]
    assert "resolve-orphan" in completed("zsh", _TYPER_COMPLETE_ARGS="pyatm operate re")
    fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "--older-than" in completed("fish", _TYPER_COMPLETE_ARGS="pyatm stuck --o", **fish)
    states = completed("bash", COMP_WORDS="pyatm tasks --state in", COMP_CWORD="3")
    assert states.split() == ["in_doubt"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_accepts_the_script_and_completes_with_it(shell: str, tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, [], env={"_PYATM_COMPLETE": f"source_{shell}"}, prog_name="pyatm"
    )
    assert made.exit_code == 0
    assert "_PYATM_COMPLETE=complete_" + shell in made.stdout
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "completion"
    script.write_text(made.stdout)
    subprocess.run([program, "-n", str(script)], check=True, capture_output=True)
    if shell != "bash":
        return
    ask = f". {script}; COMP_WORDS=(pyatm st); COMP_CWORD=1; _pyatm_completion pyatm;"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [program, "--norc", "-c", ask + ' echo "${COMPREPLY[@]}"'],
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["stuck"]


def test_the_program_shows_the_script_of_the_shell_that_it_is_called_from(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    done = subprocess.run(
        [bash, "--norc", "-c", f"{sys.executable} -m pyatm.cli.main --show-completion; exit $?"],
        env=environment(SHELL=bash),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
