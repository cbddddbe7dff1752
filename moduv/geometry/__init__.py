"""Cameras, rigid motion and images: the differentiable geometry behind Dynamo-Depth.

Everything is batched, in float32, and free of host synchronisation. Pixel centres lie at integer
coordinates. Matrices are homogeneous (B, 4, 4), points (B, 3, H, W), fields (B, C, H, W).
"""

from moduv.geometry.ground import ground_disparity, ground_points, ransac_plane
from moduv.geometry.photometric import photometric_error, smoothness, ssim
from moduv.geometry.projection import (
    back_project,
    depth_to_disparity,
    disparity_to_depth,
    pixel_grid,
    project,
    rays,
)
from moduv.geometry.rigid import inverse_pose, pose_matrix, rotation_matrix, transform
from moduv.geometry.sampling import resize, warp
