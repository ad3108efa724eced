"""Two thousand generated inputs; `python -m tests.fuzz` throws as many as one likes."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz


@pytest.mark.timeout(120)
async def test_a_worker_falls_to_none_of_two_thousand_inputs(tmp_path: Path) -> None:
    statuses = await fuzz(tmp_path, 2_000, number=1)

    assert {200, 201, 400, 401, 404, 405, 410, 422} <= set(statuses)
    assert max(statuses) < 500
