"""Serves the names of the official package by ours, whether or not it is installed.

What we do not serve, such as its client side, comes from the installed package where there is one. Its own ``__init__``
is never run: it would start from its own worker.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

ROOT: Final = "vastai"
OUT_OF_SCOPE: Final = "vastai.serverless.remote"
WHY_OUT_OF_SCOPE: Final = (
    "deployments (vastai.serverless.remote) are out of scope: describe the worker by a WorkerConfig"
)

_SERVER: Final = "vastai.serverless.server"
_CLIENT: Final = "vastai.serverless.client"
_NAMES: Final = ("BenchmarkConfig", "HandlerConfig", "LogActionConfig", "Worker", "WorkerConfig")

SERVED: Final[dict[str, str]] = {
    ROOT: "",
    "vastai.serverless": "",
    _SERVER: "",
    f"{_SERVER}.lib": "",
    f"{_SERVER}.worker": "pyworker.official.worker",
    f"{_SERVER}.lib.backend": "pyworker.official.backend",
    f"{_SERVER}.lib.data_types": "pyworker.official.data_types",
    f"{_SERVER}.lib.server": "pyworker.official.server",
}
"""Modules of the official package, and ours that have their names; packages have none."""

MIXED: Final = frozenset({ROOT, "vastai.serverless"})
"""Packages in which ours stand beside the installed ones."""

FOUND_IN: Final[dict[str, dict[str, str]]] = {
    ROOT: {
        **dict.fromkeys(_NAMES, f"{_SERVER}.worker"),
        **dict.fromkeys(("Serverless", "CoroutineServerless", "ServerlessRequest"), f"{_CLIENT}.client"),
        "RequestStatus": f"{_CLIENT}.request_status",
        "Endpoint": f"{_CLIENT}.endpoint",
        "VastAI": "vastai.sdk",
        "SyncClient": "vastai.sync.client",
        "AsyncClient": "vastai.async_.client",
        "Deployment": OUT_OF_SCOPE,
    },
    "vastai.serverless": dict.fromkeys(
        (
            *("Serverless", "CoroutineServerless", "ServerlessRequest", "RequestStatus"),
            *("Endpoint", "Endpoint_", "ManagedEndpoint", "ManagedDeployment", "Session"),
        ),
        _CLIENT,
    ),
}
"""Names that a package has from one of its modules."""


@contextmanager
def served() -> Iterator[None]:
    """Serve the official package's names until the context is left."""
    finder = OfficialNames()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_official(name)]:
            del sys.modules[name]


class OfficialNames(MetaPathFinder, Loader):
    """Finds and makes the modules that are `SERVED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == OUT_OF_SCOPE or fullname.startswith(OUT_OF_SCOPE + "."):
            raise ModuleNotFoundError(WHY_OUT_OF_SCOPE, name=fullname)
        ours = SERVED.get(fullname)
        if ours is None:
            return None
        spec = ModuleSpec(fullname, self, is_package=not ours)
        if fullname in MIXED:
            installed = PathFinder.find_spec(fullname, path, target)
            spec.submodule_search_locations = list((installed and installed.submodule_search_locations) or [])
        return spec

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if ours := SERVED[name]:
            made = importlib.import_module(ours)
            vars(module).update({one: getattr(made, one) for one in made.__all__})
        vars(module)["__getattr__"] = lambda attribute: _look_up(name, attribute)


def _look_up(module: str, attribute: str) -> Any:
    """What a module has besides its own names. Raises AttributeError, as a module must, which says why it has it not."""
    if attribute.startswith("__") or (why := unavailable(module, attribute)):
        raise AttributeError(why if not attribute.startswith("__") else attribute, name=attribute)
    return getattr(importlib.import_module(FOUND_IN[module][attribute]), attribute)


def unavailable(module: str, name: str = "") -> str:
    """Why a file cannot have ``module``, or ``name`` of it; empty where it can. `served` must hold."""
    if module == OUT_OF_SCOPE or module.startswith(OUT_OF_SCOPE + "."):
        return WHY_OUT_OF_SCOPE
    if not exists(module):
        return _missing(module)
    if not name or module not in SERVED or exists(f"{module}.{name}"):
        return ""
    return _name_unavailable(module, name)


def _name_unavailable(module: str, name: str) -> str:
    """The same of a name of a module of ours."""
    if home := FOUND_IN.get(module, {}).get(name):
        why = unavailable(home)
    elif SERVED[module] and name in importlib.import_module(SERVED[module]).__all__:
        why = ""
    else:
        why = "this worker has no such name"
    return f"{module}.{name}: {why}" if why else ""


def exists(module: str) -> bool:
    """Whether a module can be imported, by us or from the installed package."""
    if module in SERVED:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _missing(module: str) -> str:
    if module.startswith(_SERVER):
        return f"this worker has no module {module}"
    if PathFinder.find_spec(ROOT) is None:
        return (
            f"{module} comes from the official package, which is not installed (pip install --no-deps vastai)"
        )
    return f"the official package that is installed has no module {module}"


def _is_official(name: str) -> bool:
    return name == ROOT or name.startswith(ROOT + ".")
