"""Stage 1, Dynamo-Depth: depth, ego-motion, flow and a mask of what moves by itself, from raw clips."""
