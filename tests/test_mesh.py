from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
import trimesh
from processes import run_program
from scipy.spatial.transform import Rotation

import actionimg_data as aid
from actionimg_data import errors
from actionimg_data.converters.base import converter_class
from actionimg_data.geometry import pinhole, rotations, transforms
from actionimg_data.raster import mesh_backend, pytorch3d_cameras
from actionimg_data.raster.gripper import GripperModel, gripper_model, parallel_jaw_gripper

FINE = 31
"""Samples along a side of a pixel of the oracle; odd, so that one of them is the pixel's centre."""


def look_at(eye, target=(0.0, 0.0, 0.2)):
    z = np.asarray(target, float) - eye
    z /= np.linalg.norm(z)
    x = np.cross(z, [0, 0, 1])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    pose[:3, 3] = eye
    return pose


def a_trajectory(n=4):
    s = np.linspace(0, 1, n)
    position = np.stack([0.16 * s - 0.08, 0.05 - 0.1 * s, 0.12 + 0.1 * s], -1)
    rotation = Rotation.from_euler("xyz", np.stack([2.5 + 0.9 * s, 0.9 * s - 0.4, 1.5 * s], -1))
    return aid.GripperTrajectory(position, rotation.as_quat(), s, s)


def a_K(height, width, f=1.0, skew=0.0):
    return np.array([[f * width, skew, 0.53 * width], [0, 1.08 * f * width, 0.46 * height], [0, 0, 1]])


def moving_camera(height, width, n=4, f=1.0):
    s = np.linspace(0, 1, n)
    poses = np.stack([look_at([0.5 * np.cos(a), 0.5 * np.sin(a), 0.3 + 0.2 * a]) for a in s])
    K = np.stack([a_K(height, width, f * (1 + 0.2 * a), 2.0) for a in s])
    return aid.CameraTrack(K, poses, width, height)


def clip_at(polygon, near):
    """Sutherland-Hodgman against z = near of a polygon (N, 3) in the camera's frame."""
    kept = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] >= near:
            kept.append(a)
        if (a[2] >= near) != (b[2] >= near):
            kept.append(a + (near - a[2]) / (b[2] - a[2]) * (b - a))
    return np.array(kept)


