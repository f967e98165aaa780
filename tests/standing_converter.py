"""A converter that stands still, in a file of its own: a worker that is born anew imports it by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

from synthetic_converter import SyntheticConverter

from actionimg_data.model import Episode, EpisodeRef


class Standing(SyntheticConverter):
    """Says who reads the second episode, the first time, and waits until that was noticed; or every time for ever."""

    def read(self, ref: EpisodeRef) -> Episode:
        mark = Path(os.environ["MARK"])
        if ref.id.endswith("1") and (not mark.exists() or os.environ.get("EVERY")):
            mark.with_suffix(".part").write_text(str(os.getpid()))
            mark.with_suffix(".part").rename(mark)
            time.sleep(600)
        return super().read(ref)
