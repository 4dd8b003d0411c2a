"""Reads what a command has printed with --json, and holds it against its documented type."""

import json
from typing import Any

from pydantic import TypeAdapter

from pyatm.cli.json_models import SCHEMAS


def printed(command: str, text: str) -> Any:
    """The object in `text`; fails when it is not of the type that docs/json.md gives.

    Args:
        command: such as `tasks` or `operate cancel`.
        text: one line of JSON.
    """
    found = json.loads(text)
    models = SCHEMAS[command]
    model = next((m for m in models if isinstance(found, dict) and found.get("event")), models[-1])
    for each in found if isinstance(found, list) else [found]:
        # From JSON, so that times and ids may be text; unknown and missing keys are errors.
        TypeAdapter(model).validate_json(json.dumps(each), strict=True, extra="forbid")
    return found
