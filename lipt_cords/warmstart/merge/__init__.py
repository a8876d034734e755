"""Many workers, one model: which are merged, how they are averaged, and what follows."""
