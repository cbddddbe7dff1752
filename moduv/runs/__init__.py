"""Whole runs: the chain of stages, own videos, measuring, the report's content."""
