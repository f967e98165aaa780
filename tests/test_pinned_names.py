"""What a data set's own documents name can lead nowhere but into the data set."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from actionimg_data.cli import main
from actionimg_data.errors import CorruptDatasetError
from actionimg_data.schemas import DatasetManifest, PlanRow, SampleMeta, ShardSidecar
from actionimg_data.schemas.dataset import parse
from actionimg_data.shards import open_dataset

GOLDEN = Path(__file__).parent / "golden" / "h264"
ELSEWHERE = ["../../etc/passwd", "/etc/passwd", "train/../../x.tar", "pipe:cat /etc/passwd", "s3://bucket/000000.tar"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "out"))


def reseal(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as an attacker would: with a checksum that is right."""
    manifest = json.loads((out / "dataset.json").read_bytes())
    change(manifest)

    def text(checksum: str) -> bytes:
        return (json.dumps(manifest | {"checksum": checksum}, indent=1, ensure_ascii=False) + "\n").encode()

    (out / "dataset.json").write_bytes(text(hashlib.sha256(text("")).hexdigest()))


def test_a_manifest_that_was_sealed_again_is_read_where_its_names_are_in_order(out: Path) -> None:
    reseal(out, lambda m: m.update(sources=["elsewhere"]))
    assert len(open_dataset(out)) == 1


@pytest.mark.parametrize("path", [*ELSEWHERE, "train/000000.tar\n", "train/000000", "Train/000000.tar"])
def test_a_shard_elsewhere_is_refused(out: Path, path: str) -> None:
    reseal(out, lambda m: m["shards"][0].update(path=path))
    with pytest.raises(CorruptDatasetError, match=r"shards\.0\.path: "):
        open_dataset(out)
    result = CliRunner().invoke(main, ["verify", str(out)])
    assert result.exit_code in (1, 3)
    assert "shards.0.path" in result.output


@pytest.mark.parametrize("name", ["../x", "a/b", "a.b", "", "Front", "x\n"])
@pytest.mark.parametrize("field", ["views", "grippers"])
def test_a_view_or_gripper_that_could_be_a_path_is_refused(out: Path, field: str, name: str) -> None:
    reseal(out, lambda m: m.update({field: [name]}))
    with pytest.raises(CorruptDatasetError, match=rf"{field}\.0: "):
        open_dataset(out)


def test_only_the_three_files_beside_the_manifest_have_a_hash_in_it(out: Path) -> None:
    reseal(out, lambda m: m["files"].update({"../x": "0" * 64}))
    with pytest.raises(CorruptDatasetError, match=r"files\."):
        open_dataset(out)


@pytest.mark.parametrize("shard", ["../../etc/passwd", "train/000007"])
def test_an_index_that_names_another_shard_is_refused(out: Path, shard: str) -> None:
    table = pq.read_table(out / "index.parquet")
    place = table.schema.get_field_index("shard")
    table = table.set_column(place, table.schema.field(place), pa.array([shard] * len(table)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    (out / "index.parquet").write_bytes(buffer.getvalue())
    reseal(out, lambda m: m["files"].update({"index.parquet": hashlib.sha256(buffer.getvalue()).hexdigest()}))
    with pytest.raises(CorruptDatasetError, match="names a shard that the manifest does not"):
        open_dataset(out)
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset

    with pytest.raises(CorruptDatasetError, match="names a shard that the manifest does not"):
        len(ActionImageDataset(out))


def _with(document: dict[str, Any], path: tuple[str | int, ...], value: str) -> bytes:
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(document).encode()


PLAN = json.loads((GOLDEN / "plan.jsonl").read_bytes().split(b"\n")[0])
SIDECAR = json.loads((GOLDEN / "train/000000.json").read_bytes())
QUARANTINED = json.loads((GOLDEN / "train/000001.json").read_bytes())
PLACES: list[tuple[type, dict[str, Any], tuple[str | int, ...]]] = [
    (PlanRow, PLAN, ("shard",)),
    (PlanRow, PLAN, ("episodes", 0, "key")),
    (ShardSidecar, SIDECAR, ("shard",)),
    (ShardSidecar, SIDECAR, ("samples", 0, "key")),
    (ShardSidecar, SIDECAR, ("samples", 0, "views", 0)),
    (ShardSidecar, SIDECAR, ("samples", 0, "members", 0, "name")),
    (ShardSidecar, QUARANTINED, ("quarantined", 0, "shard")),
    (ShardSidecar, QUARANTINED, ("quarantined", 0, "key")),
]


@pytest.mark.parametrize(("model", "document", "path"), PLACES, ids=lambda v: None if isinstance(v, dict) else str(v))
def test_every_name_in_plan_and_sidecars_is_pinned(model: Any, document: dict[str, Any], path: Any) -> None:
    document = json.loads(json.dumps(document))
    assert parse(model, json.dumps(document).encode(), "x")
    for value in ELSEWHERE:
        with pytest.raises(CorruptDatasetError, match="should match pattern"):
            parse(model, _with(document, path, value), "x")


def test_the_schemas_say_what_a_name_may_be() -> None:
    for model in (DatasetManifest, PlanRow, ShardSidecar, SampleMeta):
        assert "a-z0-9_-" in json.dumps(model.model_json_schema())
