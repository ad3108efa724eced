"""What a worker says, made up for tests."""

from typing import Any

import msgspec

from pyworker.core.wire import DeleteRequests, EndedRequest, WorkerStatus

URL = "http://10.0.0.1:4000"

LOADING = WorkerStatus(
    id=1,
    mtoken="secret",
    loadtime=0.0,
    cur_load=0.0,
    rej_load=0.0,
    new_load=0.0,
    max_perf=0.0,
    cur_perf=0.0,
    num_requests_working=0,
    num_requests_recieved=0,
    error_msg="",
    additional_disk_usage=0.0,
    disk_usage=1.0,
    working_request_idxs=(),
    url=URL,
)


def loading(**changes: Any) -> WorkerStatus:
    return msgspec.structs.replace(LOADING, **changes)


def ready(worker_id: int = 1, **changes: Any) -> WorkerStatus:
    """A ready worker of perf 10; worker N is at port 4000 + N - 1."""
    url = f"http://10.0.0.1:{3999 + worker_id}"
    figures: dict[str, Any] = {"id": worker_id, "url": url, "loadtime": 5.0, "max_perf": 10.0}
    return loading(**(figures | changes))


def ended(
    *indices: int, worker_id: int = 1, mtoken: str = "secret", status: str = "Success"
) -> DeleteRequests:
    requests = tuple(
        EndedRequest(
            request_idx=index,
            success=status in {"Success", "Cancelled"},
            status=status,
            entered_queue_at=1.0,
            work_started_at=2.0,
            work_completed_at=3.0,
        )
        for index in indices
    )
    return DeleteRequests(worker_id=worker_id, mtoken=mtoken, requests=requests)