def oracle(points, faces, face_parts, K, height, width, near=0.01):
    """Silhouette, depth and part ids of a mesh (N, 3) in the camera's frame: triangles filled by OpenCV, z-buffered.

    Every triangle is filled on a grid 31 times as fine and read at the pixels' centres, since OpenCV also fills each
    pixel that an edge touches.
    """
    depth = np.full((height, width), np.inf)
    parts = np.zeros((height, width), int)
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    for face, part in zip(faces, face_parts, strict=True):
        corners = points[face]
        polygon = clip_at(corners, near)
        if len(polygon) < 3:
            continue
        uv = (polygon / polygon[:, 2:]) @ K.T
        left, top = np.clip(np.floor(uv[:, :2].min(0)), 0, [width, height]).astype(int)
        right, bottom = np.clip(np.ceil(uv[:, :2].max(0)), 0, [width, height]).astype(int)
        if right <= left or bottom <= top:
            continue
        fine = np.zeros(((bottom - top) * FINE, (right - left) * FINE), np.uint8)
        corners_fine = (uv[:, :2] - [left, top]) * FINE - 0.5
        cv2.fillConvexPoly(fine, np.rint(corners_fine * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        hit = np.zeros((height, width), bool)
        hit[top:bottom, left:right] = fine[FINE // 2 :: FINE, FINE // 2 :: FINE] > 0
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (normal @ corners[0]) / (rays @ normal)
        nearer = hit & (z < depth) & (z > 0)
        depth[nearer] = z[nearer]
        parts[nearer] = part
    return np.isfinite(depth), depth, parts


def oracle_frames(trajectory, camera, model, near=0.01):
    track = camera.track(len(trajectory))
    for t in range(len(trajectory)):
        world = transforms.apply(trajectory.world_from_gripper[t], model.posed(trajectory.openness[t]))
        points = transforms.apply(transforms.invert(track.world_from_camera[t]), world)
        yield oracle(points, model.faces, model.face_parts, track.K[t], track.height, track.width, near)


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


# ---- against the plain z-buffer


@pytest.mark.parametrize(("height", "width"), [(96, 96), (75, 131), (121, 80)])
def test_every_view_agrees_with_a_plain_z_buffer(height, width):
    trajectory, model = a_trajectory(), gripper_model()
    fixed = aid.Camera(a_K(height, width, 1.5), look_at([0.1, -0.55, 0.35], [0, 0.05, 0.25]), width, height)
    cameras = {"fixed": fixed, "moving": moving_camera(height, width, f=1.2)}
    spec = aid.ActionImageSpec(height=height, width=width)
    silhouette, depth, _, part_ids = mesh_backend.render(trajectory, cameras, spec)
    assert silhouette.shape == depth.shape == part_ids.shape == (2, 4, height, width)
    for v, camera in enumerate(cameras.values()):
        for t, (mask, z, parts) in enumerate(oracle_frames(trajectory, camera, model)):
            assert mask.sum() > 150
            assert iou(mask, silhouette[v, t] > 0) >= 0.99
            both = mask & (silhouette[v, t] > 0)
            assert np.quantile(np.abs(depth[v, t][both] - z[both]), 0.98) < 1e-5
            assert (parts[both] == part_ids[v, t][both]).mean() > 0.98
            assert np.isinf(depth[v, t][silhouette[v, t] == 0]).all()


def test_pixel_centres_are_exact():
    # A square whose edges lie a hundredth of a pixel to either side of pixel centres.
    K = np.array([[10.0, 0, 4], [0, 10.0, 3], [0, 0, 1]])
    spec = aid.ActionImageSpec(height=6, width=9)
    camera = aid.Camera(K, np.eye(4), 9, 6)
    still = aid.GripperTrajectory([[0, 0, 0]], [[0, 0, 0, 1]], [1.0], [0.0])
    for shift, expected in ((-0.01, slice(2, 6)), (0.01, slice(3, 7))):
        left, right = 2.5 + shift, 6.5 + shift
        uv = np.array([[left, 1.2], [right, 1.2], [right, 4.2], [left, 4.2]])
        xyz = pinhole.unproject(uv, np.ones(4), K, np.eye(4))
        mesh = trimesh.Trimesh(xyz, [[0, 2, 1], [0, 3, 2]], process=False)
        picture = mesh_backend.render(still, [camera], spec, mesh).silhouette[0, 0]
        wanted = np.zeros((6, 9))
        wanted[1:4, expected] = 1
        np.testing.assert_array_equal(picture, wanted)


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (7, 7)])
def test_projection_by_pytorch3d_agrees_with_ours(size):
    height, width = size
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.3, 0.3, (5, 20, 3))
    poses = np.stack([look_at(rng.uniform(0.8, 1.2, 3)) for _ in range(5)])
    K = np.stack([a_K(height, width, 1.0, 0.3)] * 5)
    uv, _, valid = pinhole.project(points, K, poses)
    assert valid.all()
    ours = (torch.tensor(x, dtype=torch.float32) for x in (K, poses))
    cameras = pytorch3d_cameras.cameras_from_opencv(*ours, height, width)
    ndc = cameras.transform_points(torch.tensor(points, dtype=torch.float32)).numpy()[..., :2]
    expected = (np.array([width, height]) / 2 - uv) * pytorch3d_cameras.pixel_in_ndc(height, width)
    np.testing.assert_allclose(ndc, expected, atol=2e-6)


def test_faces_are_cut_at_the_near_plane():
    # The camera sits beside the hand: the flange lies behind it, the hand reaches across the near plane.
    model = gripper_model()
    pose = np.eye(4)
    pose[:3, 3] = [0.04, 0.05, -0.12]
    pose[:3, :3] = Rotation.from_euler("xyz", [0.1, -0.4, 0.2]).as_matrix()
    camera = aid.Camera(a_K(90, 130, 0.6), pose, 130, 90)
    still = aid.GripperTrajectory([[0, 0, 0]], [[0, 0, 0, 1]], [1.0], [0.0])
    (mask, _, _), *_ = oracle_frames(still, camera, model, near=0.02)
    spec = aid.ActionImageSpec(height=90, width=130, near=0.02)
    pictures = mesh_backend.render(still, [camera], spec)
    assert mask.mean() > 0.05
    assert iou(mask, pictures.silhouette[0, 0] > 0) >= 0.99
    assert pictures.depth.min() >= 0.02 - 1e-6


