"""Runs `worker.py` files written for the official package, ``vastai``, unchanged.

``finder`` serves that package's names by ours while such a file runs; ``check`` says beforehand what it uses that we do not
have. ``data_types``, ``worker``, ``backend`` and ``server`` are the official modules of these names, by our parts.
"""
