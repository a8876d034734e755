"""The memory planner: its bits and bytes, what it costs, how far it reaches."""