def test_a_gripper_behind_the_camera_is_not_drawn():
    camera = aid.Camera(a_K(32, 32), look_at([0.5, 0, 0.2], [1.5, 0, 0.2]), 32, 32)
    pictures = mesh_backend.render(a_trajectory(), [camera], aid.ActionImageSpec(height=32, width=32))
    assert not pictures.silhouette.any()
    assert not pictures.rgb.any()
    assert np.isinf(pictures.depth).all()


def test_a_frame_with_a_missing_pose_is_empty():
    full = a_trajectory(3)
    position, quaternion = full.position.copy(), full.quaternion_xyzw.copy()
    position[1], quaternion[1] = np.nan, np.nan
    holes = aid.GripperTrajectory(position, quaternion, full.openness, full.times, allow_missing=True)
    camera, spec = moving_camera(40, 48, 3), aid.ActionImageSpec(height=40, width=48)
    pictures, whole = mesh_backend.render(holes, [camera], spec), mesh_backend.render(full, [camera], spec)
    assert not pictures.silhouette[0, 1].any()
    for t in (0, 2):
        np.testing.assert_array_equal(pictures.rgb[0, t], whole.rgb[0, t])


def test_pictures_do_not_depend_on_how_many_frames_are_drawn_at_a_time():
    trajectory, camera, spec = a_trajectory(5), moving_camera(50, 70, 5), aid.ActionImageSpec(height=50, width=70)
    for soft in (0.0, 1.0):
        one = mesh_backend.render(trajectory, [camera], spec, soft=soft)
        other = mesh_backend.render(trajectory, [camera], spec, soft=soft, max_samples=1)
        for a, b in zip(one, other, strict=True):
            close = np.isclose(a.astype(float), b.astype(float), atol=1e-3 if a.dtype != np.uint8 else 1)
            assert close.mean() > 0.9995


def test_a_world_far_from_its_origin_loses_nothing():
    camera, spec = (
        aid.Camera(a_K(64, 64), look_at([0.1, -0.55, 0.35]), 64, 64),
        aid.ActionImageSpec(height=64, width=64),
    )
    trajectory = a_trajectory(1)
    far = np.array([40_000.0, -70_000.0, 900.0])
    moved = aid.GripperTrajectory(
        trajectory.position + far, trajectory.quaternion_xyzw, trajectory.openness, trajectory.times
    )
    pose = camera.world_from_camera.copy()
    pose[:3, 3] += far
    near = mesh_backend.render(trajectory, [camera], spec)
    away = mesh_backend.render(moved, [aid.Camera(camera.K, pose, 64, 64)], spec)
    np.testing.assert_array_equal(near.part_ids, away.part_ids)
    np.testing.assert_allclose(near.depth, away.depth, rtol=1e-5)


# ---- parts, colours, softness


def test_openness_moves_the_fingers_and_nothing_else():
    camera, spec = aid.Camera(a_K(64, 64), look_at([0.4, 0, 0.2]), 64, 64), aid.ActionImageSpec(height=64, width=64)
    model = gripper_model()
    down = Rotation.from_euler("x", np.pi).as_quat()
    both = aid.GripperTrajectory([[0, 0, 0.15]] * 2, [down] * 2, [0.0, 1.0], [0.0, 1.0])
    ids = mesh_backend.render(both, [camera], spec, model).part_ids[0]
    left = [np.argwhere(frame == model.part_id("finger_left"))[:, 1].mean() for frame in ids]
    assert abs(left[1] - left[0]) == pytest.approx(0.04 * 64 / 0.4, rel=0.1)
    np.testing.assert_array_equal(ids[0] == model.part_id("flange"), ids[1] == model.part_id("flange"))


def test_a_named_mesh_is_drawn_in_its_own_colour(tmp_path):
    box = trimesh.creation.box((0.06, 0.06, 0.06))
    box.visual.face_colors = [255, 0, 0, 255]
    box.export(tmp_path / "box.ply")
    camera, spec = aid.Camera(a_K(48, 48), look_at([0.4, 0, 0.2]), 48, 48), aid.ActionImageSpec(height=48, width=48)
    still = aid.GripperTrajectory([[0, 0, 0.2]], [[0, 0, 0, 1]], [1.0], [0.0])
    pictures = mesh_backend.render(still, [camera], spec, tmp_path / "box.ply")
    seen = pictures.rgb[0, 0][pictures.part_ids[0, 0] == 1]
    assert len(seen) > 50
    assert (seen[:, 0] > 100).all()
    assert not seen[:, 1:].any()


