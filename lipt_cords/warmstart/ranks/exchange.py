"""The collectives of one exchange among the live ranks, all on integers, with their bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange:
    """What live ranks send each other in one exchange; a single rank sends nothing.

    Integers alone are exchanged, so results do not depend on the order of the ranks.

    Args:
        rank: the number of this process.
        live: the ranks that take part, ascending.
        channel: device of tensors to be exchanged.
        group: the process group of the live ranks; None is torch's own.
    """

    def __init__(
        self,
        rank: int,
        live: Sequence[int],
        channel: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.rank, self.live = rank, tuple(live)
        self._channel, self._group = channel, group
        self.sent_bytes = 0
        """Bytes that all live ranks sent together."""

    def sum(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Add a vector of integers over the ranks.

        Args:
            flat: this rank's part, int64, on the CPU.
            dtype: int32 or int64, of the exchange; the sums must fit.
        """
        return self._all_reduce(flat, dtype, dist.ReduceOp.SUM)

    def max(self, flat: Tensor) -> Tensor:
        """The largest of the ranks' values, entry by entry.

        Args:
            flat: this rank's part, int64 within 32 bits, on the CPU.
        """
        return self._all_reduce(flat, torch.int32, dist.ReduceOp.MAX)

    def all_to_all(self, parts: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send every rank a part of its own, and receive theirs.

        Args:
            parts: bytes (uint8, on the CPU) for each live rank, in order; that for this rank
                itself comes back as it is.
            sizes: ``sizes[i][j]`` bytes go from the i-th live rank to the j-th; equal on all ranks.

        Returns:
            What each live rank sent to this one, in order.
        """
        me = self.live.index(self.rank)
        if len(self.live) == 1:
            return list(parts)
        to, come = list(sizes[me]), [row[me] for row in sizes]
        to[me] = come[me] = 0
        out = torch.cat([part for at, part in enumerate(parts) if at != me]).to(self._channel)
        received = torch.empty(sum(come), dtype=torch.uint8, device=self._channel)
        dist.all_to_all_single(received, out, come, to, group=self._group)
        self.sent_bytes += sum(map(sum, sizes)) - sum(row[at] for at, row in enumerate(sizes))
        found = list(torch.split(received.cpu(), come))
        found[me] = parts[me]
        return found

    def _all_reduce(self, flat: Tensor, dtype: torch.dtype, op: dist.ReduceOp.RedOpType) -> Tensor:
        if len(self.live) == 1:
            return flat
        buffer = flat.to(dtype).to(self._channel)
        dist.all_reduce(buffer, op=op, group=self._group)
        self.sent_bytes += 2 * buffer.nbytes * (len(self.live) - 1)  # as a ring does it
        return buffer.to(flat)
