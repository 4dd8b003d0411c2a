"""Runs a module of the program so that it ends when its parent process ends.

    python -m pyatm.demo.tethered MODULE ARGUMENT...

Standard input is a pipe whose other end only the parent holds: when the parent ends in whatever
way, SIGKILL included, the pipe closes, and this process is told to end by SIGTERM and, if it does
not, ends itself hard.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

_GRACE: Final = 2.0
"""Seconds between SIGTERM and the hard end."""


def main() -> None:
    """Follow the parent, then become the module."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m pyatm.demo.tethered MODULE [ARGUMENT...]")
    pipe = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_follow, args=(pipe,), daemon=True, name="parent").start()
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