def test_soft_silhouettes_fall_off_across_the_edge_as_stated():
    # One face, whose edge x = 0.25 crosses the picture: p = sigmoid(-d|d| / s^2), nothing from 3.04 s on.
    K = np.array([[40.0, 0, 20], [0, 40.0, 20], [0, 0, 1]])
    vertices = torch.tensor([[0.25, -9.0, 1.0], [0.25, 9.0, 1.0], [-9.0, 0.0, 1.0]], dtype=torch.float64)
    picture = mesh_backend.silhouette(
        vertices, torch.tensor([[0, 1, 2]]), torch.from_numpy(K), torch.eye(4, dtype=torch.float64), 40, 40, soft=2.0
    )
    d = np.arange(40) + 0.5 - 30
    expected = 1 / (1 + np.exp(np.clip(d * np.abs(d) / 4, -50, 50)))
    expected[d > 3.035 * 2] = 0
    np.testing.assert_allclose(picture[20].numpy(), expected, atol=2e-4)


def test_soft_rendering_keeps_depth_and_parts_of_the_hard_one():
    trajectory, camera, spec = a_trajectory(2), moving_camera(48, 60, 2), aid.ActionImageSpec(height=48, width=60)
    hard, soft = (mesh_backend.render(trajectory, [camera], spec, soft=s) for s in (0.0, 1.0))
    np.testing.assert_allclose(hard.depth, soft.depth, rtol=1e-5)
    assert (hard.part_ids == soft.part_ids).mean() > 0.9995
    assert ((soft.silhouette > 0) >= (hard.silhouette > 0)).all()
    assert set(np.unique(hard.silhouette)) == {0.0, 1.0}
    inside = cv2.erode(hard.silhouette[0, 0], np.ones((5, 5)))[None, None] > 0
    # On an edge between two faces each covers a half: 1 - 0.5 * 0.5.
    assert soft.silhouette[:, :1][inside].min() >= 0.75


def test_a_closed_mesh_has_the_same_silhouette_without_the_faces_seen_from_behind():
    model, faces, position, quaternion, openness, K, pose = a_scene()
    vertices = mesh_backend.pose_vertices(model, position, quaternion, openness)
    whole, front = (
        mesh_backend.silhouette(vertices, faces, K, pose, 30, 34, soft=0.0, cull_backfaces=cull)
        for cull in (False, True)
    )
    assert whole.sum() > 50
    assert torch.equal(whole, front)
    whole, front = (
        mesh_backend.silhouette(vertices, faces, K, pose, 30, 34, soft=1.0, faces_per_pixel=150, cull_backfaces=cull)
        for cull in (False, True)
    )
    assert (front <= whole + 1e-6).all()
    assert front.sum() < 0.95 * whole.sum()


# ---- gradients


def a_scene(dtype=torch.float64):
    model = gripper_model()
    trajectory = a_trajectory(2)
    tensors = [torch.tensor(x, dtype=dtype) for x in (trajectory.position, trajectory.quaternion_xyzw)]
    openness = torch.tensor(trajectory.openness * 0.8 + 0.1, dtype=dtype)
    K = torch.tensor(a_K(30, 34), dtype=dtype)
    pose = torch.tensor(look_at(np.array([0.5, 0.1, 0.4])), dtype=dtype)
    return model, torch.from_numpy(model.faces), *tensors, openness, K, pose


@pytest.mark.parametrize("what", ["position", "rotation", "openness", "K", "camera"])
def test_gradients_agree_with_finite_differences(what):
    model, faces, position, quaternion, openness, K, pose = a_scene()
    position, quaternion, openness = position[:1], quaternion[:1], openness[:1]
    weights = torch.linspace(-1, 1, 30 * 34).reshape(30, 34)
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss(x):
        axis = x * torch.tensor([0.3, -0.7, 0.6], dtype=torch.float64)
        turned = rotations.matrix_from_rotation_vector(axis)
        q = rotations.quaternion_multiply(rotations.quaternion_from_matrix(turned), quaternion)
        moved = transforms.make_transform(turned, axis)
        vertices = mesh_backend.pose_vertices(
            model,
            position + axis if what == "position" else position,
            q if what == "rotation" else quaternion,
            openness + x if what == "openness" else openness,
        )
        camera = moved @ pose if what == "camera" else pose
        intrinsics = K * torch.stack([1 + x, 1 + x, torch.ones_like(x)])[:, None] if what == "K" else K
        picture = mesh_backend.silhouette(vertices, faces, intrinsics, camera, 30, 34, soft=1.0, faces_per_pixel=150)
        assert picture.shape == (1, 30, 34)
        return (picture * weights).sum().double()

    (gradient,) = torch.autograd.grad(loss(zero), zero)
    step = 3e-3
    with torch.no_grad():
        numeric = (loss(zero + step) - loss(zero - step)) / (2 * step)
    assert abs(numeric) > 1
    assert gradient.item() == pytest.approx(numeric.item(), rel=0.03)


