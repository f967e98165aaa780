"""What every converter has to keep to, as tests to inherit."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..converters.base import Converter, Detection
from ..errors import ActionImgError, SourceNotFoundError
from ..model import Camera, CameraTrack, Episode, EpisodeRef, view_planes

_MAX_REFS = 50
_MAX_EPISODES = 3
_MAX_FRAMES = 8


class ConverterContract:
    """Tests of one converter; subclass it, and give the two fixtures.

    ::

        class TestMyConverter(ConverterContract):
            @pytest.fixture
            def converter(self):
                return MyConverter()

            @pytest.fixture
            def source(self, tmp_path):
                return write_my_format(tmp_path / "data")  # two episodes or more, small
    """

    @pytest.fixture
    def converter(self) -> Converter:
        """The converter under test."""
        raise NotImplementedError("a subclass of ConverterContract gives the fixture `converter`")

    @pytest.fixture
    def source(self) -> str | Path:
        """A small source of its format, with at least two episodes."""
        raise NotImplementedError("a subclass of ConverterContract gives the fixture `source`")

    @pytest.fixture
    def refs(self, converter: Converter, source: str | Path) -> list[EpisodeRef]:
        """The first references of the source."""
        return list(islice(converter.discover(str(source)), _MAX_REFS))

    def test_has_a_name_and_a_summary(self, converter: Converter) -> None:
        """The command line shows both."""
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", converter.name)
        assert converter.summary
        assert "\n" not in converter.summary

    def test_detects_its_own_source(self, converter: Converter, source: str | Path) -> None:
        """`detect` says which layout it sees."""
        assert isinstance(type(converter).detect(str(source)), Detection)

    def test_discover_is_lazy(self, converter: Converter, source: str | Path) -> None:
        """The first reference of a large source does not wait for the last."""
        found = converter.discover(str(source))
        assert isinstance(found, Iterator)
        assert isinstance(next(found), EpisodeRef)

    def test_discover_gives_the_same_each_time(
        self, converter: Converter, source: str | Path, refs: list[EpisodeRef]
    ) -> None:
        """Plans are made on one machine and carried out on others."""
        again = type(converter)(converter.options)
        assert list(islice(again.discover(str(source)), _MAX_REFS)) == refs

    def test_ids_are_unique_plain_and_in_natural_order(self, refs: list[EpisodeRef]) -> None:
        """An id names an episode for good: no two alike, nothing to escape, episode2 before episode10."""
        ids = [ref.id for ref in refs]
        assert len(ids) >= 2
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[A-Za-z0-9._/-]+", i) for i in ids)
        assert ids == sorted(ids, key=_natural_key)

    def test_refs_are_small_and_travel(self, refs: list[EpisodeRef]) -> None:
        """A reference survives pickle, and its location JSON."""
        for ref in refs:
            assert pickle.loads(pickle.dumps(ref)) == ref  # noqa: S301
            assert json.loads(json.dumps(dict(ref.location))) == dict(ref.location)
            assert len(pickle.dumps(ref)) < 1 << 16
            assert ref.fingerprint

    def test_reads_episodes_that_fit_their_refs(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """Views, cameras and trajectory have one length, the one that the reference states."""
        for ref in refs[:_MAX_EPISODES]:
            episode = converter.read(ref)
            assert isinstance(episode, Episode)
            assert episode.id == ref.id
            assert ref.num_frames in (None, len(episode))
            assert json.loads(json.dumps(dict(episode.provenance))) == dict(episode.provenance)
            for view in episode.views.values():
                assert len(view.frames) == len(episode)
                if view.camera is not None:
                    assert isinstance(view.camera, (Camera, CameraTrack))
                    assert (view.camera.width, view.camera.height) == (view.frames.width, view.frames.height)

    def test_pictures_are_rgb_and_any_subset_is_the_same(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """Frames asked for alone, later, or with others are the same frames."""
        episode = converter.read(refs[0])
        n = min(len(episode), _MAX_FRAMES)
        for view in episode.views.values():
            whole = [np.array(picture) for picture in view.frames.frames(range(n))]
            assert len(whole) == n
            for picture in whole:
                assert picture.shape == (view.frames.height, view.frames.width, 3)
                assert picture.dtype == np.uint8
            some = range(0, n, 2)
            for i, picture in zip(some, view.frames.frames(some), strict=True):
                assert np.array_equal(picture, whole[i])
            (last,) = view.frames.frames([len(episode) - 1])
            assert last.shape == whole[0].shape

    def test_pictures_are_read_when_asked_for(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """The first picture does not wait for the last."""
        for view in converter.read(refs[0]).views.values():
            pictures = view.frames.frames(range(len(view.frames)))
            assert isinstance(pictures, Iterator)
            next(pictures)

    def test_reads_the_same_twice_and_in_another_process(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """A retried shard, on whatever machine, has the same bytes."""
        task = type(converter), converter.options, refs[0]
        here = _digest(*task)
        assert _digest(*task) == here
        assert _digest_elsewhere(*task) == here

    def test_inspect_gives_json(self, converter: Converter, source: str | Path) -> None:
        """``actionimg inspect --json`` prints it."""
        found = converter.inspect(str(source))
        assert found["format"] == converter.name
        json.dumps(found)

    def test_refuses_a_source_that_does_not_exist(self, converter: Converter, tmp_path: Path) -> None:
        """By name, and `detect` does not raise."""
        missing = str(tmp_path / "no-such-place")
        assert type(converter).detect(missing) is None
        with pytest.raises(SourceNotFoundError, match="no-such-place"):
            list(converter.discover(missing))

    def test_refuses_what_is_not_its_format(self, converter: Converter, tmp_path: Path) -> None:
        """An empty folder, and a folder of something else: one clear error that names the folder."""
        empty = tmp_path / "empty-folder"
        empty.mkdir()
        other = tmp_path / "other-folder"
        (other / "sub").mkdir(parents=True)
        (other / "notes.txt").write_text("nothing to see here\n")
        (other / "sub" / "data.bin").write_bytes(bytes(range(256)))
        for folder in (empty, other):
            assert type(converter).detect(str(folder)) is None
            with pytest.raises(ActionImgError, match=folder.name):
                list(converter.discover(str(folder)))


def _digest_elsewhere(cls: type[Converter], options: Any, ref: EpisodeRef) -> str:
    """`_digest` in a fresh process, which is ended whatever happens."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_digest, args=(there, cls, options, ref), daemon=True)
    process.start()
    there.close()
    try:
        assert here.poll(120), "reading an episode in another process takes longer than two minutes"
        return str(here.recv())
    except EOFError:
        raise AssertionError("an episode cannot be read in another process") from None
    finally:
        process.kill()
        process.join(10)
        here.close()


