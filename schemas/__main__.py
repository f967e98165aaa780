"""``python -m actionimg_data.schemas [FOLDER]`` writes the JSON schemas, by default beside their models."""

from __future__ import annotations

import sys
from pathlib import Path

from . import dataset, derived, mapping
from .documents import export

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
for path in export({**dataset.EXPORTED, **derived.EXPORTED, **mapping.EXPORTED}, folder):
    print(path.name)
