"""What a file, and the files of its own that it imports, use of the official package and cannot have here.

Read, not run: it is said before anything starts, with file and line.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyworker.official.finder import ROOT, SERVED, unavailable

_GUARDS: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception"})
_MADE: Final = ("Worker", "Backend")
"""Classes of which files keep an object and ask it for more."""


def problems(file: Path, root: Path) -> list[str]:
    """``worker.py:12: what is wrong``, a line each. ``root`` is where absolute imports of the file's own modules begin.

    `finder.served` must hold.
    """
    found: list[str] = []
    seen: set[Path] = set()
    waiting = [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (OSError, SyntaxError, ValueError):
            continue  # running it says so, better
        named = path.relative_to(root) if path.is_relative_to(root) else path
        reader = _Reader()
        reader.visit(tree)
        found += [f"{named}:{line}: {what}" for line, what in sorted(set(reader.found))]
        waiting += [one for name, level in reader.others for one in _files(name, level, path, root.resolve())]
    return found


def _files(name: str, level: int, importer: Path, root: Path) -> Iterator[Path]:
    """The files of the author's own that an import means."""
    folder = importer.parents[level - 1] if 0 < level <= len(importer.parents) else root
    for base in (folder,) if level else (root, importer.parent):
        place = base.joinpath(*name.split(".")) if name else base
        for one in (place.with_suffix(".py") if name else place, place / "__init__.py"):
            if one.is_file():
                yield one.resolve()


class _Reader(ast.NodeVisitor):
    """Collects, of one file: what it cannot have, by line; and the imports that are not the official package's."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.others: list[tuple[str, int]] = []
        self._modules: dict[str, str] = {}
        """What a name of the file means: a module..."""
        self._names: dict[str, tuple[str, str]] = {}
        """... a name of one..."""
        self._made: dict[str, type[Any]] = {}
        """... or an object made by a class of ours."""

    def _say(self, node: ast.AST, why: str) -> None:
        if why:
            self.found.append((getattr(node, "lineno", 0), why))

    # What is imported...

    def visit_Import(self, node: ast.Import) -> None:
        for one in node.names:
            if not _is_official(one.name):
                self.others.append((one.name, 0))
                continue
            self._say(node, unavailable(one.name))
            self._modules[one.asname or ROOT] = one.name if one.asname else ROOT

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level or not _is_official(module):
            self.others.append((module, node.level))
            self.others += [(f"{module}.{one.name}".strip("."), node.level) for one in node.names]
            return
        for one in node.names:
            name = "" if one.name == "*" else one.name
            self._say(node, unavailable(module, name))
            inner = f"{module}.{name}"
            if inner in SERVED:
                self._modules[one.asname or name] = inner
            else:
                self._names[one.asname or name] = (module, name)

    def visit_Try(self, node: ast.Try) -> None:
        """An import that the file itself can do without is its own business."""
        guarded = any(_catches(one.type) for one in node.handlers)
        for one in node.body:
            if not (guarded and isinstance(one, ast.Import | ast.ImportFrom)):
                self.visit(one)
        for rest in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(rest)

    def visit_If(self, node: ast.If) -> None:
        if not ast.unparse(node.test).endswith("TYPE_CHECKING"):
            self.generic_visit(node)

    # ... and how it is used.

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        kind = self._class_called(node.value)
        for target in node.targets:
            if kind is not None and kind.__name__ in _MADE and isinstance(target, ast.Name):
                self._made[target.id] = kind

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        module = self._module(node.value)
        if module is not None:
            self._say(node, unavailable(module, node.attr))
            return
        kind = self._made.get(node.value.id) if isinstance(node.value, ast.Name) else None
        kind = kind or self._class_called(node.value)
        if kind is not None and kind.__name__ in _MADE and isinstance(node.ctx, ast.Load):
            has = hasattr(kind, node.attr) or node.attr in inspect.signature(kind).parameters
            self._say(node, "" if has else f"{kind.__name__}.{node.attr}: this worker has no such attribute")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        kind = self._class_called(node)
        if kind is None or not kind.__module__.startswith("pyworker."):
            return
        known = inspect.signature(kind).parameters
        for one in node.keywords:
            if one.arg is not None and one.arg not in known:
                self._say(one.value, f"{kind.__name__}({one.arg}=...): this worker has no such field")

    def _module(self, node: ast.expr) -> str | None:
        """The module of the official package that an expression means."""
        if isinstance(node, ast.Name):
            return self._modules.get(node.id)
        if isinstance(node, ast.Attribute) and (outer := self._module(node.value)) is not None:
            inner = f"{outer}.{node.attr}"
            return inner if inner in SERVED else None
        return None

    def _class_called(self, node: ast.expr) -> type[Any] | None:
        """The class of ours that an expression makes an object of."""
        if not isinstance(node, ast.Call):
            return None
        where: tuple[str, str] | None = None
        if isinstance(node.func, ast.Name):
            where = self._names.get(node.func.id)
        elif isinstance(node.func, ast.Attribute) and (module := self._module(node.func.value)) is not None:
            where = (module, node.func.attr)
        if where is None or where[0] not in SERVED or unavailable(*where):
            return None
        found = getattr(importlib.import_module(where[0]), where[1], None)
        return found if isinstance(found, type) else None


def _is_official(name: str) -> bool:
    return name == ROOT or name.startswith(ROOT + ".")


def _catches(kind: ast.expr | None) -> bool:
    """Whether an ``except`` clause catches what a missing module raises."""
    return kind is None or any(isinstance(one, ast.Name) and one.id in _GUARDS for one in ast.walk(kind))
