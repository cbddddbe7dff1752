"""What goes in: frames, clips, intrinsics, split files."""
