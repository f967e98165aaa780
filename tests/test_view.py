"""A data set in the browser: who may ask, what is answered, and that the filter is the one that training takes."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
from arms_data import make_dataset as make_arms
from click.testing import CliRunner
from evaluation_data import disturbed, write_predictions
from faulty_store import BUCKET, running_store, storage_options
from hypothesis import given, settings
from hypothesis import strategies as st
from large_index import write_large_index
from processes import PATIENCE
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.errors import (
    CorruptDatasetError,
    InvalidSpecError,
    MissingExtraError,
    MissingFrameError,
    OutputError,
    SourceNotFoundError,
    WrongFormatError,
)
from actionimg_data.model import Episode
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.shards.layout import place
from actionimg_data.training.source import ShardSource
from actionimg_data.video import read_frames
from actionimg_data.viewer import app as app_module
from actionimg_data.viewer import media
from actionimg_data.viewer.cache import BoundedCache
from actionimg_data.viewer.catalog import Catalog
from actionimg_data.viewer.query import Query
from actionimg_data.viewer.serve import Server

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

ROWS = 700


class WordsConverter(SyntheticConverter):
    """The synthetic episodes, each with its own words."""

    def read(self, ref: Any) -> Episode:
        return replace(super().read(ref), instructions=(f"open the 'top' \"drawer\" {ref.id}",))


def make(folder: Path, converter: Any = None, source: dict[str, Any] | None = None, **options: Any) -> Path:
    src = write_source(folder / "src", **{"episodes": 3, "frames": 5, **(source or {})})
    values = {"height": 64, "width": 64, **options}
    engine.convert(
        converter or WordsConverter(), src, folder / "out", ConvertOptions.parse(**values), max_bad_fraction=1
    )
    return folder / "out"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("small"), None, {"bad": {"ep_001": "bad-image"}})


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_index(small, tmp_path_factory.mktemp("large") / "out", ROWS, group=256)


@pytest.fixture(scope="module")
def near(small: Path) -> Iterator[Server]:
    """A server of the small data set, whose samples are what their shards say."""
    with Server(small, port=0).running() as running:
        yield running


@pytest.fixture(scope="module")
def server(large: Path) -> Iterator[Server]:
    with Server(large, port=0).running() as running:
        yield running


def ask(server: Server, path: str, method: str = "GET", token: str | None = None, **headers: str) -> Any:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        target = f"/{server.token if token is None else token}/{path}"
        connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def found(server: Server, path: str) -> Any:
    status, _, body = ask(server, path)
    assert status == 200, body
    return json.loads(body)


# ---- who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (200, {}),
        (200, {"Host": "localhost:9000"}),
        (200, {"Sec_Fetch_Site": "same-origin"}),
        (200, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}),
        (421, {"Host": "evil.example"}),
        (421, {"Host": "127.0.0.1.evil.example:80"}),
        (421, {"Host": ""}),
        (403, {"token": "guessed"}),
        (403, {"token": ""}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (405, {"method": "POST"}),
        (405, {"method": "DELETE"}),
        (405, {"method": "OPTIONS"}),
    ],
)
def test_only_the_page_of_this_machine_is_answered(server: Server, status: int, how: dict[str, str]) -> None:
    found_status, headers, body = ask(server, "api/dataset", **how)
    assert found_status == status
    assert headers["content-security-policy"] == app_module.CONTENT_SECURITY_POLICY
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert (b'"samples"' in body) == (status == 200)


def test_the_address_is_this_machines_alone_and_has_a_token(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert len(server.token) >= 32
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_nothing_but_the_pages_own_files_is_served(server: Server) -> None:
    for name, (_, kind) in app_module.STATIC.items():
        status, headers, body = ask(server, name)
        assert (status, headers["content-type"]) == (200, kind)
        assert body
    for path in ("../app.py", "%2e%2e/app.py", "static/main.js", "app.py", "/etc/passwd", "member/0/..%2fx.mp4"):
        assert ask(server, path)[0] in (404, 405)


# ---- rows and filters ----------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_index(large: Path, server: Server) -> None:
    table = open_dataset(large).table
    page = found(server, "api/rows?start=250&count=20")
    assert (page["total"], page["of"], page["expression"]) == (ROWS, ROWS, "")
    # Over the edge of a row group.
    for row in page["rows"]:
        for name in ("key", "instruction", "task", "frames", "decode_position_p95_mm"):
            assert row[name] == table[name][row["number"]].as_py()
    assert [row["number"] for row in page["rows"]] == list(range(250, 270))
    assert found(server, f"api/rows?start={ROWS - 3}&count=20")["rows"][-1]["number"] == ROWS - 1
    assert found(server, f"api/rows?start={10 * ROWS}&count=20")["rows"] == []


def evaluated(text: str) -> Any:
    """What the copied text is in Python."""
    return eval(text, {"pc": pc})  # noqa: S307


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "q": st.sampled_from(["DRAWER", "red cup", "episode-00001", "table 7", "'\"\\", "ünï", "nothing"]),
        "task": st.sampled_from(["task_001", "task_059", 'it\'s "one"']),
        "frames_min": st.integers(0, 400).map(str),
        "frames_max": st.integers(0, 400).map(str),
        "mm_min": st.floats(0, 0.4).map(str),
        "mm_max": st.floats(0, 0.4).map(str),
        "origin": st.just(""),
        "sort": st.sampled_from(["frames", "decode_position_p95_mm", "key"]),
        "desc": st.sampled_from(["0", "1"]),
        "view": st.just("front"),
    },
)


@settings(max_examples=25, deadline=None)
@given(FILTERS)
def test_a_filter_is_the_expression_that_it_says_it_is(large: Path, parameters: dict[str, str]) -> None:
    """The samples shown are those that the copied text, evaluated, leaves of the index, in the order asked for."""
    catalog = _catalog(large)
    query = Query.parse(list(parameters.items()), catalog.manifest)
    chosen = catalog.select(query)
    numbers = np.arange(ROWS) if chosen is None else chosen
    text = query.text(catalog.manifest)
    table = open_dataset(large).table
    keys = table["key"].to_pylist()
    expected = table.filter(evaluated(text))["key"].to_pylist() if text else keys
    assert sorted(keys[i] for i in numbers) == sorted(expected)
    column = table[parameters.get("sort", "key")].to_pylist()
    values = [column[i] for i in numbers]
    assert values == sorted(values, reverse=parameters.get("desc") == "1")


def _catalog(path: Path, kept: dict[Path, Catalog] = {}) -> Catalog:  # noqa: B006
    if path not in kept:
        kept[path] = Catalog(place(path))
    return kept[path]


def test_words_are_looked_for_in_instruction_key_and_episode(large: Path) -> None:
    table = open_dataset(large).table
    for words in ("RED", "red table_000 cup", "episodes/episode69", "EPISODE-0000"):
        query = Query.parse([("q", words)], _catalog(large).manifest)
        numbers = _catalog(large).select(query)
        assert numbers is not None
        columns = [table[name].to_pylist() for name in ("instruction", "key", "episode")]
        expected = [
            i
            for i, texts in enumerate(zip(*columns, strict=True))
            if all(any(word.lower() in text.lower() for text in texts) for word in words.split())
        ]
        assert numbers.tolist() == expected


def test_training_takes_the_filter(large: Path, server: Server) -> None:
    page = found(server, "api/rows?task=task_003&task=task_004&frames_min=100&count=500")
    source = ShardSource(str(large), filter=evaluated(page["expression"]))
    assert 0 < len(source) == page["total"]
    assert {source.key(i) for i in range(len(source))} == {row["key"] for row in page["rows"]}


def test_calibration_and_findings_are_filtered(tmp_path: Path) -> None:
    """Verdicts are by view; of a sample that was not checked there is none, and no error."""
    import pyarrow as pa

    from actionimg_data.schemas import index_schema

    out = make(tmp_path, None, {"episodes": 1})
    manifest = open_dataset(out).manifest
    assert manifest is not None
    options = manifest.options.model_copy(update={"check_calibration": "warn", "allow": ("frozen-pictures",)})
    manifest = manifest.model_copy(update={"options": options, "views": ("front", "wrist")})
    verdict = {"displacement_px": None, "interval_px": None, "reason": ""}
    rows = [
        [{"view": "front", "verdict": "ok", **verdict}, {"view": "wrist", "verdict": "off", **verdict}],
        [{"view": "front", "verdict": "cannot tell", **verdict}, {"view": "wrist", "verdict": "ok", **verdict}],
        [],
    ]
    schema = index_schema(**manifest.index_columns)
    columns = {
        "calibration": pa.array(rows, schema.field("calibration").type),
        "finding_frozen_pictures": pa.array([True, False, False]),
        "views": pa.array([list(manifest.views)] * 3),
    }
    for parameters, expected in (
        ([("calibration", "off")], [True, False, False]),
        ([("calibration", "ok")], [True, True, False]),
        ([("calibration", "ok"), ("view", "front")], [True, False, False]),
        ([("calibration", "ok"), ("view", "wrist")], [False, True, False]),
        ([("calibration", "cannot tell")], [False, True, False]),
        ([("finding", "frozen-pictures")], [True, False, False]),
    ):
        text = Query.parse(parameters, manifest).text(manifest)
        kept = pa.table({**columns, "row": [0, 1, 2]}).filter(evaluated(text))["row"].to_pylist()
        assert kept == [row for row in range(3) if expected[row]], parameters


@pytest.mark.parametrize(
    "wrong",
    [
        "taskk=x", "sort=nothing", "view=frnt", "frames_min=many", "mm_max=nan", "calibration=off", "finding=frozen",
        "q=" + "x" * 1000, "start=-1", "count=100000", "start=x",
    ],
)  # fmt: skip
def test_a_filter_that_cannot_be_is_said(server: Server, wrong: str) -> None:
    status, _, body = ask(server, f"api/rows?{wrong}")
    assert status == 400
    assert json.loads(body)["code"] == "invalid-option"


def test_facets_count_the_samples(large: Path, server: Server) -> None:
    table = open_dataset(large).table
    facets = found(server, "api/facets")
    counts = {row["values"]: row["counts"] for row in table["task"].value_counts().to_pylist()}
    assert dict(facets["tasks"]) == counts
    assert facets["tasks"] == sorted(facets["tasks"], key=lambda t: (-t[1], t[0]))
    assert facets["frames"] == [min(table["frames"].to_pylist()), max(table["frames"].to_pylist())]


def test_the_quarantine_has_its_reasons(near: Server) -> None:
    server = near
    page = found(server, "api/quarantine")
    assert page["codes"] == [["bad-image", 1]]
    assert page["rows"][0]["id"] == "task/ep_001"
    assert "is no PNG" in page["rows"][0]["message"]
    assert found(server, "api/quarantine?q=PNG%20ep_001&code=bad-image")["total"] == 1
    assert found(server, "api/quarantine?q=elsewhere")["total"] == 0


# ---- a sample ------------------------------------------------------------------------------------------------------


def test_a_sample_is_what_the_data_set_says(small: Path, near: Server) -> None:
    sample = open_dataset(small)[1]
    page = found(near, "api/sample/1")
    assert page["key"] == sample.key
    assert page["meta"]["episode"] == sample.meta.episode
    np.testing.assert_allclose(page["grippers"][0]["position"], sample.trajectory.position, atol=1e-5)
    for camera in page["cameras"]:
        np.testing.assert_allclose(camera["K"][0], sample.cameras[camera["view"]].K[0], atol=1e-3)
    assert page["commands"]["inspect"] == f"actionimg inspect {small} --key {sample.key}"
    assert set(page["members"]) == set(sample.members)
    assert ask(near, "api/sample/2")[0] == 404


def test_members_are_served_by_range_from_the_tar(small: Path, server: Server) -> None:
    sample = open_dataset(small)[0]
    view = sample.views[0]
    data = sample.read(f"{view}.rgb.mp4")
    path = f"member/0/{view}.rgb.mp4"
    status, headers, body = ask(server, path)
    assert (status, headers["accept-ranges"], body) == (200, "bytes", data)
    size = len(data)
    for header, start, stop in (
        ("bytes=0-0", 0, 1), ("bytes=10-", 10, size), ("bytes=-7", size - 7, size), (f"bytes=5-{10 * size}", 5, size)
    ):  # fmt: skip
        status, headers, body = ask(server, path, Range=header)
        assert (status, body) == (206, data[start:stop])
        assert headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert ask(server, path, Range=f"bytes={size}-")[0] == 416
    assert ask(server, path, Range="bytes=1-2,4-5")[2] == data
    status, headers, body = ask(server, path, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(size), b"")
    for name in ("json", "cameras.npz", "nothing.mp4"):
        assert ask(server, f"member/0/{name}")[0] == 404


def test_thumbnails_are_small_pictures(server: Server, small: Path) -> None:
    sample = open_dataset(small)[0]
    _, headers, body = ask(server, f"thumb/0/{sample.views[0]}")
    assert headers["content-type"] == "image/webp"
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (64, 64, 3)
    assert ask(server, "thumb/0/nothing")[0] == 404


@pytest.mark.parametrize("codec", ["ffv1", "png", "none"])
def test_videos_that_no_browser_plays_are_made_again(tmp_path: Path, codec: str) -> None:
    out = make(tmp_path, None, {"episodes": 1}, action_codec=codec)
    sample = open_dataset(out)[0]
    made = read_frames(media.transcoded(sample, "action", sample.views[0]))
    assert np.abs(made.astype(int) - sample.action(sample.views[0])).mean() < 3
    with Server(out, port=0).running() as server:
        address = found(server, "api/sample/0")["videos"][0]["action"][""]
        assert address == f"video/0/action/{sample.views[0]}"
        status, headers, body = ask(server, address, Range="bytes=4-7")
        assert (status, headers["content-type"], body) == (206, "video/mp4", b"ftyp")
        assert ask(server, f"video/0/sound/{sample.views[0]}")[0] == 404


def test_several_grippers_depth_and_masks_are_shown(tmp_path: Path) -> None:
    out, _ = make_arms(tmp_path, [6], depth=True)
    with Server(out, port=0).running() as server:
        page = found(server, "api/sample/0")
        names = [gripper["name"] for gripper in page["grippers"]]
        assert sorted(names) == ["left", "right"]
        video = page["videos"][0]
        assert set(video["action"]) == {"left", "right"}
        for address in (*video["action"].values(), *video["planes"].values()):
            assert ask(server, address)[2][4:8] == b"ftyp"
        assert [gripper["name"] for gripper in found(server, "api/decoded/0")["grippers"]] == names


def test_decoding_says_how_far_off_each_frame_is(near: Server, small: Path) -> None:
    gripper = found(near, "api/decoded/0")["grippers"][0]
    known = [value for value in gripper["position_mm"] if value is not None]
    assert known
    assert max(known) < 5
    assert len(gripper["trust"]) == len(open_dataset(small)[0])


def test_what_is_damaged_is_said_and_nothing_else_ends(tmp_path: Path) -> None:
    out = make(tmp_path)
    sample = open_dataset(out)[0]
    view = sample.views[0]
    offset, size = sample._members["trajectory.npz"]
    tar = next(out.glob("train/*.tar"))
    data = bytearray(tar.read_bytes())
    data[offset : offset + size] = bytes(size)
    tar.write_bytes(data)
    with Server(out, port=0).running() as server:
        status, _, body = ask(server, "api/sample/0")
        assert status == 404
        assert json.loads(body)["code"] == "corrupt-dataset"
        assert found(server, "api/sample/1")["key"] == open_dataset(out)[1].key
        tar.unlink()
        for path in ("api/sample/0", f"thumb/0/{view}"):
            assert ask(server, path)[0] == 404


def test_what_is_no_data_set_is_said(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        Catalog(place(tmp_path / "nothing"))
    with pytest.raises(WrongFormatError, match="is a shard"):
        Catalog(place(next(small.glob("train/*.tar"))))
    with pytest.raises(MissingFrameError):
        _catalog(small).sample(99)
    copy = write_large_index(small, tmp_path / "copy", 5)
    (copy / "index.parquet").write_bytes(b"PAR1" + (copy / "index.parquet").read_bytes()[4:-1])
    with pytest.raises(CorruptDatasetError):
        Catalog(place(copy))


def test_from_a_store_only_ranges_are_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a data set in S3: the same rows, and of a shard no more than the members that are asked for."""
    import fsspec

    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with running_store() as store:
        monkeypatch.setattr(fsspec.config, "conf", {"s3": storage_options(store)})
        root = place(f"s3://{BUCKET}/view")
        for path in small.rglob("*"):
            if path.is_file():
                (root / path.relative_to(small).as_posix()).put(path.read_bytes())
        sample = open_dataset(small)[0]
        name = f"{sample.views[0]}.rgb.mp4"
        with Server(f"s3://{BUCKET}/view", port=0).running() as server:
            assert found(server, "api/rows")["total"] == 2
            assert found(server, "api/sample/0")["key"] == sample.key
            assert ask(server, f"member/0/{name}", Range="bytes=100-199")[2] == sample.read(name)[100:200]
            assert ask(server, f"thumb/0/{sample.views[0]}")[0] == 200
            assert found(server, "api/quarantine")["total"] == 1