def test_depth_has_gradients():
    model, faces, position, quaternion, openness, K, pose = a_scene()
    position = position.requires_grad_()
    drawing = mesh_backend.draw(
        mesh_backend.pose_vertices(model, position, quaternion, openness),
        faces,
        K,
        pose,
        30,
        34,
        face_colors=torch.from_numpy(model.face_colors),
        face_parts=torch.from_numpy(model.face_parts),
    )
    hit = drawing.part_ids[0] > 0
    gradient = torch.autograd.grad(drawing.depth[0][hit].mean(), position)[0]
    # A surface that moves along the optical axis gets further away by as much.
    assert float(gradient[0] @ pose[:3, 2]) == pytest.approx(1, abs=0.05)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("eye", [(0.0, 0.0, 0.16), (0.03, 0.02, 0.3), (-0.2, 0.0, 3.0)])
def test_gradients_stay_finite_across_and_behind_the_camera(eye):
    model, faces, position, quaternion, openness, K, pose = a_scene()
    pose[:3, 3] = torch.tensor(eye)
    pose[:3, :3] = torch.tensor(Rotation.from_euler("xyz", [0.3, 0.1, 0.2]).as_matrix())
    leaves = [x.requires_grad_() for x in (position, quaternion, openness, K, pose)]
    vertices = mesh_backend.pose_vertices(model, position, quaternion, openness)
    drawing = mesh_backend.draw(
        vertices,
        faces,
        K,
        pose,
        24,
        26,
        soft=1.0,
        face_colors=torch.from_numpy(model.face_colors),
        face_parts=torch.from_numpy(model.face_parts),
    )
    depth = drawing.depth[drawing.part_ids > 0]
    (drawing.silhouette.sum() + drawing.rgb.sum() + depth.sum()).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_batch_shapes_broadcast():
    model, faces, position, quaternion, openness, K, pose = a_scene(torch.float32)
    vertices = mesh_backend.pose_vertices(model, position, quaternion, openness)
    poses = torch.stack([pose, pose @ torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])), pose])[:, None]
    picture = mesh_backend.silhouette(vertices[None], faces, K, poses, 20, 22)
    assert picture.shape == (3, 2, 20, 22)
    torch.testing.assert_close(picture[0, 1], mesh_backend.silhouette(vertices[1], faces, K, pose, 20, 22))


# ---- overlays


@pytest.mark.parametrize("supersample", [2, 3])
def test_overlay_frames_come_in_order_with_smooth_edges(supersample):
    trajectory, camera, spec = a_trajectory(5), moving_camera(50, 70, 5), aid.ActionImageSpec(height=50, width=70)
    frames = list(mesh_backend.render_overlay_frames(trajectory, camera, spec, supersample=supersample))
    assert len(frames) == 5
    hard = mesh_backend.render(trajectory, [camera], spec)
    for t, (rgb, alpha) in enumerate(frames):
        assert rgb.shape == (50, 70, 3)
        assert alpha.shape == (50, 70)
        assert rgb.dtype == alpha.dtype == np.uint8
        assert iou(alpha >= 128, hard.silhouette[0, t] > 0) > 0.95
        assert ((alpha > 0) & (alpha < 255)).any()
        inside = (alpha == 255) & (hard.silhouette[0, t] > 0)
        assert np.median(np.abs(rgb[inside].astype(int) - hard.rgb[0, t][inside])) <= 2


def test_overlay_of_frames_without_a_gripper_is_empty():
    camera = aid.Camera(a_K(32, 32), look_at([0.5, 0, 0.2], [1.5, 0, 0.2]), 32, 32)
    frames = list(mesh_backend.render_overlay_frames(a_trajectory(), camera, aid.ActionImageSpec(height=32, width=32)))
    assert len(frames) == 4
    assert not any(frame.alpha.any() for frame in frames)


