"""A store that does not answer: the end comes in time, with the cause."""

from __future__ import annotations

import socket
import threading

import pytest

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks.launch import open_ranks
from lipt_cords.warmstart.ranks.reach import NoAnswer, within


def test_a_call_that_never_returns_is_left_behind():
    forever = threading.Event()
    looks = []
    with pytest.raises(NoAnswer):
        within(0.05, forever.wait, lambda: looks.append(1))
    assert looks
    forever.set()


def test_what_a_call_returns_or_raises_comes_through():
    assert within(60.0, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        within(60.0, lambda: 1 // 0)


def test_waiting_can_be_stopped():
    def stop():
        raise SystemExit("asked to stop")

    forever = threading.Event()
    with pytest.raises(SystemExit, match="asked to stop"):
        within(60.0, forever.wait, stop)
    forever.set()


@pytest.fixture
def server():
    """A server that accepts connections and stays silent."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def join(monkeypatch, rank, port):
    for name, value in {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with open_ranks(WarmStartConfig(join_timeout=0.3, device="cpu")):
        pytest.fail("joined")


def test_a_port_that_belongs_to_another_program_is_named_by_both_ranks(monkeypatch, server):
    port = server.getsockname()[1]
    with pytest.raises(ValueError, match=f"127.0.0.1:{port} did not answer within 0.3 s"):
        join(monkeypatch, 1, port)
    with pytest.raises(ValueError, match=f"rank 0 cannot listen at 127.0.0.1:{port}, because"):
        join(monkeypatch, 0, port)


def test_a_server_that_hangs_up_and_a_port_without_one_are_told(monkeypatch, server):
    port = server.getsockname()[1]

    def hang_up():
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=hang_up, daemon=True).start()
    with pytest.raises(ValueError, match=rf"rank 1 could not join the others: .*127.0.0.1:{port}"):
        join(monkeypatch, 1, port)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    with pytest.raises(ValueError, match=f"127.0.0.1:{nobody}"):
        join(monkeypatch, 1, nobody)


def test_what_is_not_set_is_named(monkeypatch):
    with pytest.raises(ValueError, match="'no port'. Start the ranks by torchrun"):
        join(monkeypatch, 1, "no port")
