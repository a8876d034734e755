"""GLISTER: greedy gains on held-out data."""
