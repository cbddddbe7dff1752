"""Waymo Open, perception v1 and v2 (Sun et al. 2020): the front camera."""
