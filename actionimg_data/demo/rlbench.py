"""Writes the tabletop scene as data sets: RLBench's raw demos, and the tree that the published training code reads."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError, OutputExistsError
from ..model import Camera, CameraTrack
from ..video.encode import encode_bytes, rgb_encoding
from . import scene

FPS: Final = 20.0
TASK: Final = "place_cube"
NEAR: Final = 0.01
FAR: Final = 3.5
VARIATIONS: Final = tuple(scene.COLOURS)[:2]
_MIRROR = np.diag([-1.0, -1.0, 1.0, 1.0])
_names_lock = threading.Lock()


def write_rlbench_dataset(
    dest: str | os.PathLike[str],
    episodes: int = 2,
    frames: int = 60,
    size: int = 128,
    cameras: Sequence[str] = scene.CAMERAS,
    layout: Literal["peract", "stepjam"] = "peract",
    seed: int = 0,
    *,
    task: str = TASK,
    protocol: int = 4,
    depth_and_masks: bool = False,
) -> Path:
    """Write demos laid out, named and pickled as RLBench does it; RLBench is not needed.

    The episodes take turns at two variations (the colour of the cube). The same arguments give the same files.

    Args:
        dest: Folder that will hold the task's folder.
        episodes: Number of demos.
        frames: Frames of each demo, at 20 Hz.
        size: Width and height of the pictures in pixels.
        cameras: Which of RLBench's five cameras.
        layout: PerAct's (``all_variations``, descriptions in the episode) or RLBench's own (``variationN``).
        seed: Of the first demo; the next has the next.
        task: Name of the task.
        protocol: Pickle protocol, 2 to 5.
        depth_and_masks: Write depth and mask pictures too, in RLBench's encodings; masks hold the ids of `scene`.

    Returns:
        ``dest``.

    Raises:
        OutputExistsError: ``dest`` already holds the task.
        InvalidSpecError: A number is not positive, or there is no such camera or layout.

    Example:
        >>> import tempfile
        >>> source = write_rlbench_dataset(tempfile.mkdtemp(), episodes=1, frames=4, size=32, cameras=("front",))
        >>> sorted(path.name for path in source.iterdir())
        ['place_cube']
    """
    root = _new_task(Path(dest), task, episodes)
    if layout not in ("peract", "stepjam"):
        raise InvalidSpecError("no such layout", field="layout", expected="peract | stepjam", found=layout)
    for k in range(episodes):
        variation, number = k % len(VARIATIONS), k // len(VARIATIONS)
        motion = scene.make_motion(frames, seed + k, VARIATIONS[variation])
        if layout == "peract":
            folder = root / "all_variations" / "episodes" / f"episode{k}"
            described = folder
        else:
            described = root / f"variation{variation}"
            folder = described / "episodes" / f"episode{number}"
        folder.mkdir(parents=True)
        if layout == "peract":
            (folder / "variation_number.pkl").write_bytes(pickle.dumps(variation, protocol))
        (described / "variation_descriptions.pkl").write_bytes(pickle.dumps(descriptions(motion.colour), protocol))
        # PerAct's demos carry a stale 0 here; the file beside them is right.
        stored = 0 if layout == "peract" else variation
        _write_demo(folder, motion, size, cameras, seed + k, stored, protocol, depth_and_masks)
    return Path(dest)


BIMANUAL_TASK: Final = "bimanual_lift_cubes"
BIMANUAL_CAMERAS: Final = (
    "front",
    "over_shoulder_left",
    "over_shoulder_right",
    "overhead",
    "wrist_left",
    "wrist_right",
)
"""The cameras of PerAct2's demos, by its names."""


