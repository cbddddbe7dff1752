"""The networks of stage 1: those of `moduv.depth.networks`, and three for what moves by itself.

    motion_enc(frames -1, 0, +1 (B, 9, H, W))    -> features, a list, finest first
    motion_dec(features, frames, ego (B, 6))     -> flow from frame 0 to +1 (B, 3, h, w), a list, scale 0 first
    motion_mask(features, frames, ego (B, 6))    -> logits (B, 1, h, w), a list, scale 0 first

The encoder normalises its input itself. `ego` is the mean translation and axis-angle of one step in time.
Disparity, flow and mask of one scale have the same size.
"""

from moduv.motion.networks.dynamo_depth import DynamoDepth
