"""Does it pay? One run, many compared, and the report."""
