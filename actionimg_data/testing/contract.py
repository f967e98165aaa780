"""What every converter has to keep to, as tests to inherit."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import pickle
import re
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..converters.base import Converter, Detection
from ..errors import ActionImgError, SourceNotFoundError
from ..model import Camera, CameraTrack, Episode, EpisodeRef, view_planes
from ..plausibility import sight
from ..plausibility.examine import examine

_NUMPY_DOMAIN = 389047  # np.lib.tracemalloc_domain, which numpy 1.26 has elsewhere
_MAX_REFS = 50
_MAX_EPISODES = 3
_MAX_FRAMES = 8
_MAX_WALK_BYTES = 32 << 20
_HELD_BYTES = 256 << 10
_PEAK_BYTES = 8 << 20
_MAX_HELD = 0.5
_MIN_SEEN = 0.5

_others: list[tuple[BaseProcess, Connection]] = []
"""The process in which converters are asked again: one for all of them, for it imports everything."""


class ConverterContract:
    """Tests of one converter; subclass it, and give the two fixtures ``converter`` and ``source``.

    They hold it to lazy, sorted and repeatable discovery, fingerprints that follow the data, references that travel
    between processes, pictures that are RGB and read when they are asked for, cameras that see the gripper, metres, and
    clear refusals.

    Example:
        ::

            class TestMyConverter(ConverterContract):
                @pytest.fixture
                def converter(self):
                    return MyConverter()

                @pytest.fixture
                def source(self, tmp_path):
                    return write_my_format(tmp_path / "data")  # two episodes or more, small

                @pytest.fixture
                def large_source(self, tmp_path):  # not needed, but telling
                    return write_many_empty_episodes(tmp_path / "many", 10_000)
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
    def large_source(self) -> str | Path | None:
        """A source of some ten thousand episodes that are only found, never read; None: there is none to try."""
        return None

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

    def test_discover_is_lazy(self, converter: Converter, source: str | Path, large_source: str | Path | None) -> None:
        """The first reference of a large source does not wait for the last: each is made when it is asked for.

        Of a large source as many as there are pass by without being held.
        """
        for place in (source, large_source):
            if place is None:
                continue
            with _references_made() as made:
                found = converter.discover(str(place))
                assert isinstance(found, Iterator), "discover has to give an iterator: let it yield each reference"
                assert isinstance(next(found), EpisodeRef)
                assert len(made) == 1, (
                    f"discover made {len(made)} references before the first was handed out: yield each as it is found"
                )
        if large_source is not None:
            with _memory() as memory:
                count = sum(1 for _ in converter.discover(str(large_source)))
            assert count >= 1000, f"large_source holds {count} episodes only"
            assert memory.peak <= _MAX_WALK_BYTES, f"finding {count} episodes takes {memory.peak >> 20} MiB"

    def test_fingerprints_follow_the_data(self, converter: Converter, source: str | Path, tmp_path: Path) -> None:
        """An episode whose files have changed is another one: its shard is made again, not taken for done."""
        place = _copied(Path(source), tmp_path / "copy")
        kind, options = type(converter), converter.options
        before = list(islice(kind(options).discover(str(place)), _MAX_REFS))
        for path in [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]:
            with open(path, "ab") as file:
                file.write(b"\n")
        try:
            after = {ref.id: ref for ref in islice(kind(options).discover(str(place)), _MAX_REFS)}
        except ActionImgError:
            return  # it has noticed, and says so
        same = [ref.id for ref in before if ref.id in after and after[ref.id].fingerprint == ref.fingerprint]
        assert not same, (
            f"the fingerprint of {', '.join(same)} is the same after every file of the source has changed: make it of "
            "what changes with the data, e.g. converters.kit.file_stamp of each file"
        )

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

    def test_a_fingerprint_that_is_asked_for_again_is_the_same(
        self, converter: Converter, refs: list[EpisodeRef]
    ) -> None:
        """Where nobody wrote to the source; another one refuses the episode."""
        other = type(converter)(converter.options)
        for ref in refs[:_MAX_EPISODES]:
            assert other.fingerprint(ref) in (None, ref.fingerprint)

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

    def test_reading_an_episode_holds_none_of_its_pictures(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """`read` finds out how many pictures there are and how large; they are read one by one, when asked for."""
        # What is read for the first time in a process may import, and keep what it imports.
        type(converter)(converter.options).read(refs[-1])
        fresh = type(converter)(converter.options)
        with _memory() as memory:
            episode = fresh.read(refs[0])
        pictures = sum(len(v.frames) * v.frames.height * v.frames.width * 3 for v in episode.views.values())
        share = f"{memory.arrays:,} B of arrays and {memory.held:,} B in all, its pictures are {pictures:,} B"
        assert memory.arrays <= _MAX_HELD * pictures, f"read holds the pictures: {share}"
        assert memory.held <= _MAX_HELD * pictures + _HELD_BYTES, f"read holds the pictures: {share}"
        assert memory.peak <= pictures + _PEAK_BYTES, f"read loads the pictures: {memory.peak:,} B at once"

    def test_the_gripper_is_in_some_picture(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """Cameras stand where they say: an inverted pose, or other axes, put the gripper out of every picture."""
        for ref in refs[:_MAX_EPISODES]:
            episode = converter.read(ref)
            seen = sight.in_view(episode)
            why = [f"{name}: {cause}" for name in seen for cause in sight.why_out_of_view(episode, name)]
            assert not seen or max(seen.values()) >= _MIN_SEEN, (
                f"{ref.id}: no view shows the gripper in {_MIN_SEEN:.0%} of its frames, but "
                f"{', '.join(f'{name} in {share:.0%}' for name, share in seen.items())}. "
                f"{'; '.join(why) or 'Is world_from_camera inverted, or are its axes not OpenCV?'}"
            )

    def test_episodes_are_plausible(self, converter: Converter, refs: list[EpisodeRef]) -> None:
        """Metres, radians and seconds: nothing moves or stands as no robot does (docs/plausibility.md)."""
        for ref in refs[:_MAX_EPISODES]:
            found = examine(converter.read(ref))
            assert not found, f"{ref.id}: " + "; ".join(
                f"{f.kind}: {f.stream}: {f.found}, expected {f.expected}" for f in found
            )

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


@contextmanager
def _references_made() -> Iterator[set[str]]:
    """Ids of all references that are made within."""
    made: set[str] = set()
    original = EpisodeRef.__init__

    def counting(self: EpisodeRef, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        made.add(self.id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeRef, "__init__", counting)
        yield made


@dataclass
class _Memory:
    """Bytes that were allocated within and are held after it: arrays of numpy, all of them, and the most at once."""

    arrays: int = 0
    held: int = 0
    peak: int = 0


@contextmanager
def _memory() -> Iterator[_Memory]:
    found = _Memory()
    gc.collect()
    tracemalloc.start()
    try:
        yield found
        gc.collect()
        found.held, found.peak = tracemalloc.get_traced_memory()
        domain = tracemalloc.DomainFilter(True, _NUMPY_DOMAIN)
        arrays = tracemalloc.take_snapshot().filter_traces((domain,))
        found.arrays = sum(trace.size for trace in arrays.traces)
    finally:
        tracemalloc.stop()


def _copied(source: Path, place: Path) -> Path:
    place.mkdir()
    if source.is_file():
        return Path(shutil.copy(source, place / source.name))
    return Path(shutil.copytree(source, place / source.name))


def _digest_elsewhere(cls: type[Converter], options: Any, ref: EpisodeRef) -> str:
    """`_digest` in a process that was spawned for the first such question; one that fails is ended."""
    if not _others:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        spawned = context.Process(target=_send_digests, args=(theirs,), daemon=True)
        spawned.start()
        theirs.close()
        _others.append((spawned, ours))
    process, here = _others[0]
    try:
        here.send((cls, options, ref))
        assert here.poll(120), "reading an episode in another process takes longer than two minutes"
        return str(here.recv())
    except BaseException as error:
        _others.clear()
        process.kill()
        process.join(10)
        here.close()
        if isinstance(error, (EOFError, ConnectionError)):
            raise AssertionError("an episode cannot be read in another process") from None
        raise


def _send_digests(pipe: Connection) -> None:
    with suppress(EOFError):
        while True:
            pipe.send(_digest(*pipe.recv()))


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
