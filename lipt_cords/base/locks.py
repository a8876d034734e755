"""Locks on open files that die with their process.

They are advisory and belong to an opened file (``flock``), so that two openings in one process
exclude each other too. On Windows there are only exclusive ones (``msvcrt``).
"""

from __future__ import annotations

import errno
import sys

LOCK_LESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What file systems without locks answer."""


class NoLocks(OSError):
    """The file system has no locks."""


if sys.platform == "win32":
    import msvcrt
    import os

    SHARES = False
    _FAR = 2**30  # a locked byte cannot be read by others: one far behind the content

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file now; False if another one has it."""
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

else:
    import fcntl

    SHARES = True
    """Whether several openings can hold one lock together."""

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file now.

        Args:
            descriptor: of the file, open to read and write.
            shared: together with others that share it. A lock that is held already changes its
                kind; for a moment it is not held.

        Returns:
            Whether it is held; False if another one has it.

        Raises:
            NoLocks: the file system has none.
        """
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in LOCK_LESS:
                raise NoLocks(error.errno, error.strerror) from error
            raise
        return True
