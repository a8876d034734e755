"""The processes of a warm start: how they meet, talk, start and stop."""
