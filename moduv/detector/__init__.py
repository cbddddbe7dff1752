"""The class-agnostic Mask R-CNN: network, data, training step, inference."""
