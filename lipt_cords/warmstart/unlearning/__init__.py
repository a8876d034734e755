"""Forgetting samples: exactly by shards, or approximately by DeltaGrad."""
