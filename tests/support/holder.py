"""Another process that owns a folder, forked from the test."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from lipt_cords.base.ownership import owned

FORK = multiprocessing.get_context("fork")


def hold(arguments: tuple[object, ...], talk: Connection) -> None:
    with owned(*arguments) as token:
        talk.send(token)
        talk.recv()


class Other:
    """Another process that holds a folder until it is told to end."""

    def __init__(self, *arguments: object) -> None:
        self.talk, theirs = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(arguments, theirs))
        self.process.start()
        theirs.close()
        self.token = self.talk.recv()  # it holds the folder now

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def end(self) -> None:
        self.talk.send(None)
        self.process.join()
        assert self.process.exitcode == 0
