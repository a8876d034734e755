"""Subsets that are chosen anew during a training, in the trainers of others; a file each."""
