# Starts its worker where it is imported; uses every hook of HandlerConfig that is a function.
import os
import random

from aiohttp import web
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig
from vastai.serverless.server.lib.data_types import JsonDataException


def parse(request):
    if "prompt" not in request:
        raise JsonDataException({"prompt": "missing parameter"})
    return {"text": request["prompt"], "n": request.get("n", 1)}


def load(payload):
    return payload["n"] * 10.0


async def respond(request, model_response):
    body = await model_response.json()
    return web.json_response(
        {"for": request.path, "said": body, "status": model_response.status}, headers={"X-Made-By": "worker.py"}
    )


def sample():
    return {"text": random.choice(["a", "b"]), "n": 1}


Worker(
    WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=os.environ["MODEL_PORT"],
        model_log_file=os.environ["MODEL_LOG"],
        model_healthcheck_url="health",
        benchmark_route="/generate",
        max_sessions=None,
        handlers=[
            HandlerConfig(
                route="/generate",
                healthcheck="/health",
                allow_parallel_requests=True,
                max_queue_time=None,
                request_parser=parse,
                response_generator=respond,
                workload_calculator=load,
                benchmark_config=BenchmarkConfig(generator=sample, runs=2, concurrency=None, do_warmup=False),
            ),
            HandlerConfig(route="/one", max_queue_time=0.0),
        ],
        log_action_config=LogActionConfig(
            on_load=["model loaded"], on_error=["Traceback"], on_info=["loading"]
        ),
    )
).run()
