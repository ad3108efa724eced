# The older way: a Backend, aiohttp's routes, start_server. Its own thread writes the line that means loaded.
import os
import threading
import time
import urllib.request
from dataclasses import dataclass

from aiohttp import web
from vastai.serverless.server.lib.backend import Backend, LogAction
from vastai.serverless.server.lib.data_types import ApiPayload, EndpointHandler
from vastai.serverless.server.lib.server import start_server

MODEL = f"http://127.0.0.1:{os.environ['MODEL_PORT']}"


@dataclass
class Text(ApiPayload):
    inputs: str

    @classmethod
    def for_test(cls):
        return cls("hello")

    def generate_payload_json(self):
        return {"inputs": self.inputs}

    def count_workload(self):
        return float(len(self.inputs))

    @classmethod
    def from_json_msg(cls, json_msg):
        return cls(json_msg["inputs"])


@dataclass
class Generate(EndpointHandler[Text]):
    words: int = 1

    @property
    def endpoint(self):
        return "/generate"

    @property
    def healthcheck_endpoint(self):
        return "/health"

    @classmethod
    def payload_cls(cls):
        return Text

    def make_benchmark_payload(self):
        return Text("hello " * self.words)

    async def generate_client_response(self, client_request, model_response):
        return web.Response(body=await model_response.read(), status=model_response.status)


class Stream(Generate):
    @property
    def endpoint(self):
        return "/generate_stream"


def watch():
    while True:
        try:
            urllib.request.urlopen(f"{MODEL}/health")
        except OSError:
            time.sleep(0.05)
            continue
        with open(os.environ["MODEL_LOG"], "a") as log:
            log.write("older.py: the model has loaded\n")
        return


threading.Thread(target=watch, daemon=True).start()

backend = Backend(
    model_server_url=MODEL,
    model_log_file=os.environ["MODEL_LOG"],
    benchmark_handler=Generate(benchmark_runs=1, words=3, concurrency=2),
    log_actions=[
        (LogAction.ModelLoaded, "the model has loaded"),
        (LogAction.ModelError, "Traceback"),
        (LogAction.Info, "Download"),
    ],
)


async def ping(_):
    return web.Response(text="pong")


async def broken(_):
    raise RuntimeError("secret detail")


routes = [
    web.post("/gen", backend.create_handler(Generate())),
    web.post("/stream", backend.create_handler(Stream(allow_parallel_requests=True))),
    web.get("/ping", ping),
    web.get("/broken", broken),
]

if __name__ == "__main__":
    start_server(backend, routes)
