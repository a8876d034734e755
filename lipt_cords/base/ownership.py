"""One run at a time writes into a folder; a second one is refused at once, and the first named.

The owner holds a lock on a small file in the folder. The lock dies with its process, also with a
killed one; a suspended process keeps it. Ranks of one warm start hold it together, by a token that
one of them makes and sends to the others.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from lipt_cords.base.children import process_exists
from lipt_cords.base.files import FLAGS, output_directory, remove_left_over
from lipt_cords.base.locks import SHARES, NoLocks, try_lock
from lipt_cords.base.printable import one_line

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)

LOCK = ".lipt-cords.lock"
OURS = ("progress", "report-figures")
"""Subfolders that this package makes, where killed writes may have left files too."""
PATIENCE = 0.4
"""Seconds in which an owner may end, or write who it is, before it is named in an error."""
LONGEST_COMMAND = 300


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder."""

    token: str
    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return one_line(f"process {self.pid} on {self.host} since {self.since}: {self.command}")

    @property
    def may_live(self) -> bool:
        """False where it is known that the process has ended."""
        return self.host != socket.gethostname() or process_exists(self.pid)


@dataclass
class _Held:
    """A folder that this process holds."""

    path: Path
    token: str
    descriptor: int | None
    times: int = 0


_held: dict[tuple[int, int, int], _Held] = {}
"""By device and inode of the folder, and thread."""
_open: set[int] = set()
"""Descriptors of files with locks."""
_opening = threading.RLock()
"""Held while one of them is opened or closed, and during a fork, so that a child knows all."""


@contextmanager
def owned(directory: str | Path, token: str | None = None) -> Iterator[str]:
    """Inside, this process alone writes into a folder; it is made if it is not there.

    What killed writes left in the folder is removed. A folder that was made here and is empty at
    the end is removed again. The same thread may enter again. A forked child owns nothing, and does
    not keep the folder for its parent.

    Args:
        directory: the folder.
        token: of other processes, that they and this one own it together; None: this one alone.

    Yields:
        The token of those who own it.

    Raises:
        ValueError: another run owns the folder (it is named, with its process, host, start and
            command), or the folder cannot be written.
    """
    new = _missing(Path(directory).expanduser())
    where = output_directory(directory)
    status = where.stat()
    key = (status.st_dev, status.st_ino, threading.get_ident())
    mine = _held.get(key)
    if mine is None:
        mine = _held[key] = _claimed(where, token)
    mine.times += 1
    try:
        yield mine.token
    finally:
        mine.times -= 1
        if mine.times == 0 and _held.pop(key, None) is mine:  # a forked child holds nothing
            _release(mine)
        for folder in new:  # a refusal after this leaves nothing
            with suppress(OSError):  # not empty, so it is used
                folder.rmdir()


def _missing(directory: Path) -> list[Path]:
    """The folder and those above it that are not there yet, the deepest first."""
    return [one for one in (directory, *directory.parents) if not one.exists()]


def owns(
    argument: str, *, when: Callable[[], bool] = lambda: True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function own the folder that one of its arguments names, while it runs.

    Args:
        argument: its name; where its value is None there is nothing to own.
        when: whether this process writes at all.
    """

    def decorated(work: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(work)

        @functools.wraps(work)
        def owning(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                directory = parameters.bind(*args, **kwargs).arguments.get(argument)
            except TypeError as error:  # bind does not say of which function
                raise TypeError(f"{work.__name__}() {error}") from None
            with nullcontext() if directory is None or not when() else owned(directory):
                return work(*args, **kwargs)

        return owning

    return decorated


def is_main_process() -> bool:
    """Whether this process reports and writes: rank 0 under ``torchrun``, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


owns_output = owns("output", when=is_main_process)
"""Makes a function own its argument ``output`` while it runs, on the rank that writes."""


def _claimed(where: Path, token: str | None) -> _Held:
    """Hold a folder, alone or together with the others that have this token."""
    me = Holder(
        token or uuid.uuid4().hex,
        os.getpid(),
        socket.gethostname(),
        datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        _command(),
    )
    path = where / LOCK
    end = time.monotonic() + PATIENCE
    while True:
        descriptor = _opened(path)
        try:
            found = _joined(descriptor, me)
        except NoLocks as error:
            _close(descriptor)
            path.unlink(missing_ok=True)
            logger.warning(
                "the file system of %s has no locks (%s): nothing refuses a second run there",
                where, error.strerror,
            )  # fmt: skip
            return _Held(path, me.token, None)
        except BaseException:
            _close(descriptor)
            raise
        if found is None and _is_at(descriptor, path):
            if token is None:
                remove_left_over(where, *OURS)
            return _Held(path, me.token, descriptor)
        _close(descriptor)
        if found is None:  # whoever had it has removed the file
            continue
        if not SHARES and {one.token for one in found} == {me.token}:
            return _Held(path, me.token, None)
        if time.monotonic() > end:
            raise ValueError(
                f"{where} is in use by another run ({_named(found)}): wait until "
                "it ends, stop it, or choose another directory"
            )
        time.sleep(0.02)


def _opened(path: Path) -> int:
    try:
        with _opening:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
            _open.add(descriptor)
    except OSError as error:
        raise ValueError(
            f"cannot open {path} ({error.strerror}): another user's run may have left it; choose "
            "another directory, or delete it if no run uses this one"
        ) from error
    return descriptor


def _close(descriptor: int) -> None:
    with _opening:
        _open.discard(descriptor)
        os.close(descriptor)


def _joined(descriptor: int, me: Holder) -> list[Holder] | None:
    """Lock the file, and write who has it; or return who has it."""
    if try_lock(descriptor):
        os.ftruncate(descriptor, 0)
    elif SHARES and try_lock(descriptor, shared=True):
        others = _holders(descriptor)
        if {one.token for one in others} != {me.token}:
            return others
    else:
        return _holders(descriptor)
    line = json.dumps(asdict(me)) + "\n"
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, line.encode())
    if SHARES and not try_lock(descriptor, shared=True):  # lost while its kind changed
        return _holders(descriptor)
    return None


def _holders(descriptor: int) -> list[Holder]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    found = []
    for line in os.read(descriptor, 2**20).decode(errors="replace").splitlines():
        with suppress(ValueError, TypeError):  # one that is being written
            found.append(Holder(**json.loads(line)))
    return found


def _named(found: list[Holder]) -> str:
    if not found:
        return "it has just begun"
    alive = [one for one in found if one.may_live] or found
    more = f", and {len(alive) - 1} more" if len(alive) > 1 else ""
    return f"{alive[0]}{more}"


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still names the open file."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _release(held: _Held) -> None:
    """End holding a folder; the last one removes the file."""
    if held.descriptor is None:
        return
    try:
        last = try_lock(held.descriptor) if SHARES else True
        if SHARES and last and _is_at(held.descriptor, held.path):
            held.path.unlink(missing_ok=True)
    except OSError:  # the folder may be gone; the lock ends in any case
        logger.debug("cannot remove %s", held.path, exc_info=True)
    finally:
        _close(held.descriptor)
    if not SHARES:  # Windows removes no open file
        with suppress(OSError):
            held.path.unlink(missing_ok=True)


def _command() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join([program, *sys.argv[1:]])[:LONGEST_COMMAND]


def _forget() -> None:
    """In a forked child: close what it inherited, which else would keep the parent's locks."""
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()
    _held.clear()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_forget
    )
