"""What every self-supervised depth has: triplets of frames, networks, appearance losses, initial weights."""
