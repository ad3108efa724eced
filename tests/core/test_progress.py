"""How far a model load is."""

import pytest

from pyworker.core.download_lines import Kind, Reading
from pyworker.core.lifecycle import State
from pyworker.core.progress import Picture, Progress, Stage, size, span

GB = 1e9


def stages(progress: Progress) -> list[Stage]:
    return [leg.stage for leg in progress.legs]


def test_a_download_is_seen_by_the_disk_and_ends_when_the_disk_is_still() -> None:
    progress = Progress(0.0, size=5 * GB)
    for now in range(41):
        progress.observe(
            float(now), state=State.LOADING, disk=20 * GB + min(now, 20) * 0.25 * GB, reading=None
        )
        if now == 10:
            assert progress.picture() == Picture(Stage.DOWNLOAD, 2.5 * GB, 0.25 * GB, 5 * GB, 50.0, 10.0)
            assert progress.picture().words() == "downloading, 50 % of 5 GB, 250 MB/s, 10 s left"

    assert stages(progress) == [Stage.START, Stage.DOWNLOAD, Stage.LOAD]
    assert progress.legs[1].since == 1.0
    assert 20.0 < progress.legs[2].since <= 31.0
    assert progress.picture().words() == "loading the model"


def test_without_a_size_there_are_bytes_and_no_percent() -> None:
    progress = Progress(0.0)
    for now in range(11):
        progress.observe(float(now), state=State.LOADING, disk=now * 0.1 * GB, reading=None)

    assert progress.picture().words() == "downloading, 1 GB, 100 MB/s"


def test_the_log_knows_better_than_the_disk() -> None:
    progress = Progress(0.0, size=50 * GB)
    progress.observe(1.0, state=State.LOADING, disk=1.0, reading=Reading(Kind.DOWNLOAD, 1 * GB, 4 * GB, 1e8))

    assert progress.picture() == Picture(Stage.DOWNLOAD, 1 * GB, 1e8, 4 * GB, 25.0, 30.0)

    progress.observe(9.0, state=State.LOADING, disk=1.0, reading=Reading(Kind.LOAD, 1.0, 4.0, counts=True))

    assert progress.picture().words() == "loading the model, 25 %"

    progress.observe(10.0, state=State.LOADING, disk=1.0, reading=Reading(Kind.DOWNLOAD, 4 * GB, 4 * GB))

    assert progress.picture().stage is Stage.LOAD


def test_files_counted_are_percent_without_bytes() -> None:
    progress = Progress(0.0)
    progress.observe(
        1.0, state=State.LOADING, disk=None, reading=Reading(Kind.DOWNLOAD, 3.0, 30.0, counts=True)
    )

    assert progress.picture() == Picture(Stage.DOWNLOAD, 0.0, 0.0, percent=10.0)


def test_a_download_that_stands_still_has_no_time_left() -> None:
    progress = Progress(0.0)
    progress.observe(1.0, state=State.LOADING, disk=1.0, reading=Reading(Kind.DOWNLOAD, 0.0, 4 * GB))

    assert progress.picture().left is None


def test_the_stages_of_the_rest_are_those_of_the_worker() -> None:
    progress = Progress(0.0)
    new = [
        progress.observe(float(now), state=state, disk=0.0, reading=None)
        for now, state in enumerate(
            [State.LOADING, State.PROVING, State.BENCHMARKING, State.CONFIRMING, State.READY, State.READY], 1
        )
    ]

    assert new == [False, True, True, True, True, False]
    assert stages(progress) == [Stage.START, Stage.PROVE, Stage.BENCHMARK, Stage.CONFIRM, Stage.READY]
    assert progress.picture().words() == "ready"


def test_the_size_says_something_before_the_download_is_seen() -> None:
    progress = Progress(0.0, size=5 * GB)
    progress.observe(1.0, state=State.LOADING, disk=7 * GB, reading=None)

    assert progress.picture().words() == "starting, 0 % of 5 GB"


def test_more_than_the_size_is_no_more_than_all() -> None:
    progress = Progress(0.0, size=1 * GB)
    for now in range(5):
        progress.observe(float(now), state=State.LOADING, disk=now * GB, reading=None)

    assert progress.picture().percent == 100.0


def test_two_looks_in_one_instant_are_no_rate() -> None:
    progress = Progress(0.0)
    progress.observe(1.0, state=State.LOADING, disk=0.0, reading=None)
    progress.observe(1.0, state=State.LOADING, disk=5 * GB, reading=None)

    assert progress.picture().per_second == 0.0


def test_the_stages_kept_are_bounded() -> None:
    progress = Progress(0.0)
    for now in range(200):
        progress.observe(
            float(now), state=State.PROVING if now % 2 else State.ERRORED, disk=None, reading=None
        )

    assert len(progress.legs) == 50


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "0 B"), (512, "512 B"), (4.98e9, "4.98 GB"), (3e12, "3 TB"), (1.5e5, "150 kB")],
)
def test_sizes(count: float | None, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (120, "2 min"), (5400, "1.5 h")])
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words
