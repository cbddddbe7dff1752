"""Numbers that say whether it works: detection, motion, depth, odometry."""
