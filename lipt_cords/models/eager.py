"""Networks that torch.compile made, run as they were before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, compiled networks and functions run uncompiled, so that new hooks are called.

    A network that was compiled and called before does not call hooks that are added later.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
