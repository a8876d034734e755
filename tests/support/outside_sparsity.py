"""A sparsity from outside: whole filters and neurons, by their norm."""

from lipt_cords.warmstart import register_sparsity


@register_sparsity("filters")
def filters(weights, moment):
    """Keeps the filters of the largest norm."""
    norms = [weight.detach().flatten(1).norm(dim=1) for weight in weights]
    return [
        norm.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight).clone()
        for norm, weight in zip(norms, weights, strict=True)
    ]
