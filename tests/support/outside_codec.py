"""A codec from outside: changes are rounded to half precision before they are added."""

from dataclasses import replace

from lipt_cords.warmstart import register_codec
from lipt_cords.warmstart.merge.codecs import exact


@register_codec("half")
def half(origin, members, wire):
    """Changes in half precision."""

    def rounded(one):
        state = one.state()
        return {k: at + (state[k] - at).half().to(at.dtype) for k, at in origin.items()}

    mine = [replace(one, state=lambda one=one: rounded(one)) for one in members]
    return exact(origin, mine, wire)