def _send_digest(pipe: Connection, cls: type[Converter], options: Any, ref: EpisodeRef) -> None:
    pipe.send(_digest(cls, options, ref))


def _natural_key(text: str) -> list[list[tuple[int, int, str]]]:
    return [
        [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", part) if p]
        for part in text.split("/")
    ]


def _digest(kind: type[Converter], options: Any, ref: EpisodeRef) -> str:
    """A digest of everything an episode holds; runs in other processes too."""
    episode = kind(options).read(ref)
    digest = hashlib.sha256()
    about = (episode.id, episode.fps, episode.instructions, episode.task, episode.sync, sorted(episode.provenance))
    digest.update(repr(about).encode())
    for gripper, t in episode.grippers.items():
        digest.update(gripper.encode())
        for array in (t.position, t.quaternion_xyzw, t.openness, t.times):
            digest.update(array.tobytes())
    for name, view in episode.views.items():
        digest.update(name.encode())
        if view.camera is not None:
            digest.update(view.camera.K.tobytes() + view.camera.world_from_camera.tobytes())
        for picture in view.frames.frames(range(min(len(episode), _MAX_FRAMES))):
            digest.update(np.ascontiguousarray(picture).tobytes())
        for planes in view_planes(view).values():
            for plane in planes.frames(range(min(len(episode), _MAX_FRAMES))):
                digest.update(np.ascontiguousarray(plane).tobytes())
    return digest.hexdigest()
