"""Order, split, tasks and rays: the parts of training that read nothing."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.errors import InvalidSpecError
from actionimg_data.geometry.axes import rotate_half_turn
from actionimg_data.geometry.pluecker import pluecker_rays
from actionimg_data.training import modes
from actionimg_data.training.course import Course, Mark, Progress, Split, merged
from actionimg_data.training.order import MixedOrder, ShardOrder


def shard_order(sizes: list[int], window: int, seed: int = 0, shuffle: bool = True) -> ShardOrder:
    shards = np.repeat(np.arange(len(sizes)), sizes)
    return ShardOrder(np.arange(len(shards)) * 3, shards, window, shuffle, seed)


def rows(order: ShardOrder | MixedOrder, epoch: int) -> list[int]:
    return [order.at(epoch, position).row for position in range(len(order))]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.integers(0, 3),
)
def test_an_epoch_is_a_permutation_of_all_rows(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    found = rows(shard_order(sizes, window, seed), epoch)
    assert sorted(found) == [3 * i for i in range(sum(sizes))]


def test_epochs_and_seeds_differ_and_equal_ones_agree_whatever_was_asked_before() -> None:
    order = shard_order([8] * 10, 16, seed=5)
    first, second = rows(order, 0), rows(order, 1)
    assert first != second
    assert rows(shard_order([8] * 10, 16, seed=6), 0) != first
    again = shard_order([8] * 10, 16, seed=5)
    assert [again.at(0, p).row for p in reversed(range(80))] == first[::-1]
    assert rows(shard_order([8] * 10, 16, shuffle=False), 3) == [3 * i for i in range(80)]


def test_shuffling_keeps_shards_together_so_that_few_are_open() -> None:
    order = shard_order([10] * 100, 20)
    for block in range(50):
        shards = {order.at(0, 20 * block + i).row // 30 for i in range(20)}
        assert len(shards) <= 3


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 200),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(1, 7),
    st.booleans(),
)
def test_every_position_has_exactly_one_taker(
    total: int, ranks: int, workers: int, batch: int, drop_last: bool
) -> None:
    workers = max(workers, 1)
    course = Course(total, Mark(3), 4, ranks * batch if drop_last else 1)
    shares = [
        [list(Split(r, ranks, w, workers, batch).numbers(len(course))) for w in range(workers)] for r in range(ranks)
    ]
    taken = Counter(map(course.at, chain.from_iterable(chain.from_iterable(shares))))
    kept = total - total % (ranks * batch) if drop_last else total
    assert taken == Counter((3, position) for position in range(kept))
    counts = [Split(r, ranks, 0, 1, batch).count(len(course)) for r in range(ranks)]
    assert counts == [sum(map(len, share)) for share in shares]
    if drop_last:
        assert len({sum(map(len, share)) for share in shares}) == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 120), st.integers(1, 4), st.integers(1, 6), st.data())
def test_skipping_positions_is_the_same_as_taking_them(
    total: int, workers: int, batch: int, data: st.DataObject
) -> None:
    split = Split(0, 2, workers - 1, workers, batch)
    whole = list(split.numbers(total))
    skip = data.draw(st.integers(0, len(whole)))
    assert list(split.numbers(total, skip)) == whole[skip:]


class Fleet:
    """Processes with workers, each of which has taken some of its places: what a job is made of."""

    def __init__(self, size: int, mark: Mark, ranks: int, workers: int, batch: int, epochs: int) -> None:
        self.turn, self.until, self.mark, self.size = 1, mark.first_epoch + epochs, mark, size
        self.course = Course(size, mark, self.until)
        self.splits = [Split(r, ranks, w, workers, batch) for r in range(ranks) for w in range(workers)]

    def stop(self, taken: list[int]) -> tuple[list[tuple[int, int]], list[Progress]]:
        """The places that were taken, and what each worker says of it."""
        done, told = [], []
        for split, wanted in zip(self.splits, taken, strict=True):
            mine = list(split.numbers(len(self.course)))[:wanted]
            done += [self.course.at(number) for number in mine]
            told.append(Progress(split, self.mark, self.turn, self.until, len(mine)))
        return done, told


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40), st.integers(1, 2), st.data())
def test_any_fleet_goes_on_where_another_stopped_with_each_place_once(
    size: int, epochs: int, data: st.DataObject
) -> None:
    """Whatever was taken where, in whatever order: the rest comes once, from fleets of other shapes."""
    mark, seen = Mark(2), Counter[tuple[int, int]]()
    for _ in range(3):
        ranks, workers, batch = (data.draw(st.integers(1, top)) for top in (4, 3, 4))
        fleet = Fleet(size, mark, ranks, workers, batch, epochs)
        done, told = fleet.stop([data.draw(st.integers(0, 12)) for _ in fleet.splits])
        told = [Progress.from_json(json.loads(json.dumps(part.to_json()))) for part in told]
        seen.update(done)
        mark = merged(data.draw(st.permutations(told)), size)
        if mark.begun is None:
            break
    else:
        last = Fleet(size, mark, data.draw(st.integers(1, 4)), 2, 2, epochs)
        seen.update(last.stop([len(last.course)] * len(last.splits))[0])
    assert seen == Counter((epoch, position) for epoch in range(2, 2 + epochs) for position in range(size))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 8))
def test_one_process_speaks_for_all_where_they_go_in_step(
    size: int, ranks: int, workers: int, batch: int, batches: int
) -> None:
    fleet = Fleet(size, Mark(0), ranks, workers, batch, 1)
    # A loader asks its workers in turn.
    taken = [batch * len(range(split.worker, batches, workers)) for split in fleet.splits]
    done, told = fleet.stop(taken)
    one = merged([part for part in told if part.split.rank == 0], size)
    assert one == merged(told, size)
    if one.begun is not None:
        assert (one.position, one.ahead) == (len(done), frozenset())


def test_states_that_do_not_fit_together_are_refused() -> None:
    told = Fleet(20, Mark(0), 3, 2, 1, 1).stop([1] * 6)[1]
    with pytest.raises(InvalidSpecError, match="no worker 1 of process 0"):
        merged(told[:1], 20)
    with pytest.raises(InvalidSpecError, match="no process 2"):
        merged(told[:4], 20)
    with pytest.raises(InvalidSpecError, match="different runs"):
        merged([*told[:2], *Fleet(20, Mark(1), 3, 2, 1, 1).stop([1] * 6)[1][2:]], 20)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 11), st.integers(1, 3))
def test_an_endless_course_is_the_finite_one_without_end(size: int, position: int, turn: int) -> None:
    mark = Mark(1, min(position, size), frozenset({(1, size - 1)}) if position < size - 1 else frozenset(), 1)
    endless, finite = Course(size, mark, None, turn), Course(size, mark, 5, turn)
    assert endless.total is None
    assert endless.is_empty == (len(Course(size, mark, 9, turn)) == 0)
    assert [endless.at(n) for n in range(len(finite))] == [finite.at(n) for n in range(len(finite))]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5))
def test_batches_are_the_same_for_any_number_of_workers(total: int, ranks: int, batch: int) -> None:
    def batches(workers: int) -> list[list[int]]:
        """What a DataLoader makes of it: it asks its workers in turn for a batch each."""
        shares = [list(Split(0, ranks, w, workers, batch).numbers(total)) for w in range(workers)]
        cut = [[share[i : i + batch] for i in range(0, len(share), batch)] for share in shares]
        found = []
        for i in range(max(map(len, cut), default=0)):
            found += [c[i] for c in cut if i < len(c)]
        return found

    assert batches(1) == batches(2) == batches(3) == batches(5)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 5)), min_size=1, max_size=4),
    st.integers(1, 150),
)
def test_a_mix_has_exact_shares_and_takes_every_sample_equally_often(
    sources: list[tuple[int, float]], length: int
) -> None:
    orders = [shard_order([1] * size, 4, seed=i) for i, (size, _) in enumerate(sources)]
    order = MixedOrder(orders, [ratio for _, ratio in sources], length, 1)
    total = sum(ratio for _, ratio in sources)
    visits: list[Counter[int]] = [Counter() for _ in sources]
    for epoch in range(3):
        places = [order.at(epoch, p) for p in range(length)]
        drawn = Counter(place.source for place in places)
        for source, (_, ratio) in enumerate(sources):
            assert abs(drawn[source] - ratio / total * length) < 1
        for place in places:
            visits[place.source][place.row] += 1
    for (size, _), seen in zip(sources, visits, strict=True):
        counts = [seen[3 * row] for row in range(size)]
        assert max(counts) - min(counts) <= 1


def test_latent_frames_of_41_are_11() -> None:
    assert [modes.latent_frames(n) for n in (1, 4, 5, 41, 81)] == [1, 1, 2, 11, 21]


def segments(mask: np.ndarray, views: int = 2) -> list[list[bool]]:
    return mask.reshape(2 * views, -1).tolist()


@pytest.mark.parametrize(
    ("mode", "given_whole", "unused"),
    [
        ("joint", [], []),
        ("first_video", [0], []),
        ("action_conditioned", [1, 3], []),
        ("labelling", [0, 2], []),
        ("video_only", [], [1, 3]),
    ],
)
def test_masks_say_what_the_published_code_masks(mode: str, given_whole: list[int], unused: list[int]) -> None:
    found = modes.task(mode, 41)
    for length, given_mask, used_mask in (
        (41, found.given, found.used),
        (11, found.given_latent, found.used_latent),
    ):
        for i, (given_segment, used_segment) in enumerate(zip(segments(given_mask), segments(used_mask), strict=True)):
            assert len(given_segment) == length
            assert used_segment == [i not in unused] * length
            begins = [True] + [i in given_whole] * (length - 1)
            assert given_segment == ([False] * length if i in unused else begins)


def test_the_one_frame_mode_keeps_the_first_video_frames_and_all_actions() -> None:
    found = modes.task("one_frame", 41)
    first = [True] + [False] * 10
    assert segments(found.used_latent) == [first, [True] * 11, first, [True] * 11]
    # The published latents are [v | a … a | v | a … a] with conditions at 0, 1, T_l + 1 and T_l + 2.
    given = found.given_latent[found.used_latent]
    assert np.flatnonzero(given).tolist() == [0, 1, 12, 13]


@given(st.sampled_from(sorted(modes.MODES)), st.integers(1, 30), st.integers(1, 3), st.integers(1, 5))
@settings(deadline=None)
def test_a_latent_frame_is_given_only_if_all_its_frames_are(mode: str, frames: int, views: int, stride: int) -> None:
    found = modes.task(mode, frames, views, stride)
    length = modes.latent_frames(frames, stride)
    by_segment = found.given.reshape(2 * views, frames)
    for segment, latent in zip(by_segment, found.given_latent.reshape(2 * views, length), strict=True):
        for i in range(length):
            of = segment[:1] if i == 0 else segment[1 + (i - 1) * stride : 1 + i * stride]
            assert latent[i] == of.all()
    assert not (found.given & ~found.used).any()


def test_modes_are_drawn_with_their_odds() -> None:
    odds = modes.check_odds(modes.PUBLISHED_ODDS)
    assert sum(odds.values()) == pytest.approx(1)
    drawn = Counter(modes.draw(odds, u) for u in (np.arange(100_000) + 0.5) / 100_000)
    for mode, share in odds.items():
        assert drawn[mode] / 100_000 == pytest.approx(share, abs=2e-5)
    assert sum(modes.PUBLISHED_ODDS_OTHERS.values()) == pytest.approx(1)
    assert modes.draw({"joint": 1.0}, 1 - 1e-16) == "joint"


@pytest.mark.parametrize("odds", [{"jont": 1.0}, {"joint": -1.0}, {"joint": float("nan")}, {"joint": 0.0}, {}])
def test_odds_that_make_no_sense_are_refused(odds: dict[str, float]) -> None:
    with pytest.raises(InvalidSpecError, match="modes"):
        modes.check_odds(odds)


def test_bad_task_arguments_are_refused() -> None:
    with pytest.raises(InvalidSpecError, match="no such mode"):
        modes.task("everything", 41)
    with pytest.raises(InvalidSpecError, match="frames"):
        modes.task("joint", 0)
    with pytest.raises(InvalidSpecError, match="shuffle_buffer"):
        shard_order([1], 0)


def published_rays(pose: np.ndarray, K: np.ndarray, height: int, width: int) -> np.ndarray:
    """Directions and moments (height, width, 6), pixel by pixel from the definition."""
    out = np.empty((height, width, 6))
    for v in range(height):
        for u in range(width):
            x, y = (u + 0.5 - K[0, 2]) / K[0, 0], (v + 0.5 - K[1, 2]) / K[1, 1]
            direction = pose[:3, :3] @ np.array([x, y, 1.0])
            direction /= np.linalg.norm(direction) + 1e-8
            out[v, u] = *direction, *(np.cross(pose[:3, 3], direction) / 3)
    return out


def some_cameras() -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial.transform import Rotation

    pose = np.tile(np.eye(4), (2, 3, 1, 1))
    pose[..., :3, :3] = Rotation.random(6, random_state=1).as_matrix().reshape(2, 3, 3, 3)
    pose[..., :3, 3] = np.random.default_rng(2).normal(size=(2, 3, 3))
    K = np.broadcast_to(np.array([[9.0, 0, 4.5], [0, 8.0, 3.2], [0, 0, 1]]), (2, 3, 3, 3)).copy()
    return K, pose


@pytest.mark.parametrize("sign", [1, -1])
def test_rays_are_the_published_ones_for_focal_lengths_of_either_sign(sign: int) -> None:
    K, pose = some_cameras()
    K[..., 0, 0] *= sign
    K[..., 1, 1] *= sign
    found = pluecker_rays(K, pose, 6, 8)
    assert found.shape == (2, 3, 6, 6, 8)
    for i in np.ndindex(2, 3):
        expected = published_rays(pose[i], K[i], 6, 8)
        np.testing.assert_allclose(np.moveaxis(found[i], 0, -1), expected, atol=1e-12)
    tensors = pluecker_rays(torch.from_numpy(K), torch.from_numpy(pose[..., :3, :]).float(), 6, 8)
    assert tensors.dtype == torch.float32
    np.testing.assert_allclose(tensors.numpy(), found, atol=2e-6)


def test_half_a_turn_keeps_the_pixels_and_undoes_itself() -> None:
    K, pose = some_cameras()
    turned_K, turned_pose = rotate_half_turn(K, pose)
    assert (turned_K[..., 0, 0] < 0).all()
    assert (turned_K[..., 1, 1] < 0).all()
    point = np.array([0.3, -0.2, 5.0, 1.0])
    seen = [k @ (np.linalg.inv(p) @ point)[..., :3, None] for k, p in ((K, pose), (turned_K, turned_pose))]
    np.testing.assert_allclose(seen[0] / seen[0][..., 2:, :], seen[1] / seen[1][..., 2:, :], rtol=1e-12)
    again = rotate_half_turn(turned_K, turned_pose)
    np.testing.assert_array_equal(again[0], K)
    np.testing.assert_array_equal(again[1], pose)
