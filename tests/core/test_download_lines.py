"""What lines say of a download, or of weights being loaded."""

import pytest

from pyworker.core.download_lines import Kind, Reading, reading

GB, MB = 1e9, 1e6


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "model-00001-of-00004.safetensors:  34%|███▍      | 1.68G/4.98G [00:12<00:24, 135MB/s]",
            Reading(Kind.DOWNLOAD, 1.68 * GB, 4.98 * GB, 135 * MB),
        ),
        ("config.json: 100%|██████████| 1.2k/1.2k [00:00<00:00, 5.1MB/s]", Reading(Kind.DOWNLOAD, 1.2e3, 1.2e3)),
        ("w.bin:   0%|          | 0.00/548M [00:00<?, ?B/s]", Reading(Kind.DOWNLOAD, 0.0, 548 * MB)),
        (
            "Fetching 30 files:  10%|█         | 3/30 [00:05<00:45,  1.70s/it]",
            Reading(Kind.DOWNLOAD, 3.0, 30.0, counts=True),
        ),
        (
            "pulling 8eeb52dfb3bb...  12% ▕██                ▏ 560 MB/4.7 GB   45 MB/s   1m32s",
            Reading(Kind.DOWNLOAD, 560 * MB, 4.7 * GB, 45 * MB),
        ),
        (
            "pulling 8eeb52dfb3bb: 100% ▕██████████████████▏ 4.7 GB",
            Reading(Kind.DOWNLOAD, 4.7 * GB, 4.7 * GB),
        ),
        (
            "(EngineCore pid=1) Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03,  1.05s/it]",
            Reading(Kind.LOAD, 1.0, 4.0, counts=True),
        ),
        ("." * 42, Reading(Kind.LOAD, 42.0, 100.0, counts=True)),
        ("..", None),
        ("INFO 11-23 16:44:46 [core.py:402] init engine took 2.95 s", None),
        ("50% of requests done", None),
    ],
    ids=[
        "tqdm", "tqdm_done", "tqdm_begun", "files", "ollama", "ollama_done", "shards", "dots", "two_dots", "other",
        "percent",
    ],
)  # fmt: skip
def test_a_line(line: str, expected: Reading | None) -> None:
    assert reading(["something", line]) == expected


def test_files_at_once_are_added_up_by_their_newest_lines() -> None:
    found = reading([
        "a.bin:  10%|█ | 100M/1.00G [00:01<00:09, 100MB/s]",
        "b.bin:  10%|█ | 50M/500M [00:01<00:09, 50MB/s]",
        "a.bin:  20%|██ | 200M/1.00G [00:02<00:08, 90MB/s]",
        "Fetching 3 files:   0%|  | 0/3 [00:00<?, ?it/s]",
        "c.bin: 100%|██████████| 500M/500M [00:02<00:00, 400MB/s]",
    ])  # fmt: skip

    assert found == Reading(Kind.DOWNLOAD, 750 * MB, 2 * GB, 140 * MB)
    assert found.percent == 37.5


def test_loading_comes_after_downloading() -> None:
    found = reading([
        "a.bin: 100%|██████████| 1.00G/1.00G [00:10<00:00, 100MB/s]",
        "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:01<00:03,  1.05s/it]",
    ])  # fmt: skip

    assert found is not None
    assert (found.kind, found.percent) == (Kind.LOAD, 50.0)


def test_percent_of_nothing() -> None:
    assert Reading(Kind.DOWNLOAD, 0.0, 0.0).percent == 0.0