def write_rlbench_bimanual(
    dest: str | os.PathLike[str],
    episodes: int = 2,
    frames: int = 60,
    size: int = 128,
    cameras: Sequence[str] = BIMANUAL_CAMERAS,
    seed: int = 0,
    *,
    task: str = BIMANUAL_TASK,
    protocol: int = 4,
    depth_and_masks: bool = False,
) -> Path:
    """Write demos of two arms as PerAct2's fork of RLBench does it: its classes, and pictures ``rgb_0000.png``.

    Args:
        dest: Folder that will hold the task's folder.
        episodes: Number of demos.
        frames: Frames of each demo, at 20 Hz.
        size: Width and height of the pictures in pixels.
        cameras: Which of `BIMANUAL_CAMERAS`.
        seed: Of the first demo; the next has the next.
        task: Name of the task.
        protocol: Pickle protocol, 2 to 5.
        depth_and_masks: Write depth and mask pictures too.

    Returns:
        ``dest``.

    Raises:
        OutputExistsError: ``dest`` already holds the task.
        InvalidSpecError: A number is not positive, or there is no such camera.
    """
    root = _new_task(Path(dest), task, episodes)
    for k in range(episodes):
        motions = scene.make_pair(frames, seed + k)
        folder = root / "all_variations" / "episodes" / f"episode{k}"
        folder.mkdir(parents=True)
        (folder / "variation_number.pkl").write_bytes(pickle.dumps(0, protocol))
        texts = ["lift both cubes", "pick up the two cubes at the same time and set them down again"]
        (folder / "variation_descriptions.pkl").write_bytes(pickle.dumps(texts, protocol))
        tracks = {name: _bimanual_camera(motions, name, size) for name in cameras}
        renderer = scene.SceneRenderer(motions, size)
        poses = {arm: _poses(motion) for arm, motion in motions.items()}
        observations = []
        for i in range(frames):
            arms = {arm: {**_arm(motion, poses[arm], i), "ignore_collisions": None} for arm, motion in motions.items()}
            misc = _pictures(folder, renderer, tracks, i, depth_and_masks, "{kind}_{i:04d}.png")
            observations.append({"perception_data": {}, "task_low_dim_state": None, "misc": misc, **arms})
        state = np.random.RandomState(seed + k).get_state()
        (folder / "low_dim_obs.pkl").write_bytes(pickle_demo(observations, state, 0, protocol))
    return Path(dest)


def _bimanual_camera(motions: Mapping[str, scene.DemoMotion], name: str, size: int) -> Camera | CameraTrack:
    """A camera of a demo of two arms; what PerAct2 calls over_shoulder_left is the scene's left_shoulder."""
    if name not in BIMANUAL_CAMERAS:
        raise InvalidSpecError("no such camera", field="cameras", expected=" | ".join(BIMANUAL_CAMERAS), found=name)
    plain, _, side = name.rpartition("_")
    own = {"wrist": "wrist", "over_shoulder": f"{side}_shoulder"}.get(plain, name)
    motion = motions[side if plain == "wrist" else "right"]
    return scene.make_cameras(motion, size, [own])[own]


def write_action_images_tree(
    dest: str | os.PathLike[str],
    episodes: int = 2,
    frames: int = 60,
    size: int = 128,
    views: Sequence[str] = ("front", "left_shoulder"),
    ratio: int = 4,
    seed: int = 0,
    *,
    task: str = TASK,
) -> Path:
    """Write the processed tree that the published training code reads: ``DEST/rlbench/TASK/variationN/…``.

    Args:
        dest: Folder that will hold ``rlbench``.
        episodes: Number of demos.
        frames: Poses of each demo, at 20 Hz.
        size: Width and height of the videos in pixels (even).
        views: Cameras, as ``view0``, ``view1``, ….
        ratio: Poses for each frame of video; picture j shows pose ``ratio * j``.
        seed: Of the first demo; the next has the next.
        task: Name of the task.

    Returns:
        ``dest``.

    Raises:
        OutputExistsError: ``dest`` already holds the task.
        InvalidSpecError: A number is not positive, or there is no such camera.

    Example:
        >>> import tempfile
        >>> source = write_action_images_tree(tempfile.mkdtemp(), episodes=1, frames=9, size=32, views=("front",))
        >>> sorted(path.name for path in source.glob("rlbench/place_cube/*/episodes/episode0/*"))
        ['actions.npy', 'view0']
    """
    root = _new_task(Path(dest) / "rlbench", task, episodes)
    if ratio < 1:
        raise InvalidSpecError("must be positive", field="ratio", expected=">= 1", found=ratio)
    for k in range(episodes):
        variation, number = k % len(VARIATIONS), k // len(VARIATIONS)
        motion = scene.make_motion(frames, seed + k, VARIATIONS[variation])
        described = root / f"variation{variation}"
        folder = described / "episodes" / f"episode{number}"
        folder.mkdir(parents=True)
        (described / "variation_descriptions.pkl").write_bytes(pickle.dumps(descriptions(motion.colour), 4))
        np.save(folder / "actions.npy", np.concatenate([_poses(motion), motion.gripper_open[:, None]], axis=1))
        shown = range(0, frames, ratio)
        renderer = scene.SceneRenderer(motion, size)
        for j, (_, camera) in enumerate(scene.make_cameras(motion, size, views).items()):
            view = folder / f"view{j}"
            (view / "rgb").mkdir(parents=True)
            pictures = (renderer.draw(_at(camera, i), i).rgb for i in shown)
            data = encode_bytes(pictures, rgb_encoding(), FPS / ratio, size, size)
            (view / "rgb" / "video.mp4").write_bytes(data)
            params = {}
            for n, i in enumerate(shown):
                K, pose = coppelia_camera(_at(camera, i))
                params[f"{n:04d}"] = {"intrinsics": K.tolist(), "extrinsics": pose.tolist()}
            (view / "camera_params.json").write_text(json.dumps(params))
    return Path(dest)


