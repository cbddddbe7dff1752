"""Learning to detect, segment, follow and name mobile objects from unlabeled video."""

__version__ = "0.1.0"
