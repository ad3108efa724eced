"""What README promises is what is there."""

import re
import runpy
from pathlib import Path

import pytest

from pyworker import WorkerConfig
from pyworker.settings import VARIABLES

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_setting_has_its_row() -> None:
    rows = [f"| `{one.name}` | {one.meaning} | {one.unit} | {one.default} |" for one in VARIABLES]

    assert [row for row in rows if row not in README] == []


def test_the_handler_example_is_complete(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    file = tmp_path / "worker.py"
    file.write_text(code[1])

    assert isinstance(runpy.run_path(str(file))["config"], WorkerConfig)


@pytest.mark.parametrize("command", ["bash on_start.sh", "bash tests/run.sh"])
def test_the_two_commands_stand_alone(command: str) -> None:
    assert f"```\n{command}\n```" in README


def test_the_map_names_what_is_there() -> None:
    package = Path(__file__).parents[1] / "pyworker"
    there = {
        path.name for path in package.iterdir() if path.name[0] not in "_." and path.suffix in {"", ".py"}
    }
    drawn = README.partition("pyworker/\n")[2].partition("```")[0]

    assert {name for name in there if name not in drawn} == set()
