"""Whole runs: the chain of stages, measuring, report."""
