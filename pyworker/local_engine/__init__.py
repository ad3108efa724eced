"""A Serverless engine on one machine: the same wire, keys and grants as the real one, with nothing rented.

What it is: something to live on while everything runs on this machine. It gives clients signed grants for the ready
worker with the shortest expected queue, and keeps the books from what workers report.

What it is not: an engine for many machines. It starts and stops no workers, knows one endpoint and one API key, and
forgets what it knew about workers when it ends; where there is a fleet to scale, the real engine does this job.

From the bottom up:

    refusals     what a call is turned away with, each with its HTTP status
    pool_worker  one worker as its reports describe it, and the requests held against it      (pure)
    pool         which worker is next; who is gone, which load is released                    (pure)
    records      the JSON that clients of the engine read and write, checked                  (pure)
    keys         the key that signs grants, and the root certificate made from it
    app          the HTTP routes over pool and keys
    serve        sockets, time and log lines around it all: `LocalEngine` and `serve`
"""
