"""What is typed: commands, what they display, and the doctor."""

from lipt_cords.cli.commands import main

__all__ = ["main"]
