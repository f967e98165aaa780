"""Programs that tests start: bounded in time, together with all that they start themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

PATIENCE: Final = 400.0
"""Seconds that a test waits for what ought to come: only what hangs takes as long, on a slow and busy machine too."""


def hear_interrupts() -> None:
    """For ``preexec_fn``: a background job of a shell ignores SIGINT, and so do the programs that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_group(group: int) -> None:
    """Until no process of a group is left, but those that nobody has taken leave of.

    Raises:
        AssertionError: One of them still lives after `PATIENCE`.
    """
    end = time.monotonic() + PATIENCE
    while living := [process for process in psutil.process_iter() if _is_of(process, group)]:
        assert time.monotonic() < end, living
        time.sleep(0.01)


def _is_of(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def run_program(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = PATIENCE,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` that cannot wait for ever.

    Its output goes to files: a grandchild that outlives a killed child would keep a pipe open, and
    `subprocess.run(capture_output=True, timeout=...)` waits for that pipe without an end.

    Raises:
        AssertionError: It took longer than ``timeout`` seconds, or ``check`` and it failed; with what it printed.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=out, stderr=err, env=env, cwd=cwd, start_new_session=True
        )
        late = False
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    said = f"{list(map(str, command))[:6]}\n{texts[0][-2000:]}\n{texts[1][-4000:]}"
    if late:
        raise AssertionError(f"took longer than {timeout} s: {said}")
    if check and process.returncode:
        raise AssertionError(f"exit code {process.returncode}: {said}")
    return subprocess.CompletedProcess(command, process.returncode, texts[0], texts[1])
