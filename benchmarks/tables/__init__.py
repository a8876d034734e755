"""Tables of README and docs, from the committed results."""
