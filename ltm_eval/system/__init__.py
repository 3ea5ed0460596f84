"""Errors, files, the hub, the machine: what every room needs and no research depends on."""

__all__ = ["crash", "device", "errors", "files", "hub", "launch", "machine", "options", "progress", "records", "text"]
