"""Depth, ego-motion and residual flow of every pixel: the first stage, and the last (sections 3.1 and 3.4)."""
