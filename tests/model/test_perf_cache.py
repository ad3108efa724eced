"""The benchmark's result, kept for the next start."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pyworker.core.benchmark import Result
from pyworker.model.perf_cache import KEPT, PerfCache, PerfKey

KEY = PerfKey("/x", "8 runs", "m", "H100", "llama.cpp --api-key geheim")
RESULT = Result(50.0, 50.0, 80.0, 0.5, (40.0, 50.0, 80.0), 10, 1.0, 2.0, ("oops",))


@pytest.fixture
def cache(tmp_path: Path) -> PerfCache:
    return PerfCache(tmp_path / "work" / "perf.json")


def test_what_is_kept_is_found(cache: PerfCache) -> None:
    assert cache.find(KEY) is None

    cache.keep(KEY, RESULT)

    assert cache.find(KEY) == replace(RESULT, failures=())
    assert [path.name for path in cache.path.parent.iterdir()] == ["perf.json"]


@pytest.mark.parametrize("field", ["handler", "benchmark", "model", "device", "model_server"])
def test_anything_else_is_measured_anew(cache: PerfCache, field: str) -> None:
    cache.keep(KEY, RESULT)

    assert cache.find(replace(KEY, **{field: "other"})) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"1834.2", b"null", b"{}", b'{"format": "other"}', b"\xff\xfe", b'{"format": "pyworker-perf-1", "results": 5}'],
    ids=["empty", "a_number", "null", "object", "foreign", "binary", "no_results"],
)  # fmt: skip
def test_an_empty_or_foreign_file_is_replaced(cache: PerfCache, content: bytes) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)

    assert cache.find(KEY) is None

    cache.keep(KEY, RESULT)

    assert cache.find(KEY) is not None


@pytest.mark.parametrize(
    "change", [{"perf": "many"}, {"perf": None}, {"median": 0}, {"best": float("inf")}, {"runs": 5}, {"concurrency": 0}]
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_measured_anew(cache: PerfCache, change: dict[str, object]) -> None:
    cache.keep(KEY, RESULT)
    content = json.loads(cache.path.read_bytes())
    content["results"][KEY.digest].update(change)
    cache.path.write_text(json.dumps(content))

    assert cache.find(KEY) is None


def test_the_file_holds_no_command_line(cache: PerfCache) -> None:
    cache.keep(KEY, RESULT)

    assert "geheim" not in cache.path.read_text()


def test_old_results_make_room(cache: PerfCache) -> None:
    for number in range(KEPT + 5):
        cache.keep(replace(KEY, model=str(number)), RESULT)

    assert len(json.loads(cache.path.read_bytes())["results"]) == KEPT
    assert cache.find(replace(KEY, model=str(KEPT + 4))) is not None
    assert cache.find(replace(KEY, model="0")) is None


def test_a_folder_that_cannot_be_written_to_costs_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    PerfCache(tmp_path / "file" / "perf.json").keep(KEY, RESULT)

    assert "not kept" in caplog.text


def test_what_cannot_be_put_in_its_place_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "perf.json"
    path.mkdir()
    (path / "something").touch()
    PerfCache(path).keep(KEY, RESULT)

    assert "not kept" in caplog.text
    assert [one.name for one in tmp_path.iterdir()] == ["perf.json"]
