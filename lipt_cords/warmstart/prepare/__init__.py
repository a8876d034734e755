"""Before any work: arguments, data and model are checked, and shards are dealt."""
