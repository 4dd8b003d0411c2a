"""Commands that are imported when they are called, so that the program starts in half the time."""

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import typer
import typer.core
import typer.main

from pyatm.cli.places import COMMANDS


class LazyCommands(MutableMapping[str, Any]):
    """The commands by name; one that is looked up is imported.

    Args:
        modules: the module of `pyatm.cli` of each command; it has `register(app)`.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded |= _commands_of(self._modules[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._modules.setdefault(name, "")
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _commands_of(module: str) -> dict[str, Any]:
    part = typer.Typer(rich_markup_mode=None)
    # With a callback it is a group even if the module has one command only.
    part.callback()(_nothing)
    importlib.import_module(f"pyatm.cli.{module}").register(part)
    return dict(typer.main.get_group(part).commands)


def _nothing() -> None:
    pass


class LazyGroup(typer.core.TyperGroup):
    """The program's commands, which it does not import before they are needed."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = LazyCommands(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, without an import."""
        del ctx
        return list(self.commands)
