"""Trajectories in files come back as they went out, and bad files say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from actionimg_data import GripperTrajectory, errors
from actionimg_data.model.files import read_trajectory, write_trajectory


def make(n: int = 9, missing: bool = False) -> GripperTrajectory:
    rng = np.random.default_rng(3)
    position = rng.normal(size=(n, 3))
    quaternion = Rotation.random(n, rng=rng).as_quat()
    openness = rng.uniform(size=n)
    if missing:
        position[2], quaternion[2] = np.nan, np.nan
    return GripperTrajectory(position, quaternion, openness, np.arange(n) / 7, allow_missing=missing)


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".json"])
@pytest.mark.parametrize("missing", [False, True])
def test_round_trip_is_exact(tmp_path: Path, suffix: str, missing: bool) -> None:
    truth = make(missing=missing)
    write_trajectory(tmp_path / f"t{suffix}", truth, {"valid": truth.known, "reason": np.array(["a,b"] * 9)})
    back = read_trajectory(tmp_path / f"t{suffix}")
    for name in ("position", "openness", "times"):
        np.testing.assert_array_equal(getattr(back, name), getattr(truth, name))
    np.testing.assert_allclose(back.quaternion_xyzw, truth.quaternion_xyzw, atol=1e-15)


@pytest.mark.parametrize("width", [7, 8])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_bare_actions_need_a_frame_rate(tmp_path: Path, suffix: str, width: int) -> None:
    truth = make()
    action = truth.to_action7() if width == 7 else truth.to_action8()
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, action)
    elif suffix == ".npz":
        np.savez(path, **{f"action_{width}d": action})
    else:
        np.savetxt(path, action, delimiter=",", fmt="%.17g")
    with pytest.raises(errors.InvalidSpecError, match="--fps"):
        read_trajectory(path)
    back = read_trajectory(path, fps=7)
    np.testing.assert_allclose(back.world_from_gripper, truth.world_from_gripper, atol=1e-12)
    np.testing.assert_allclose(back.times, truth.times)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "x,y,z\n1,2,3\n", "lacks columns"),
        ("a.csv", "1,2,3\n", "neither action_7d nor action_8d"),
        ("a.csv", "x,y,z,roll,pitch,yaw,openness\n0,0,0,0,0,zero,1\n", "row 1, yaw: is not a number"),
        ("a.csv", "x,y,z,roll,pitch,yaw,openness\n0,0,0\n", "row has another length"),
        ("a.csv", "", "has no rows"),
        ("a.json", "[1, 2]", "is not a JSON object"),
        ("a.json", "{", "is not JSON"),
        ("a.npy", "not numpy", "cannot be read"),
        ("a.npz", "not a zip", "cannot be read"),
        ("a.txt", "1", "unknown kind"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, match: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(errors.ActionImgError, match=match) as caught:
        read_trajectory(tmp_path / name, fps=1)
    assert name in str(caught.value)


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(errors.UnsafeFileError):
        read_trajectory(tmp_path / "a.npy", fps=1)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFoundError, match=r"none\.csv"):
        read_trajectory(tmp_path / "none.csv")
