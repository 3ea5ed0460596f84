"""Errors, files, the hub, the machine: infrastructure that every room uses."""

__all__ = [
    "crash",
    "device",
    "errors",
    "files",
    "hub",
    "launch",
    "machine",
    "options",
    "progress",
    "records",
    "text",
    "threads",
]
