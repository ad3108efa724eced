# Answers by its own functions, without a model server; works in a thread that starts at import.
import queue
import threading
from dataclasses import dataclass

from vastai import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig
from vastai.serverless.server.lib.data_types import ApiPayload, EndpointHandler

jobs = queue.Queue()


def work():
    while True:
        number, done = jobs.get()
        done(number * 2)


threading.Thread(target=work, daemon=True).start()


async def double(number: int = 1):
    import asyncio

    loop = asyncio.get_running_loop()
    future = loop.create_future()
    jobs.put((number, lambda value: loop.call_soon_threadsafe(future.set_result, value)))
    return await future


@dataclass
class Params(ApiPayload):
    params: dict

    @classmethod
    def for_test(cls):
        return cls({"text": "x"})

    def generate_payload_json(self):
        return self.params

    def count_workload(self):
        return float(len(self.params["text"]))

    @classmethod
    def from_json_msg(cls, json_msg):
        return cls(json_msg)


async def shout(text):
    return text.upper()


class Shouter(EndpointHandler):
    def __init__(self):
        super().__init__(has_benchmark=False, remote_function=shout)

    @property
    def endpoint(self):
        return "/shout"

    @property
    def healthcheck_endpoint(self):
        return None

    @classmethod
    def payload_cls(cls):
        return Params

    def make_benchmark_payload(self):
        return Params.for_test()

    async def generate_client_response(self, client_request, model_response):
        raise NotImplementedError

    async def call_remote_dispatch_function(self, params: dict):
        return {"shouted": await self.remote_function(**params)}


config = WorkerConfig(
    handlers=[
        HandlerConfig(
            route="/double",
            is_remote_dispatch=True,
            remote_function=double,
            benchmark_config=BenchmarkConfig(dataset=[{"number": 2}], runs=1),
        ),
        HandlerConfig(route="/shout", handler_class=Shouter, is_remote_dispatch=False),
    ],
)
Worker(config).run(host="0.0.0.0")
