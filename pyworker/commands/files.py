"""The file or module that a user names."""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any


class UserError(Exception):
    """What the user asked for cannot be done; one line that says why."""


def names_of(what: str) -> dict[str, Any]:
    """What it defines when it is run. Raises `UserError` when there is none."""
    path = Path(what)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise UserError(f"there is no file {what}")
        sys.path.insert(0, str(path.resolve().parent))
        return runpy.run_path(what, run_name="__main__")
    sys.path.insert(0, str(Path.cwd()))
    try:
        known = importlib.util.find_spec(what) is not None
    except ModuleNotFoundError:
        known = False
    if not known:
        raise UserError(
            f"there is no module {what} (and no file of that name); shipped ones are named handlers.NAME"
        )
    return runpy.run_module(what, run_name="__main__", alter_sys=True)