def descriptions(colour: str) -> list[str]:
    """The three sentences of a variation."""
    return [
        f"put the {colour} cube on the green mat",
        f"pick up the {colour} cube and place it on the mat",
        f"move the {colour} block onto the green square",
    ]


def coppelia_camera(camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intrinsics and camera-to-world as CoppeliaSim states them: x left, y up, negative focal lengths."""
    return camera.K @ np.diag([-1.0, -1.0, 1.0]), camera.world_from_camera @ _MIRROR


def _new_task(root: Path, task: str, episodes: int) -> Path:
    if episodes < 1:
        raise InvalidSpecError("must be positive", field="episodes", expected=">= 1", found=episodes)
    if (root / task).exists():
        raise OutputExistsError("is there already", where=root / task)
    return root / task


def _at(camera: Camera | CameraTrack, frame: int) -> Camera:
    return camera[frame] if isinstance(camera, CameraTrack) else camera


def _poses(motion: scene.DemoMotion) -> NDArray[np.float64]:
    """``(T, 7)``: x y z qx qy qz qw. RLBench's quaternions jump in sign; w >= 0 here does so too."""
    from ..geometry import rotations

    quaternion = rotations.quaternion_from_matrix(motion.world_from_gripper[:, :3, :3])
    quaternion = quaternion * np.where(quaternion[:, 3:] < 0, -1.0, 1.0)
    return np.concatenate([motion.world_from_gripper[:, :3, 3], quaternion], axis=1)


def _write_demo(
    folder: Path,
    motion: scene.DemoMotion,
    size: int,
    cameras: Sequence[str],
    seed: int,
    variation: int,
    protocol: int,
    depth_and_masks: bool,
) -> None:
    tracks = scene.make_cameras(motion, size, cameras)
    renderer = scene.SceneRenderer(motion, size)
    poses = _poses(motion)
    observations = []
    for i in range(len(motion)):
        misc = _pictures(folder, renderer, tracks, i, depth_and_masks, "{i}.png")
        observations.append(
            {
                **{f"{c}_{k}": None for c in scene.CAMERAS for k in ("rgb", "depth", "mask", "point_cloud")},
                **_arm(motion, poses, i),
                "task_low_dim_state": np.concatenate([motion.world_from_cube[i, :3, 3], motion.mat]),
                "ignore_collisions": np.array(0.0),
                "misc": misc,
            }
        )
    state = np.random.RandomState(seed).get_state()
    (folder / "low_dim_obs.pkl").write_bytes(pickle_demo(observations, state, variation, protocol))


def _arm(motion: scene.DemoMotion, poses: NDArray[np.float64], i: int) -> dict[str, Any]:
    """What an observation says of an arm."""
    return {
        "joint_velocities": None,
        "joint_positions": None,
        "joint_forces": None,
        "gripper_open": float(motion.gripper_open[i]),
        "gripper_pose": poses[i].copy(),
        "gripper_matrix": motion.world_from_gripper[i].copy(),
        "gripper_joint_positions": np.full(2, motion.jaw[i] * 0.04),
        "gripper_touch_forces": None,
    }


def _pictures(
    folder: Path,
    renderer: scene.SceneRenderer,
    tracks: Mapping[str, Camera | CameraTrack],
    i: int,
    depth_and_masks: bool,
    name: str,
) -> dict[str, Any]:
    """Write the pictures of one frame into ``CAMERA_KIND``; returns what its observation says of the cameras."""
    misc: dict[str, Any] = {}
    for view, track in tracks.items():
        camera = _at(track, i)
        picture = renderer.draw(camera, i)
        pictures = {"rgb": picture.rgb}
        if depth_and_masks:
            handle = np.zeros_like(picture.rgb)
            handle[..., 0] = picture.ids
            pictures |= {"depth": _encode_depth(picture.depth), "mask": handle}
        for kind, array in pictures.items():
            target = folder / f"{view}_{kind}"
            target.mkdir(exist_ok=True)
            _write_png(target / name.format(kind=kind, i=i), array)
        K, pose = coppelia_camera(camera)
        misc[f"{view}_camera_extrinsics"] = pose
        misc[f"{view}_camera_intrinsics"] = K
        misc[f"{view}_camera_near"] = NEAR
        misc[f"{view}_camera_far"] = FAR
    return misc


def pickle_demo(
    observations: Sequence[Mapping[str, Any]], random_seed: Any, variation: int, protocol: int = 4
) -> bytes:
    """The bytes of a ``low_dim_obs.pkl`` whose observations have these attributes.

    Those with ``right`` and ``left`` (mappings of their attributes, or None) become PerAct2's bimanual ones.
    """
    with _rlbench_classes() as classes:
        demo = classes["Demo"]()
        demo._observations = []

        def made(kind: str, attributes: Mapping[str, Any]) -> Any:
            instance = classes[kind]()
            instance.__dict__.update(attributes)
            return instance

        for attributes in observations:
            arms = {
                arm: None if attributes[arm] is None else made("UnimodalObservationData", attributes[arm])
                for arm in ("right", "left")
                if arm in attributes
            }
            demo._observations.append(made("BimanualObservation" if arms else "Observation", {**attributes, **arms}))
        demo.random_seed = random_seed
        demo.variation_number = variation
        return pickle.dumps(demo, protocol)


@contextlib.contextmanager
def _rlbench_classes() -> Iterator[dict[str, type[Any]]]:
    """Stand-ins that pickle under RLBench's own names: pickle looks a class up in the module it says it is from."""
    modules = {name: types.ModuleType(name) for name in ("rlbench", "rlbench.demo", "rlbench.backend")}
    modules["rlbench.backend.observation"] = types.ModuleType("rlbench.backend.observation")
    classes: dict[str, type[Any]] = {}
    for kind, place in (
        ("Demo", "rlbench.demo"),
        ("Observation", "rlbench.backend.observation"),
        ("BimanualObservation", "rlbench.backend.observation"),
        ("UnimodalObservationData", "rlbench.backend.observation"),
    ):
        classes[kind] = type(kind, (), {"__module__": place})
        setattr(modules[place], kind, classes[kind])
    with _names_lock:
        before = {name: sys.modules.get(name) for name in modules}
        sys.modules.update(modules)
        try:
            yield classes
        finally:
            for name, module in before.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module


def _encode_depth(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RLBench's depth picture: ``(d - near) / (far - near)`` as 24 bits over R, G, B."""
    unit = np.clip((depth.astype(np.float64) - NEAR) / (FAR - NEAR), 0, 1)
    whole = np.rint(unit * (2**24 - 1)).astype(np.uint32)
    return np.stack([whole >> 16 & 255, whole >> 8 & 255, whole & 255], axis=-1).astype(np.uint8)


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    ok, data = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    if not ok:
        raise OSError(f"{path}: OpenCV cannot encode this picture")
    path.write_bytes(data.tobytes())
