"""What clients talk to: the public port, and what becomes of a request there."""
