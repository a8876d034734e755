"""Faults at random moments into real process groups."""
