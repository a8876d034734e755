"""Tables: rows of a CSV or Parquet file as samples, one column the label."""
