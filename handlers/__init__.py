"""Handlers we ship, one file a model server: data and one or two functions, importable without starting anything."""
