"""The pace of a body, by a clock that the test moves."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from app.api.body import BodyTooSlowError, PacedSocket


class Peer:
    """A socket on which each recv takes so long and brings so much."""

    def __init__(self, script: list[tuple[float, int]]) -> None:
        self.script = script
        self.now = 0.0
        self.timeout: float | None = None

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def recv(self, size: int) -> bytes:
        takes, brings = self.script.pop(0)
        assert self.timeout is not None
        if takes > self.timeout:
            self.now += self.timeout
            raise TimeoutError
        self.now += takes
        return b"x" * min(size, brings)


def paced(script: list[tuple[float, int]]) -> tuple[Peer, PacedSocket]:
    peer = Peer(script)
    return peer, PacedSocket(cast(socket.socket, cast(Any, peer)), 30.0, lambda: peer.now)


def receive(sock: PacedSocket, times: int) -> int:
    return sum(len(sock.recv(65536)) for _ in range(times))


def test_a_body_at_its_pace_goes_on_for_ever() -> None:
    _, sock = paced([(1.0, 1100)] * 300)
    assert receive(sock, 300) == 330_000


def test_a_body_below_its_pace_ends_after_the_window() -> None:
    peer, sock = paced([(1.0, 1000)] * 300)
    with pytest.raises(BodyTooSlowError):
        receive(sock, 300)
    assert peer.now == 30.0


def test_a_burst_earns_no_more_than_its_window() -> None:
    peer, sock = paced([(0.0, 65536)] * 100 + [(100.0, 1)])
    with pytest.raises(BodyTooSlowError):
        receive(sock, 101)
    assert peer.now == 30.0


def test_only_waiting_counts_not_the_time_that_the_application_takes() -> None:
    peer, sock = paced([(1.0, 100)] * 20)
    received = 0
    for _ in range(20):
        received += len(sock.recv(65536))
        peer.now += 60.0
    assert received == 2_000


def test_the_socket_s_own_timeout_is_left_as_it_was() -> None:
    peer, sock = paced([(1.0, 100), (99.0, 1)])
    peer.timeout = 7.0
    sock.recv(10)
    assert peer.timeout == 7.0
    with pytest.raises(BodyTooSlowError):
        sock.recv(10)
    assert peer.timeout == 7.0


def test_after_a_refusal_the_client_has_a_moment_altogether() -> None:
    peer, sock = paced([(1.0, 65536)] * 10)
    sock.allow(2.5)
    assert sock.recv(65536)
    assert sock.recv(65536)
    with pytest.raises(BodyTooSlowError):
        sock.recv(65536)
    assert peer.now == 2.5
