"""Supervision for depth in moving regions, mined from the objects themselves (Nguyen et al., CVPR 2024)."""
