"""Answers that survive and are shared: journal, resume, processes, watchdog."""

__all__ = ["journal", "processes", "session", "status", "worklist"]
