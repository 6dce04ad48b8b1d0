"""Standby: a server for Claude's Message Batches API over models that you run yourself."""

__version__ = "0.1.0"
