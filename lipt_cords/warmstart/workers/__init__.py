"""One worker: a start and a shard in, a trained replica out."""
