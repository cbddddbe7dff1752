"""Masks of objects and of the road: given ones, or found without any (Nguyen et al. 2024, section 3.2)."""
