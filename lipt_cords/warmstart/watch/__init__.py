"""Watchers around the rounds: they look on, and change no weight."""
