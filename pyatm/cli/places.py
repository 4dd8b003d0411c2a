"""Where each command of the program is, in the order of `pyatm --help`."""

from typing import Final

COMMANDS: Final = {
    "demo": "demo",
    "db": "db",
    "poller": "poller",
    "vdsm-sim": "vdsm_sim",
    "flow": "flow",
    "top": "top",
    "commands": "lookup_commands",
    "tasks": "lookup_commands",
    "entity": "lookup_commands",
    "orphans": "lookup_commands",
    "stuck": "lookup_commands",
    "history": "lookup_commands",
    "explain": "lookup_commands",
    "check": "lookup_commands",
    "settings": "lookup_commands",
    "audit": "lookup_commands",
    "operate": "operate",
    "bench": "bench",
    "config": "config",
    "schema": "schema",
}
"""The module of `pyatm.cli` for each name; its `register(app)` adds the command."""
