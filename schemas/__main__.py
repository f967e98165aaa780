"""``python -m actionimg_data.schemas [FOLDER]`` writes the JSON schemas, by default beside their models."""

from __future__ import annotations

import sys
from pathlib import Path

from . import dataset, derived

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
for path in [*dataset.export(folder), *derived.export(folder)]:
    print(path.name)
