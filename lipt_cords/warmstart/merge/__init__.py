"""Merging: which workers are merged, how they are averaged, and the step after it."""
