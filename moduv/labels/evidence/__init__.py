"""Evidence of motion: what measured optical flow says beyond depth and ego-motion, in units of its error."""
