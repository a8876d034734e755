"""Watchers, called around the rounds; what is not part of the algorithm."""
