"""The networks of stage 1, under the names of the official checkpoints.

A depth model is seven modules, and whoever adds one follows these conventions:

    depth_enc(image (B, 3, H, W) in [0, 1])      -> features, a list, finest first
    depth_dec(features)                          -> disparities (B, 1, h, w) in (0, 1), a list, scale 0 first
    pose_enc(two frames (B, 6, H, W))            -> features
    pose_dec(features)                           -> axis-angle (B, 3), translation (B, 3)
    motion_enc(frames -1, 0, +1 (B, 9, H, W))    -> features
    motion_dec(features, frames, ego (B, 6))     -> flow from frame 0 to +1 (B, 3, h, w), a list, scale 0 first
    motion_mask(features, frames, ego (B, 6))    -> logits (B, 1, h, w), a list, scale 0 first

Encoders normalise their input themselves. `ego` is the mean translation and axis-angle of one step in
time. Disparity, flow and mask of one scale have the same size; scale 0 is the finest: of the images' size
in the published networks, of half that in `street`.
"""

from moduv.motion.networks.dynamo_depth import DynamoDepth

__all__ = ["DynamoDepth"]
