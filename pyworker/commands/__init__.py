"""What `pyworker COMMAND` does, a module a command, each with ``add`` (its options) and what it runs.

A module is imported only when its command is wanted: a worker on an instance needs no engine and no plots.
"""
