"""The built-in street world: seeded scenes, an exact renderer, a data set with full ground truth."""
