"""The data plane beside its peers: one run, one machine, the same work for each.

proxy.py            the command: `python -m benchmarks.proxy`
cases.py            what is measured, one function a case, and the goals
bench.py            the parts of a run: peers that run, timed rounds, what went wrong
peers.py            how each peer is started: pyworker, aiohttp, nginx, official, direct
children.py         processes: started, measured from outside, ended
load.py jobs.py     the process that asks, and how it is told what
upstream.py         the model server: answers as the path and the plan in the payload say
goals.py table.py plot.py   pure: medians and verdicts · the table · the picture
aiohttp_proxy.py pyworker_worker.py official_worker.py   what the started peers run
"""