# ---- predictions ---------------------------------------------------------------------------------------------------


def test_predictions_come_worst_first(small: Path, tmp_path: Path) -> None:
    dataset = open_dataset(small)
    windows = [{"key": sample.key} for sample in dataset]
    good = write_predictions(tmp_path / "run", dataset, windows[:1])
    bad = write_predictions(tmp_path / "bad", dataset, windows[1:], lambda t, rng: disturbed(t, rng, mm=60))
    lines = good.joinpath("predictions.jsonl").read_text() + bad.joinpath("predictions.jsonl").read_text().replace(
        "0000.", "../bad/0000."
    )
    good.joinpath("predictions.jsonl").write_text(lines)
    done = CliRunner().invoke(
        main, ["evaluate", str(good), "--against", str(small), "--no-baselines", "--no-html", "-j", "1"]
    )
    assert done.exit_code == 0, done.output
    with Server(small, tmp_path / "run.evaluation", 0).running() as server:
        rows = found(server, "api/predictions")["rows"]
        assert [row["line"] for row in rows] == [1, 0]
        assert rows[0]["success"] < rows[1]["success"]
        one = found(server, "api/prediction/1")
        assert max(value for value in one["curves"]["position_mm"] if value is not None) > 30
        status, headers, body = ask(server, "prediction/1/video")
        assert (status, headers["content-type"], body[4:8]) == (200, "video/mp4", b"ftyp")
        assert len(read_frames(body)) == len(one["curves"]["trust"])
        assert ask(server, "prediction/1/picture")[1]["content-type"] == "image/webp"
        assert ask(server, "prediction/7/video")[0] == 404
        assert found(server, "api/predictions?q=nothing")["total"] == 0
    with pytest.raises(SourceNotFoundError, match=r"evaluation\.json"):
        Server(small, tmp_path, 0)


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_a_cache_keeps_no_more_than_its_bound_and_makes_each_value_once() -> None:
    cache = BoundedCache(100, at_once=2)
    made = []

    def make(name: int, size: int) -> bytes:
        made.append(name)
        time.sleep(0.01)
        return bytes(size)

    threads = [threading.Thread(target=lambda: cache.get(0, lambda: make(0, 40))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [0]
    cache.get(1, lambda: make(1, 40))
    cache.get(0, lambda: make(0, 40))
    cache.get(2, lambda: make(2, 40))
    assert cache.size == 80
    cache.get(0, lambda: make(0, 40))
    cache.get(1, lambda: make(1, 40))
    assert made == [0, 1, 2, 1]
    assert len(cache.get(3, lambda: make(3, 500))) == 500
    assert cache.size <= 100
    with pytest.raises(ZeroDivisionError):
        cache.get(4, lambda: bytes(1 // 0))
    assert cache.get(4, lambda: b"then") == b"then"


def test_the_command_says_the_address(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Server, "run", lambda self: self._socket.close())
    result = CliRunner().invoke(main, ["view", str(small), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert opened == result.stdout.split()
    result = CliRunner().invoke(main, ["view", str(small), "--no-browser", "--port", "0"])
    assert result.exit_code == 0
    assert len(opened) == 1


def test_a_port_that_is_taken_is_said_and_the_usual_one_moves_on(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Server(small, port=0)
    first._socket.listen()
    with pytest.raises(OutputError, match="is taken"):
        Server(small, port=first.port)
    monkeypatch.setattr("actionimg_data.viewer.serve.PORT", first.port)
    second = Server(small)
    assert second.port > first.port
    with pytest.raises(InvalidSpecError):
        Server(small, port=70_000)
    for server in (first, second):
        server._socket.close()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*(view|uvicorn)"):
        app_module.needed()


def test_addresses_of_hostile_names_lead_nowhere(server: Server) -> None:
    for name in ("../../dataset.json", "a.mp4?x", "\x00.mp4", "<script>.mp4"):
        status, headers, body = ask(server, f"member/0/{quote(name, safe='')}")
        assert status in (404, 405)
        assert headers["content-type"].startswith(("application/json", "text/plain"))
        assert b"<script>" not in body or headers["content-type"] == "application/json"
    assert ask(server, f"api/rows?{urlencode({'q': '<script>'})}")[0] == 200


def test_the_licence_of_what_is_shipped_is_beside_it() -> None:
    from importlib import resources

    static = resources.files("actionimg_data.viewer") / "static"
    text = (static / "three.LICENSE").read_text(encoding="utf-8")
    assert "three.js authors" in text
    assert io.StringIO(text).readline().strip() == "The MIT License"
