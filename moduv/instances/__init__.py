"""The currency between stages: objects of a frame, and their forms on disk."""
