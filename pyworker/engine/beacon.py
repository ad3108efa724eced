"""A worker that cannot start says so to the engine, with what can be known, for as long as it stays."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from pyworker.core.wire import STATUS_PATH, WorkerStatus, encode
from pyworker.engine.client import EngineClient, EngineError

log = logging.getLogger(__name__)

EVERY: Final = 10.0
MAX_REASON: Final = 500


async def beacon(
    addresses: Sequence[str], *, container_id: int, master_token: str, url: str, reason: str
) -> None:
    """Report ``reason`` (at most `MAX_REASON` characters, without secrets) every ten seconds, until cancelled."""
    status = WorkerStatus(
        id=container_id,
        mtoken=master_token,
        loadtime=0.0,
        cur_load=0.0,
        rej_load=0.0,
        new_load=0.0,
        max_perf=0.0,
        cur_perf=0.0,
        num_requests_working=0,
        num_requests_recieved=0,
        error_msg=reason,
        additional_disk_usage=0.0,
        disk_usage=0.0,
        working_request_idxs=(),
        url=url,
    )
    failing = False
    async with EngineClient(addresses) as client:
        while True:
            began = time.monotonic()
            try:
                await client.post(STATUS_PATH, encode(status))
                failing = False
            except EngineError as error:
                if not failing:
                    log.warning("engine does not take the error report: %s (trying on)", error)
                failing = True
            await asyncio.sleep(max(0.0, EVERY - (time.monotonic() - began)))


def known(environ: Mapping[str, str], default_address: str) -> tuple[list[str], int, str, str]:
    """What an environment that may be wrong in places says: addresses, instance id, token, public URL."""
    addresses = [
        one.strip() for one in environ.get("REPORT_ADDR", "").split(",") if one.strip().startswith("http")
    ]
    number = environ.get("CONTAINER_ID", "")
    port = environ.get("WORKER_PORT") or "3000"
    scheme = "https" if environ.get("USE_SSL", "").lower() in {"true", "1", "yes"} else "http"
    url = f"{scheme}://{environ.get('PUBLIC_IPADDR', '')}:{environ.get(f'VAST_TCP_PORT_{port}', '')}"
    return (
        addresses or [default_address],
        int(number) if number.isdigit() else 0,
        environ.get("MASTER_TOKEN", ""),
        url,
    )
