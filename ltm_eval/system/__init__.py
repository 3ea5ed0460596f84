"""Errors, files, the hub, the machine: what every room needs and no research depends on."""

__all__ = ["device", "errors", "files", "hub", "launch", "machine", "progress", "records", "text"]
