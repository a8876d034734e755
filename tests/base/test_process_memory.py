"""Freed memory is kept: the kernel's count of page faults says so."""

import platform
import subprocess
import sys

import pytest

from lipt_cords.base.process_memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from lipt_cords.base.process_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def pages(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(max([pages(48) for _ in range(40)][30:]))
"""
# Small blocks are cut out of the large one until glibc has freed ones of their sizes: about eight
# rounds in a process that has imported little.


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc's allocator")
def test_a_block_that_was_freed_is_used_again_without_page_faults():
    assert faults("leave") > 1000
    assert faults("keep") < 200


def test_where_the_c_library_has_no_such_switch_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
