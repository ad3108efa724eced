"""The model server next door: connections to it, its log, its start, its health."""
