"""What decides: values and ``now`` in, values out. Nothing here waits, logs, reads a clock or opens a socket."""
