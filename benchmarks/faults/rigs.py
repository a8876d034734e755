"""Disks and networks to break: the kernel's own, for as long as a scenario lasts (Linux, root)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.faults.ranks import ADDRESSES


class Skipped(Exception):
    """The machine does not permit what a scenario needs."""


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[None]:
    """A file system of its own in a directory."""
    where.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextmanager
def two_hosts() -> Iterator[tuple[tuple[str, str], Callable[[str], None]]]:
    """Two network namespaces, a switch between them, and the second one's cable: up or down."""
    name = f"faults{os.getpid()}"
    hosts, switch = (f"{name}a", f"{name}b"), f"{name}s"

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"no network of two hosts: ip {words[0]}: {done.stderr.strip()}")

    if shutil.which("ip") is None:
        raise Skipped("no network of two hosts: there is no ip command (iproute2)")
    try:
        for one in (*hosts, switch):
            ip("netns", "add", one)
            ip("-n", one, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "middle", "type", "bridge")
        ip("-n", switch, "link", "set", "middle", "up")
        for host, port, address in zip(hosts, ("port0", "port1"), ADDRESSES, strict=True):
            veth = ("type", "veth", "peer", "name", port, "netns", switch)
            ip("-n", host, "link", "add", "eth0", *veth)
            ip("-n", switch, "link", "set", port, "master", "middle", "up")
            ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        yield hosts, lambda way: ip("-n", switch, "link", "set", "port1", way)
    finally:
        for one in (*hosts, switch):
            with suppress(Skipped):
                ip("netns", "delete", one)