def test_blending_mixes_by_alpha_and_opacity():
    picture = np.full((2, 2, 3), 100, np.uint8)
    overlay = mesh_backend.Overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    overlay.rgb[0] = [200, 0, 100]
    overlay.alpha[0] = 255
    np.testing.assert_array_equal(mesh_backend.blend_overlay(picture, overlay)[0, 0], [200, 0, 100])
    np.testing.assert_array_equal(mesh_backend.blend_overlay(picture, overlay, 0.5)[0, 0], [150, 50, 100])
    np.testing.assert_array_equal(mesh_backend.blend_overlay(picture, overlay)[1], picture[1])
    with pytest.raises(errors.InvalidArrayError, match="do not fit"):
        mesh_backend.blend_overlay(picture[:1], overlay)
    with pytest.raises(errors.InvalidSpecError, match="opacity"):
        mesh_backend.blend_overlay(picture, overlay, 1.5)


# ---- bad input


def bad_calls():
    model, faces, position, quaternion, openness, K, pose = a_scene()
    vertices = mesh_backend.pose_vertices(model, position, quaternion, openness)
    good = {"vertices": vertices, "faces": faces, "K": K, "world_from_camera": pose, "height": 8, "width": 9}
    nan = vertices.clone()
    nan[0, 3, 1] = torch.nan
    sheared = pose.clone()
    sheared[0, 1] += 0.01
    return {
        "dtypes": (good | {"K": K.float()}, errors.InvalidArrayError, "differs in dtype or device"),
        "devices": (good | {"K": K.to("meta")}, errors.InvalidArrayError, "differs in dtype or device"),
        "face device": (good | {"faces": faces.to("meta")}, errors.InvalidArrayError, "differs in device"),
        "integers": (good | {"vertices": vertices.long()}, errors.InvalidArrayError, "not a float tensor"),
        "numpy": (good | {"vertices": vertices.numpy()}, errors.InvalidArrayError, "not a float tensor"),
        "vertex shape": (good | {"vertices": vertices[..., :2]}, errors.InvalidArrayError, "wrong shape"),
        "pose shape": (good | {"world_from_camera": pose[:3]}, errors.InvalidArrayError, r"\(\.\.\., 4, 4\)"),
        "batches": (good | {"K": K.expand(5, 3, 3)}, errors.InvalidArrayError, "batch shapes"),
        "nan": (good | {"vertices": nan}, errors.InvalidArrayError, "vertices: has a value that is not finite"),
        "infinite K": (good | {"K": K / 0}, errors.InvalidArrayError, "K: has a value that is not finite"),
        "sheared": (good | {"world_from_camera": sheared}, errors.InvalidCameraError, "not a rotation"),
        "no faces": (good | {"faces": faces[:0]}, errors.InvalidArrayError, "no faces"),
        "lost vertex": (good | {"faces": faces + 9}, errors.InvalidArrayError, "does not exist"),
        "face dtype": (good | {"faces": faces.int()}, errors.InvalidArrayError, "int64"),
        "no height": (good | {"height": 0}, errors.InvalidCameraError, "height"),
        "no width": (good | {"width": 0}, errors.InvalidCameraError, "width"),
        "soft": (good | {"soft": -1.0}, errors.InvalidSpecError, "soft"),
        "near": (good | {"near": 0.0}, errors.InvalidSpecError, "near"),
        "faces per pixel": (good | {"faces_per_pixel": 0}, errors.InvalidSpecError, "faces_per_pixel"),
    }


@pytest.mark.parametrize("name", list(bad_calls()))
def test_bad_tensors_are_refused_by_name(name):
    call, error, text = bad_calls()[name]
    with pytest.raises(error, match=text):
        mesh_backend.silhouette(**call)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"soft": float("nan")}, errors.InvalidSpecError, "soft"),
        ({"faces_per_pixel": 1000}, errors.InvalidSpecError, "faces_per_pixel"),
        ({"device": "abacus"}, errors.InvalidSpecError, "no such device"),
        ({"max_samples": 0}, errors.InvalidSpecError, "max_samples"),
        ({"cameras": []}, errors.InvalidCameraError, "no camera"),
        ({"spec": aid.ActionImageSpec(height=9, width=9)}, errors.InvalidCameraError, "differ in picture size"),
        ({"cameras": [moving_camera(20, 20, 3)]}, errors.FrameCountError, "length"),
        ({"mesh": trimesh.Trimesh()}, errors.InvalidArrayError, "no faces"),
        ({"mesh": "gone.stl"}, errors.SourceNotFoundError, "gone.stl"),
    ],
)
def test_bad_options_of_render_are_refused_by_name(change, error, text):
    arguments = {
        "trajectory": a_trajectory(),
        "cameras": [moving_camera(20, 20)],
        "spec": aid.ActionImageSpec(height=20, width=20),
    }
    with pytest.raises(error, match=text):
        mesh_backend.render(**(arguments | change))


