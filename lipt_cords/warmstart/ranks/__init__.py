"""The processes of a warm start: rendezvous, messages, start and stop."""
