"""Foreign data sets, each in a file or folder of its own: preparation for stage 1, and ground truth."""
