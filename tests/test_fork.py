"""Processes that are forked from one whose OpenCV has threads, as torch's DataLoader does by default."""

from __future__ import annotations

import sys

import pytest
from processes import run_program

# Each child leaves OpenCV's pool alone, whose threads it does not have, and converts its pictures all the same.
FORKS = """
import os, signal
import cv2, numpy as np
import actionimg_data

picture = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
cv2.setNumThreads(2)
for _ in range(20):
    cv2.resize(picture, (640, 360), interpolation=cv2.INTER_AREA)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        small = cv2.resize(picture, (640, 360), interpolation=cv2.INTER_AREA)
        os._exit(0 if cv2.getNumThreads() == 1 and small.any() else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
print("all", cv2.getNumThreads())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_does_without_the_threads_it_has_not_got() -> None:
    assert run_program([sys.executable, "-W", "ignore", "-c", FORKS]).stdout == "all 2\n"
