"""Reading, rendering and decoding need nothing that only Unix has; what Windows and macOS lack is taken away here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from processes import PATIENCE

GOLDEN = Path(__file__).resolve().parent / "golden"

WINDOWS = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in ((os, ("fork", "register_at_fork", "getuid", "sched_getaffinity", "posix_fadvise", "pread",
                            "O_NONBLOCK", "O_CLOEXEC", "killpg")),
                      (signal, ("pthread_sigmask", "SIGKILL", "SIGSTOP", "SIGCONT"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""

WORK = """
import numpy as np
import actionimg_data as aid
from actionimg_data.converters.base import names
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.cli import main
import actionimg_data.engine.verification

(sample,) = aid.open_dataset(sys.argv[1])
spec = aid.ActionImageSpec(height=64, width=64)
drawn = aid.render(sample.trajectory, sample.cameras, spec)
decoded = aid.decode(drawn, sample.cameras, spec)
assert decoded.valid.all()
assert np.abs(decoded.trajectory.position - sample.trajectory.position).max() < 1e-3
stored = np.stack([sample.action(view) for view in sample.views])
assert (stored == drawn).all()
assert len(names()) > 5
print("done")
"""


def test_reading_rendering_and_decoding_need_nothing_of_unix(tmp_path: Path) -> None:
    program = tmp_path / "windows.py"
    program.write_text(WINDOWS + WORK, encoding="utf-8")
    words = [sys.executable, "-W", "ignore", str(program), str(GOLDEN / "png")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done\n"
