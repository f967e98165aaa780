"""Runs pieces of work in processes of their own, with limits, and tells how each ended and what it took."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actionimg_data.errors import ActionImgError

ADDRESS_SPACE = 8 << 30
"""So that a bomb that is not seen does not take the machine with it; far over the cap that is held."""


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended.

    Args:
        kind: ``returned``, ``refused`` (with an error of the package), ``unnamed`` (with any other), ``hung`` or
            ``died`` (by a signal).
        detail: The error's code and text, the traceback's last lines, or what was returned.
        seconds: Time it took.
        megabytes: Largest resident memory, over what the process began with.
    """

    kind: str
    detail: str
    seconds: float
    megabytes: float

    @property
    def code(self) -> str:
        """The code of the error by which it was refused."""
        return self.detail.split(":", 1)[0] if self.kind == "refused" else ""


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def run(work: Callable[[], Any], seconds: float) -> Outcome:
    """Do ``work`` in a forked process of limited time and memory.

    The process that forks must not have started threads: call this from a program that has only imported.
    """
    ours, theirs = os.pipe()
    begun = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(ours)
        answer = _work(work)
        with os.fdopen(theirs, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(theirs)
    text, late = _listen(ours, begun + seconds), False
    if text is None:
        late = True
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - begun
    if late:
        return Outcome("hung", f"not done after {seconds:g} s", took, 0.0)
    if not text:
        return Outcome("died", f"status {status}, signal {os.WTERMSIG(status)}", took, 0.0)
    kind, detail, megabytes = json.loads(text)
    return Outcome(kind, detail, took, megabytes)


def _listen(descriptor: int, deadline: float) -> str | None:
    """All that is written until the other end closes; None at the deadline."""
    parts = []
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            part = pipe.read(1 << 16)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)


def _work(work: Callable[[], Any]) -> tuple[str, str, float]:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resident_mb()
    try:
        found = work()
        answer = ("returned", repr(found)[:400])
    except ActionImgError as error:
        answer = ("refused", f"{error.code}: {error}")
    except BaseException as error:  # noqa: BLE001
        # Whatever it is, it is what this program looks for.
        text = "".join(traceback.format_exception(error, limit=-6))
        answer = ("unnamed", f"{type(error).__name__}: {text[-1500:]}")
    return (*answer, max(0.0, peak_mb() - before))
