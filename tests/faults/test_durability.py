"""Blob and folder are fsynced before the 202 is sent: by the system calls of the web server, in their order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline
from tests.faults.files import Maker
from tests.faults.stack import until

CALLS = "openat,mkdir,mkdirat,rename,renameat,renameat2,fsync,fdatasync,sendto,sendmsg,write"


def test_blob_and_folder_are_durable_before_the_answer(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("this machine lacks strace")
    pipeline = Pipeline(tmp_path / "home", workers=1)
    try:
        pipeline.upload(Maker().file(10).content)
        traced = pipeline.processes("gunicorn")[1].pid
        log = tmp_path / "calls"
        command = ["strace", "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(log), "-p", str(traced)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            assert "attached" in strace.stderr.readline()
            file = Maker().file(500)
            batch = pipeline.upload(file.content, file.name)
            until(lambda: "202 ACCEPTED" in log.read_text(), 10, "the answer was traced")
            strace.terminate()
        calls = whole_calls(log.read_text().splitlines())
        assert batch["status"] == "uploaded"
        assert_durable_before_the_answer(calls, pipeline.home / "blobs", file.file_hash)
    finally:
        pipeline.stop()


def whole_calls(lines: list[str]) -> list[str]:
    """Each call in one line, where it ended: strace writes one that another thread's interrupts in two parts."""
    begun: dict[str, str] = {}
    calls = []
    for line in lines:
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif resumed := re.match(r"\s*<\.\.\. \w+ resumed>(.*)", call):
            calls.append(f"{thread} {begun.pop(thread, '')}{resumed[1]}")
        else:
            calls.append(line)
    return calls


def assert_durable_before_the_answer(calls: list[str], blobs: Path, sha256: str) -> None:
    """Raises AssertionError where a step is missing, or comes after the one that follows it."""
    folder = blobs / "sha256" / sha256[:2] / sha256[2:4]
    steps = [
        rf"fsync\(\d+<{re.escape(str(blobs))}/incoming/[0-9a-f-]+>\s*\)\s+= 0",
        rf"rename\w*\(.*incoming/[0-9a-f-]+\", .*{sha256}\".*\)\s+= 0",
        rf"fsync\(\d+<{re.escape(str(folder))}>\s*\)\s+= 0",
        r"(sendto|sendmsg|write)\(.*202 ACCEPTED",
    ]
    places = []
    for step in steps:
        found = [number for number, line in enumerate(calls) if re.search(step, line)]
        assert found, f"no system call matches {step}"
        places.append(found[0])
    assert places == sorted(places), places
    # The folders above, where they were made for this file, each within its own parent.
    for parent in (blobs / "sha256", folder.parent):
        made = [line for line in calls if re.search(rf"mkdir\w*\(.*\"{re.escape(str(parent))}/\w+\"", line)]
        if made:
            synced = [
                number
                for number, line in enumerate(calls)
                if re.search(rf"fsync\(\d+<{re.escape(str(parent))}>\s*\)", line)
            ]
            assert synced, f"{parent} was not made durable"
            assert synced[0] < places[-1]


def test_an_answer_before_the_folder_is_durable_is_seen(tmp_path: Path) -> None:
    sha256 = "ab12" + "0" * 60
    blob = f"{tmp_path}/sha256/ab/12"
    calls = [
        f"7 fsync(9<{tmp_path}/incoming/0f>) = 0",
        f'7 rename("{tmp_path}/incoming/0f", "{blob}/{sha256}") = 0',
        f"7 fsync(9<{blob}>) = 0",
        '7 sendto(5<socket>, "HTTP/1.1 202 ACCEPTED") = 1',
    ]
    assert_durable_before_the_answer(calls, tmp_path, sha256)
    for missing in range(3):
        with pytest.raises(AssertionError, match="no system call"):
            assert_durable_before_the_answer([*calls[:missing], *calls[missing + 1 :]], tmp_path, sha256)
    with pytest.raises(AssertionError):
        assert_durable_before_the_answer([*calls[:2], calls[3], calls[2]], tmp_path, sha256)
