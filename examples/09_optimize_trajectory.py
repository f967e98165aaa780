"""Recover a 41-frame trajectory from its action videos by gradient descent through the renderer.

The start is 10 cm and 30 degrees off in every frame, in random directions. Adam first follows the smooth picture,
whose far field and openness have gradients, then the published one, which is exactly what the videos hold.

    python examples/09_optimize_trajectory.py           (needs torch; 10 s on a CPU)
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import actionimg_data as aid
from actionimg_data.geometry import rotations
from actionimg_data.raster.torch_backend import render

FRAMES, SIZE = 41, 64


def true_trajectory() -> aid.GripperTrajectory:
    """A smooth reach that turns the hand, and closes it on the way."""
    s = np.linspace(0, 1, FRAMES)
    position = np.stack([0.2 * np.cos(4 * s), 0.2 * np.sin(3 * s), 0.15 * np.sin(5 * s)], axis=1)
    euler = np.stack([math.pi + 0.6 * np.sin(4 * s), 0.5 * np.cos(3 * s), 2 * s], axis=1)
    quaternion = rotations.quaternion_from_matrix(rotations.matrix_from_euler(euler))
    return aid.GripperTrajectory(position, quaternion, (s < 0.6).astype(float), s * 2)


def cameras() -> list[aid.Camera]:
    """Two cameras, 60 degrees apart, 1.1 m from the middle of the workspace."""
    views = []
    for azimuth in (-0.5, 0.55):
        eye = 1.1 * np.array([math.cos(azimuth), math.sin(azimuth), 0.5])
        z = -eye / np.linalg.norm(eye)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
        K = [[1.1 * SIZE, 0, SIZE / 2], [0, 1.1 * SIZE, SIZE / 2], [0, 0, 1]]
        views.append(aid.Camera(K, pose, SIZE, SIZE))
    return views


def bad_start(truth: aid.GripperTrajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions 10 cm and rotations 30 degrees off, each frame in its own random direction."""
    rng = np.random.default_rng(7)
    direction, axis = rng.normal(size=(2, FRAMES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    turn = rotations.matrix_from_rotation_vector(math.radians(30) * axis)
    return truth.position + 0.1 * direction, turn @ truth.rotation


def optimize(
    videos: NDArray[np.uint8],
    views: list[aid.Camera],
    spec: aid.ActionImageSpec,
    position: NDArray[np.float64],
    rotation: NDArray[np.float64],
    steps: int = 300,
) -> aid.GripperTrajectory:
    """The trajectory whose action videos are nearest to ``videos (V, T, H, W, 3)`` in squared difference."""
    target = torch.tensor(videos.transpose(0, 1, 4, 2, 3)).float() / 255
    K = torch.tensor(np.stack([c.K for c in views])).float()
    pose = torch.tensor(np.stack([c.world_from_camera for c in views])).float()
    place = torch.tensor(position).float().requires_grad_()
    turn = torch.tensor(np.concatenate([rotation[..., 0], rotation[..., 1]], axis=-1)).float().requires_grad_()
    grip = torch.zeros(len(position), requires_grad=True)  # before the sigmoid
    groups = [{"params": [place], "lr": 0.01}, {"params": [turn], "lr": 0.05}, {"params": [grip], "lr": 0.2}]
    # A short memory of squared gradients, because they fall by orders of magnitude on the way.
    adam = torch.optim.Adam(groups, betas=(0.9, 0.9))
    far = steps // 5
    shorter = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: min(1.0, 1e-3 ** ((i - far) / (steps - far))))
    for step in range(steps):
        mode: Literal["published", "smooth"] = "smooth" if step < 3 * far // 2 else "published"
        loss = (render(place, turn, torch.sigmoid(grip), K, pose, spec, mode) - target).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        shorter.step()
    found = rotations.quaternion_from_matrix(rotations.matrix_from_6d(turn.detach().double()))
    openness = torch.sigmoid(grip).detach().numpy()
    return aid.GripperTrajectory(place.detach().numpy(), found.numpy(), openness, np.arange(len(position)) / 20)


def errors(truth: aid.GripperTrajectory, found: aid.GripperTrajectory) -> dict[str, float]:
    """Worst frame's position error in millimetres and rotation error in degrees, and openness that is wrong."""
    return {
        "position_mm": float(1e3 * np.linalg.norm(truth.position - found.position, axis=1).max()),
        "rotation_deg": float(np.degrees(rotations.angle_between(truth.rotation, found.rotation).max())),
        "wrong_openness": float(np.sum((truth.openness > 0.5) != (found.openness > 0.5))),
    }


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run, print the errors before and after, and leave a picture: videos, start and result of five frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_09", type=Path, help="folder for 09_optimize_trajectory.png")
    picture = parser.parse_args(argv).out / "09_optimize_trajectory.png"
    truth, views, spec = true_trajectory(), cameras(), aid.ActionImageSpec(height=SIZE, width=SIZE)
    videos = aid.render(truth, views, spec)
    position, rotation = bad_start(truth)
    start = aid.GripperTrajectory(
        position, rotations.quaternion_from_matrix(rotation), np.full(FRAMES, 0.5), truth.times
    )
    print("start ", errors(truth, start))
    began = time.perf_counter()
    found = optimize(videos, views, spec, position, rotation)
    result = errors(truth, found)
    print("result", result, f"in {time.perf_counter() - began:.1f} s")

    rows = []
    for name, shown in (
        ("videos", videos),
        ("start", aid.render(start, views, spec)),
        ("result", aid.render(found, views, spec)),
    ):
        row = np.concatenate([shown[0, t] for t in range(0, FRAMES, 10)], axis=1)
        row = cv2.resize(row, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        rows.append(cv2.putText(row, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA))
    picture.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(picture), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    return result


if __name__ == "__main__":
    main()
