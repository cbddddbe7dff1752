"""Which pixel of one frame is which of the next, learned from unlabeled video (Araslanov et al. 2021)."""
