"""An outer step and an augmentation from outside."""

from lipt_cords.warmstart import register_augmentation, register_outer


@register_outer("half way")
def half_way(start, average, memory, *, trained, config):
    """Goes half of the way to the average."""
    return {
        name: (start[name].cpu() + value) / 2 if name in trained else value
        for name, value in average.items()
    }


@register_augmentation("mirror")
def mirror(options, low, high):
    """Mirrors every image."""
    return lambda images: images.flip(3)
