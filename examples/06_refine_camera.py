"""Refine a camera that is 2 cm and 2 degrees off, through PyTorch3D silhouettes of the gripper.

The poses of a demo say where the gripper is, and masks where it is seen. A camera whose recorded pose is not quite true
makes the two disagree; here the pose is moved until soft silhouettes of the gripper mesh, drawn by PyTorch3D, fit the
masks. Drawn with edges of a third of a pixel the silhouettes are true to the masks, and smooth enough to differentiate;
both are then blurred alike, so that edges some pixels apart feel each other. (Edges that are soft by some pixels
themselves move outwards where faces meet, and push the camera centimetres away.) Gauss-Newton settles in eight steps.
Its Jacobian is taken by finite differences, thirteen pictures a frame: a backward pass costs seven pictures on a CPU,
and gives the gradient of one number where Gauss-Newton wants that of every pixel.

Two errors are reported, and they are not the same. The overlay error is how many pixels the drawn gripper lies off, and
is what matters to an action image. The error of the camera's pose can stay larger than it suggests: over a workspace
of a few decimetres a turn of the camera and a shift of it look much alike.

This is the principle, in one file. For your own data there is ``actionimg calibrate refine``, which needs neither masks
nor torch.

The demo is written on the spot; its masks are drawn from the same mesh through the true camera, without soft edges.

    python examples/06_refine_camera.py             (needs torch and PyTorch3D; a CPU will do)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

import actionimg_data as aid
from actionimg_data.converters.base import converter_class
from actionimg_data.geometry import crop, pinhole, rotations, transforms
from actionimg_data.testing import write_rlbench_dataset

VIEW = "front"
SIZE = 128
EDGE = 0.3
BLUR = (3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0)
MARGIN = 10
GRIPPER = aid.mesh.gripper_model()


@dataclass
class Observation:
    """The gripper in chosen frames: where it is, and what is seen of it in a box around it."""

    frames: list[int]
    vertices: torch.Tensor  # (N, V, 3) world
    faces: torch.Tensor  # (F, 3)
    K: torch.Tensor  # (N, 3, 3) of the box
    masks: np.ndarray  # (N, S, S) bool, of the box
    corners: list[tuple[int, int]]  # (N) left, top of the box


def world_vertices(trajectory: aid.GripperTrajectory) -> np.ndarray:
    """Vertices (T, V, 3) of the gripper mesh in the world."""
    return np.asarray(transforms.apply(trajectory.world_from_gripper, GRIPPER.posed(trajectory.openness)))


def observe(trajectory: aid.GripperTrajectory, masks: np.ndarray, K: np.ndarray, count: int) -> Observation:
    """Cut ``count`` frames, spread over the demo, down to the gripper; PyTorch3D's time goes with the pixels.

    Only frames with an open gripper: RLBench calls one that holds something closed, however far apart its fingers are.
    """
    edge = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], axis=1)
    good = np.flatnonzero(masks.any((1, 2)) & ~edge.any(1) & (trajectory.openness == 1))
    frames = good[np.unique(np.linspace(0, len(good) - 1, count).astype(int))].tolist()
    rows, columns = (np.stack([np.flatnonzero(masks[t].any(axis))[[0, -1]] for t in frames]) for axis in (1, 0))
    side = min(int(max(np.ptp(rows, axis=1).max(), np.ptp(columns, axis=1).max())) + 1 + 2 * MARGIN, SIZE)
    left, top = (np.clip((x.sum(1) + 1 - side) // 2, 0, SIZE - side).tolist() for x in (columns, rows))
    boxes = [crop.CropResize(x, y, side, side, side, side) for x, y in zip(left, top, strict=True)]
    return Observation(
        frames,
        torch.from_numpy(world_vertices(trajectory[np.array(frames)])),
        torch.from_numpy(GRIPPER.faces),
        torch.from_numpy(np.stack([crop.apply_to_K(K, box) for box in boxes])),
        np.stack([masks[t][y : y + side, x : x + side] for t, x, y in zip(frames, left, top, strict=True)]),
        list(zip(left, top, strict=True)),
    )


def soften(mask: np.ndarray) -> np.ndarray:
    """A mask with the edge of PyTorch3D's silhouettes: ``sigmoid(-d|d| / EDGE^2)`` at d pixels from its outline."""
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    d = np.where(mask, 0.5 - inside, outside - 0.5)
    return 1 / (1 + np.exp(np.clip(d * np.abs(d) / EDGE**2, -50, 50)))


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Pictures (..., H, W) blurred by a Gaussian."""
    flat = pictures.reshape(-1, *pictures.shape[-2:]).astype(np.float64)
    return np.stack([cv2.GaussianBlur(p, None, sigma) for p in flat]).reshape(pictures.shape)


def moved(pose: np.ndarray, step: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """Camera poses turned about ``pivot`` by ``step[..., :3]`` radians and shifted by ``step[..., 3:]`` metres."""
    turn = rotations.matrix_from_rotation_vector(step[..., :3])
    shift = pivot - (turn @ pivot[:, None])[..., 0] + step[..., 3:]
    return np.asarray(transforms.make_transform(turn, shift) @ pose)


def silhouettes(seen: Observation, poses: np.ndarray, soft: float) -> np.ndarray:
    """Soft silhouettes (P, N, H, W) of all observed frames through P camera poses."""
    cameras = torch.from_numpy(poses)[:, None]
    size = seen.masks.shape[1:]
    with torch.no_grad():
        pictures = aid.mesh.silhouette(
            seen.vertices, seen.faces, seen.K, cameras, *size, soft=soft, cull_backfaces=True
        )
    return pictures.numpy()


def refine(seen: Observation, start: np.ndarray) -> np.ndarray:
    """The camera pose whose silhouettes fit the masks, by Gauss-Newton."""
    pose, pivot = start, seen.vertices.numpy().reshape(-1, 3).mean(0)
    masks = np.stack([soften(mask) for mask in seen.masks])
    # One unit of each parameter moves the gripper, a decimetre across, by about as much.
    scale = np.diag([0.05] * 3 + [0.005] * 3)
    for sigma in BLUR:
        h = 0.3 * sigma
        steps = np.concatenate([np.zeros((1, 6)), h * scale, -h * scale])
        pictures = blurred(silhouettes(seen, moved(pose, steps, pivot), EDGE), sigma)
        residual = (pictures[0] - blurred(masks, sigma)).ravel()
        jacobian = ((pictures[1:7] - pictures[7:]) / (2 * h)).reshape(6, -1).T
        normal = jacobian.T @ jacobian
        update = np.linalg.solve(normal + 1e-3 * np.diag(np.diag(normal)), -jacobian.T @ residual)
        pose = moved(pose, scale @ update, pivot)
    return pose


def overlay_error(trajectory: aid.GripperTrajectory, pose: np.ndarray, truth: aid.Camera) -> float:
    """Mean distance in pixels between the gripper drawn through ``pose`` and through the true camera, all frames."""
    points = world_vertices(trajectory)
    a, _, _ = pinhole.project(points, truth.K, pose)
    b, _, valid = pinhole.project(points, truth.K, truth.world_from_camera)
    return float(np.linalg.norm(a - b, axis=-1)[valid].mean())


def pose_error(pose: np.ndarray, truth: aid.Camera) -> tuple[float, float]:
    """Camera-pose error in millimetres and degrees."""
    angle = rotations.angle_between(pose[:3, :3], truth.world_from_camera[:3, :3])
    return 1e3 * float(np.linalg.norm(pose[:3, 3] - truth.world_from_camera[:3, 3])), float(np.degrees(angle))


def picture(seen: Observation, crops: list[np.ndarray], poses: list[np.ndarray], scale: int = 6) -> np.ndarray:
    """Frames from left to right, cameras from top to bottom: the mask's outline green, the mesh's outline red."""
    drawn = silhouettes(seen, np.stack(poses), 0.0) > 0.5
    shown = np.linspace(0, len(seen.frames) - 1, min(5, len(seen.frames))).astype(int)
    rows = []
    for silhouette in drawn:
        row = []
        for i in shown:
            tile = cv2.resize(crops[i], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            for mask, colour in ((seen.masks[i], (60, 255, 60)), (silhouette[i], (255, 40, 40))):
                large = cv2.resize(mask.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
                outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(tile, outlines, -1, colour, 2)
            row.append(np.pad(tile, ((2, 2), (2, 2), (0, 0))))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_06", type=Path, help="folder for 06_refine_camera.png")
    parser.add_argument("--frames", default=10, type=int, help="frames to refine on")
    parser.add_argument("--seed", default=0, type=int, help="which way the camera is off")
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        write_rlbench_dataset(folder, 1, 40, SIZE, (VIEW,))
        converter = converter_class("rlbench")()
        episode = converter.read(next(iter(converter.discover(folder))))
        pictures = list(episode.views[VIEW].frames.frames(range(len(episode))))
    trajectory, truth = episode.trajectory, episode.views[VIEW].camera[0]
    spec = aid.ActionImageSpec(height=SIZE, width=SIZE)
    masks = aid.mesh.render(trajectory, [truth], spec, GRIPPER).silhouette[0] > 0

    rng = np.random.default_rng(options.seed)
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = rotations.matrix_from_rotation_vector(np.radians(2) * axis)
    start = truth.world_from_camera @ transforms.make_transform(turn, 0.02 * direction)

    begin = time.perf_counter()
    seen = observe(trajectory, masks, truth.K, options.frames)
    pose = refine(seen, start)
    seconds = time.perf_counter() - begin

    side = seen.masks.shape[1]
    crops = [pictures[t][y : y + side, x : x + side] for t, (x, y) in zip(seen.frames, seen.corners, strict=True)]
    sheet = picture(seen, crops, [start, pose])
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out / "06_refine_camera.png"), sheet[..., ::-1])
    figures = {"seconds": seconds}
    for name, camera in (("before", start), ("after", pose)):
        overlay = overlay_error(trajectory, camera, truth)
        millimetres, degrees = pose_error(camera, truth)
        figures |= {f"overlay_px_{name}": overlay, f"pose_mm_{name}": millimetres, f"pose_deg_{name}": degrees}
        print(f"{name:>6}: overlay {overlay:5.2f} px, camera pose {millimetres:5.1f} mm and {degrees:.2f} degrees off")
    print(f"{len(seen.frames)} frames, {seconds:.1f} s; picture in {options.out / '06_refine_camera.png'}")
    return figures


if __name__ == "__main__":
    main()
