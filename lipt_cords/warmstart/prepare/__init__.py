"""Preparation: arguments, data and model are checked, and shards are made."""
