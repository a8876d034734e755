"""How a net is trained: one step, one trainer, optimizers, cheaper paths and memory plans."""
