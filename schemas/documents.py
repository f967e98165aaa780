"""JSON schemas of the models, for other programs and for editors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel


def json_schemas(models: Mapping[str, type[BaseModel]]) -> dict[str, str]:
    """JSON schema texts by file name, of models by the names that their documents go by."""
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"
        for name, model in models.items()
    }


def export(models: Mapping[str, type[BaseModel]], folder: Path) -> list[Path]:
    """Write the JSON schemas into ``folder``."""
    paths = []
    for name, text in json_schemas(models).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths
