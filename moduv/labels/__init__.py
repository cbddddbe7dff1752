"""Pseudo-labels: what moves (L0), what is mobile (L1), large and small together (L2)."""
