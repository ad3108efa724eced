"""What a file of the official package's style cannot have is found by reading it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker.official.check import problems
from pyworker.official.finder import OfficialNames, served

FILES = Path(__file__).parent / "files"

served_meanwhile = pytest.mark.usefixtures("names_are_served")


@pytest.fixture
def names_are_served() -> Iterator[None]:
    with served():
        yield


@served_meanwhile
@pytest.mark.parametrize(
    "name", ["at_import.py", "as_main.py", "remote.py", "older.py", "workers/pixels/worker.py"]
)
def test_files_that_run_have_no_problem(name: str) -> None:
    assert problems(FILES / name, FILES) == []


@served_meanwhile
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import vastai.serverless.remote", "are out of scope"),
        ("import vastai\nvastai.Deployment()", "vastai.Deployment: deployments"),
        ("import vastai\nvastai.nosuch", "vastai.nosuch: this worker has no such name"),
        ("import vastai.serverless.server.lib.metrics", "no module vastai.serverless.server.lib.metrics"),
        (
            "from vastai.serverless.server.worker import EndpointHandlerFactory",
            "worker.EndpointHandlerFactory:",
        ),
        ("from vastai.serverless.server.lib import data_types as d\nd.Session", "data_types.Session:"),
        ("import vastai.serverless.server.worker as w\nw.nosuch", "worker.nosuch:"),
        (
            "from vastai import HandlerConfig\nHandlerConfig(route='/x', brand_new=1)",
            "HandlerConfig(brand_new=...): this worker has no such field",
        ),
        ("import vastai\nvastai.WorkerConfig(brand_new=1)", "WorkerConfig(brand_new=...)"),
        (
            "from vastai import Worker\nw = Worker(1)\nw.backend",
            "Worker.backend: this worker has no such attr",
        ),
        ("from vastai import Worker\nWorker(1).routes.append(2)", "Worker.routes:"),
        (
            "from vastai.serverless.server.lib.backend import Backend\nb = Backend(1)\nb.metrics",
            "Backend.metrics:",
        ),
        ("try:\n    from vastai import nosuch\nexcept ValueError:\n    pass", "vastai.nosuch"),
    ],
)
def test_what_it_cannot_have_is_named_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "worker.py"
    file.write_text(text)
    (found,) = problems(file, tmp_path)
    last = text.partition("\nexcept")[0].count("\n") + 1

    assert found.startswith(f"worker.py:{last}: ")
    assert what in found


@served_meanwhile
@pytest.mark.parametrize(
    "text",
    [
        "try:\n    from vastai import nosuch\nexcept ImportError:\n    nosuch = None",
        "try:\n    import vastai.nosuch\nexcept:\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vastai import nosuch",
        "from vastai import Worker\nw = Worker(1)\nw.run()\nw.config\nw.note = 1",
        "from vastai.serverless.server.lib.backend import Backend\nb = Backend(1)\nb.create_handler\nb.log_actions",
        "from vastai.serverless.server.lib import *",
        "def broken(:",
        "import numpy, os.path\nfrom . import sibling\nfrom ......... import far",
    ],
)
def test_what_it_can_do_without_is_no_problem(tmp_path: Path, text: str) -> None:
    file = tmp_path / "worker.py"
    file.write_text(text)

    assert problems(file, tmp_path) == []


@served_meanwhile
def test_the_files_it_imports_are_read_too_each_once(tmp_path: Path) -> None:
    package = tmp_path / "workers" / "one"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from vastai import first\n")
    (package / "data.py").write_text("from . import worker\nfrom vastai import second\n")
    (tmp_path / "shared.py").write_text("import vastai\n\nvastai.third\n")
    (package / "worker.py").write_text("from .data import x\nimport shared\nfrom workers import one\n")
    found = problems(package / "worker.py", tmp_path)

    assert sorted(one.partition(": ")[0] for one in found) == [
        "shared.py:3",
        "workers/one/__init__.py:1",
        "workers/one/data.py:2",
    ]


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    with served():
        import vastai

        assert vastai.WorkerConfig.__module__ == "pyworker.official.worker"
        with pytest.raises(AttributeError, match="are out of scope"):
            _ = vastai.Deployment
        with pytest.raises(ImportError, match="are out of scope"):
            import vastai.serverless.remote

    assert not any(name.partition(".")[0] == "vastai" for name in sys.modules)
    assert not any(isinstance(one, OfficialNames) for one in sys.meta_path)
