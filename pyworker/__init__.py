"""PyWorker: the worker side of serverless GPU inference.

A daemon on every GPU instance, next to a model server. It tells when the model is ready (and why not), measures perf,
proxies signed requests, and reports load and health to the Serverless engine.

The map, top down; imports point down, and what stands on one line does not know its neighbours::

    cli  commands           the command line: up, run, bench, engine, status
    bench                   measures a model server by hand
    instance  local_engine  `up`: processes side by side · a Serverless engine on one machine
    official                runs worker.py files written for the official package
    worker                  a worker as its author starts it, until a signal
    running                 builds every part of it once, runs them, drains
    console                 what a person looks at: status as JSON, metrics, terminal view, admin port
    server                  what clients talk to: app (routes), tls, tls_port, guard, refusals, proxy (a request's life), relay (bytes),
                            sessions
    model  engine           the model server: connection, pool; loading (log_tail, startup, proof, perf, watches)
                            · the engine: client, keys, reporter (and its thread), journal, beacon
    loop_watch              notices a blocked event loop, and whose code blocks it
    handler                 an author's handler at work
    config settings logs files  what an author writes · what the instance says · log lines · small files
    exit  fence  allocator      the end of the process, whatever an author's code does · a fence around an author's
                            functions · how buffers are kept
    core                    decides; no await, clock, log, socket: wire, signature, ledger, traffic, admission, sessions,
                            lifecycle, log_lines, progress, liveness, benchmark, drift, reckoning, redact, verdict, errors

Public names are what handlers and ``worker.py`` files use.
"""

from pyworker.config import BenchmarkConfig, ConfigError, HandlerConfig, LogActionConfig, WorkerConfig
from pyworker.core.errors import JsonDataException
from pyworker.settings import SettingsError, setting
from pyworker.worker import Worker

__all__ = [
    "BenchmarkConfig",
    "ConfigError",
    "HandlerConfig",
    "JsonDataException",
    "LogActionConfig",
    "SettingsError",
    "Worker",
    "WorkerConfig",
    "setting",
]