def test_unknown_openness_of_a_known_pose_is_refused():
    t = a_trajectory()
    odd = aid.GripperTrajectory(t.position, t.quaternion_xyzw, [0, np.nan, 0, 0], t.times, allow_missing=True)
    with pytest.raises(errors.InvalidTrajectoryError, match=r"openness\[1\]"):
        mesh_backend.render(odd, [moving_camera(20, 20)], aid.ActionImageSpec(height=20, width=20))


@pytest.mark.parametrize("blocked", ["torch", "pytorch3d"])
def test_without_pytorch3d_the_error_says_what_to_install(blocked):
    code = f"""
import sys
sys.modules[{blocked!r}] = None
import actionimg_data as aid, numpy as np
aid.mesh.parallel_jaw_gripper()
trajectory = aid.GripperTrajectory([[0, 0, 1]], [[0, 0, 0, 1]], [1.0], [0.0])
camera = aid.Camera(np.diag([10.0, 10, 1]), np.eye(4), 8, 8)
try:
    aid.mesh.render(trajectory, [camera], aid.ActionImageSpec(height=8, width=8))
except aid.ActionImgError as error:
    assert isinstance(error, ImportError) and error.code == "missing-extra", error
    assert "pip install torch==2.12.0 easypytorch3d==0.7.9.post1" in str(error), error
else:
    raise SystemExit("no error")
"""
    run_program([sys.executable, "-c", code])


def test_importing_the_mesh_module_imports_no_torch():
    code = "import sys, actionimg_data as aid; aid.mesh.load_mesh; assert 'torch' not in sys.modules"
    run_program([sys.executable, "-c", code])


def test_render_takes_the_gripper_at_one_openness_as_a_rigid_mesh():
    trajectory, camera, spec = a_trajectory(2), moving_camera(32, 32, 2), aid.ActionImageSpec(height=32, width=32)
    rigid = mesh_backend.render(trajectory, [camera], spec, parallel_jaw_gripper(0.0))
    shut = aid.GripperTrajectory(trajectory.position, trajectory.quaternion_xyzw, [0, 0], trajectory.times)
    moving = mesh_backend.render(shut, [camera], spec, GripperModel.from_trimesh(parallel_jaw_gripper(1.0)))
    np.testing.assert_array_equal(rigid.part_ids, mesh_backend.render(shut, [camera], spec).part_ids)
    assert (moving.part_ids != rigid.part_ids).any()


@pytest.mark.realdata
def test_the_mesh_covers_the_panda_hand_of_real_demos(sample_data):
    # The mask pictures of these two demos call the hand 35 and its fingers 31 and 34 (R + 256 G + 65536 B).
    converter = converter_class("rlbench")()
    for ref in converter.discover(str(sample_data / "rlbench")):
        episode = converter.read(ref)
        frames = np.arange(0, len(episode), 25)
        folder = sample_data / "rlbench/open_drawer/all_variations/episodes" / ref.id.rsplit("/", 1)[1]
        seen = covered = 0
        for view in ("front", "left_shoulder", "right_shoulder", "overhead"):
            pictures = [cv2.imread(str(folder / f"{view}_mask" / f"{t}.png"))[..., ::-1].astype(int) for t in frames]
            hand = np.isin(np.stack(pictures) @ [1, 256, 65536], (31, 34, 35))
            spec = aid.ActionImageSpec(height=128, width=128)
            drawn = mesh_backend.render(episode.trajectory[frames], [episode.views[view].camera[frames]], spec)
            seen += hand.sum()
            covered += (hand & (drawn.silhouette[0] > 0)).sum()
        assert seen > 1000
        assert covered / seen > 0.8
