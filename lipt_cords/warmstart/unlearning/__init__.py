"""Forgetting samples: exactly by shards, approximately by DeltaGrad."""
