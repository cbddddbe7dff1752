"""Cameras, rigid motion and images: the differentiable geometry behind Dynamo-Depth.

Everything is batched, in float32, and free of host synchronisation. Pixel centres lie at integer
coordinates. Matrices are homogeneous: poses and intrinsics (B, 4, 4), the latter in pixels. Points are
(B, 3, H, W) in the unit of depth, fields (B, C, H, W), images (B, C, H, W) in [0, 1].
"""

from moduv.geometry.ground import ground_disparity, ground_points, ransac_plane
from moduv.geometry.normals import level_surfaces, surface_normals
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
from moduv.geometry.splatting import forward_warp, homogeneous_coordinates
