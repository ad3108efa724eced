"""The file or module that a user names, which may be written for the official package."""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

from pyworker.official.check import problems


class UserError(Exception):
    """What the user asked for cannot be done; one line that says why."""


def names_of(what: str) -> dict[str, Any]:
    """What it defines when it is run, while `served` holds.

    Raises `UserError` when there is none, or when it uses what we do not have of the official package.
    """
    path = Path(what)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise UserError(f"there is no file {what}")
        sys.path.insert(0, str(path.resolve().parent))
        _check(path, path.resolve().parent)
        return runpy.run_path(what, run_name="__main__")
    sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(what)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise UserError(
            f"there is no module {what} (and no file of that name); shipped ones are named handlers.NAME"
        )
    if spec.origin is not None:
        _check(Path(spec.origin), Path.cwd())
    return runpy.run_module(what, run_name="__main__", alter_sys=True)


def _check(file: Path, root: Path) -> None:
    if found := problems(file, root):
        raise UserError("; ".join(found))
