"""Several machines on one: hosts as network namespaces on a bridge, each with an address, a name and a cable that can be pulled."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.local.process import spawn
from tests.faults.stack import NotThereError

_NETWORK = "10.77.0"


class Host:
    """One machine: what it runs sees its own network alone, and its own host name."""

    def __init__(self, lan: Lan, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_NETWORK}.{number}"
        self._lan = lan
        self._space = f"{lan.prefix}-{name}"
        self._cable = f"cable{number}"
        self._running: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []
        _ip("netns", "add", self._space)
        _ip("-n", lan.space, "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        _ip("-n", lan.space, "link", "set", self._cable, "master", "bridge", "up")
        _ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self._space, "link", "set", device, "up")

    def command(self, command: Sequence[str]) -> list[str]:
        """The command as this host runs it."""
        # A name of its own in a namespace of names: a worker's name begins with it.
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command]
        return ["ip", "netns", "exec", self._space, *named]

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        input_text: str | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> subprocess.Popen[bytes]:
        """Run a program until the hosts go."""
        with log.open("ab") as output:
            process = spawn(
                self.command(command), env=env, output=output, input_text=input_text, death_signal=death_signal
            )
        self._running.append((process, death_signal))
        return process

    def run(self, *command: str) -> str:
        """Run a program to its end, however it ends; what it printed."""
        done = subprocess.run(self.command(command), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """The cable is pulled until the block is left."""
        _ip("-n", self._lan.space, "link", "set", self._cable, "down")
        try:
            yield
        finally:
            _ip("-n", self._lan.space, "link", "set", self._cable, "up")

    def remove(self) -> None:
        for process, death_signal in reversed(self._running):
            process.send_signal(death_signal)
        for process, _ in self._running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _ip("netns", "delete", self._space)


class Lan:
    """A bridge in a namespace of its own, and the hosts on it."""

    def __init__(self) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise NotThereError("network namespaces: they take root and iproute2")
        self.prefix = f"dfly{os.getpid()}"
        self.space = f"{self.prefix}-lan"
        try:
            _ip("netns", "add", self.space)
            _ip("-n", self.space, "link", "add", "bridge", "type", "bridge")
        except subprocess.CalledProcessError:
            raise NotThereError("network namespaces: ip netns is refused here") from None
        _ip("-n", self.space, "link", "set", "bridge", "up")
        self._hosts: list[Host] = []

    def host(self, name: str) -> Host:
        self._hosts.append(Host(self, name, len(self._hosts) + 1))
        return self._hosts[-1]

    def remove(self) -> None:
        for host in reversed(self._hosts):
            host.remove()
        _ip("netns", "delete", self.space)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
