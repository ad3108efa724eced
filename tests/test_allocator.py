"""Large buffers that are freed are kept for the next ones."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pyworker.allocator import keep_buffers

FAULTS = """
import resource, sys
from pyworker.allocator import keep_buffers
if sys.argv[1] == "kept":
    assert keep_buffers()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # a proxy's buffers: some live on while others come and go
    one, other = bytearray(256 * 1024), bytearray(512 * 1024)
before = faults()
for _ in range(200):
    one, other = bytearray(256 * 1024), bytearray(512 * 1024)
    del one, other
print(faults() - before)
"""


def page_faults(how: str) -> int:
    """How often the kernel had to find a page for 200 pairs of buffers, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_buffers_cost_no_new_pages() -> None:
    assert page_faults("kept") * 10 < page_faults("as it is")


def test_a_c_library_without_it_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())

    assert not keep_buffers()
