"""A converter for data with one ``.npz`` a step, as CALVIN and many of its kind are laid out.

::

    DATA/scene.json                    {"hz": 30, "camera": {"eye": [x, y, z], "target": [x, y, z], "fov_deg": 40}}
    DATA/step_0000000.npz, …           rgb (H, W, 3) uint8; tcp (6,) metres and Euler angles; width (), metres
    DATA/annotations.npy               {"text": [...], "span": [(first, last), ...]}, pickled
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data import Camera, Episode, EpisodeRef, GripperTrajectory, View
from actionimg_data.converters import Converter, Detection
from actionimg_data.converters.kit import file_stamp, files_with_sizes, plain_id, source_folder
from actionimg_data.errors import BadFileError, SourceNotFoundError, WrongFormatError
from actionimg_data.geometry import rotations, transforms
from actionimg_data.untrusted.arrays import load_npz, load_objects
from actionimg_data.untrusted.text import load_json

MAX_WIDTH_M = 0.08  # of the open gripper
# The simulator's tool frame has the fingers opening along x: a quarter turn about z makes it the canonical one.
TOOL_FROM_GRIPPER = transforms.make_transform(rotations.matrix_from_euler(np.array([0, 0, np.pi / 2])), np.zeros(3))


class StepPictures:
    """The pictures of the steps: a frame source that opens a file when its picture is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.height, self.width = load_step(paths[0])["rgb"].shape[:2]

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """RGB pictures ``(H, W, 3)`` uint8, one at a time."""
        for i in indices:
            picture = load_step(self.paths[i])["rgb"]
            if picture.shape != (self.height, self.width, 3) or picture.dtype != np.uint8:
                raise BadFileError("is no picture of the others' size", where=self.paths[i], found=picture.shape)
            yield picture


def load_step(path: Path) -> dict[str, Any]:
    """The arrays of one step."""
    step = load_npz(path, path)
    lacking = {"rgb", "tcp", "width"} - set(step)
    if lacking:
        raise WrongFormatError("lacks arrays", where=path, expected="rgb, tcp, width", found=", ".join(step))
    return step


def load_scene(path: Path) -> tuple[float, Any, Any, float]:
    """Rate, place of the camera, what it looks at, and its vertical field of view."""
    scene = load_json(path)
    try:
        camera = scene["camera"]
        return float(scene["hz"]), camera["eye"], camera["target"], float(camera["fov_deg"])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongFormatError("is no such scene", where=path, found=repr(error)) from None


class NpzStepsConverter(Converter):
    """One ``.npz`` a step, and one file that says which steps are a demonstration of what."""

    name = "npz-steps"
    summary = "one .npz a step, with annotated spans of them"

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """By the name of the file that every such source has."""
        found = (Path(source) / "annotations.npy").is_file()
        return Detection("npz-steps", "annotations.npy") if found else None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """A reference for each annotated span, in the order of the file."""
        root = source_folder(source)
        if not (root / "annotations.npy").is_file():
            raise WrongFormatError("holds no annotations.npy", where=root)
        told = load_objects(root / "annotations.npy")
        try:
            spans = [(str(text), int(a), int(b)) for text, (a, b) in zip(told["text"], told["span"], strict=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise WrongFormatError("is no list of spans", where=root / "annotations.npy", found=error) from None
        sizes = dict(files_with_sizes(root))
        scene = file_stamp(root / "scene.json") if "scene.json" in sizes else ""
        for number, (text, first, last) in enumerate(spans):
            steps = [f"step_{i:07d}.npz" for i in range(first, last + 1)]
            state = f"{text} {scene} {[sizes.get(name) for name in steps]}"
            yield EpisodeRef(
                plain_id(f"{root.name}/span{number}"),
                {"source": str(root), "first": first, "last": last, "text": text},
                num_frames=len(steps),
                fingerprint=hashlib.sha256(state.encode()).hexdigest()[:16],
            )

    def read(self, ref: EpisodeRef) -> Episode:
        """The steps of one span; of each file the pose now, and its picture when it is asked for."""
        at = ref.location
        root = Path(at["source"])
        paths = [root / f"step_{i:07d}.npz" for i in range(at["first"], at["last"] + 1)]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise SourceNotFoundError("a step is missing", where=missing)
        hz, eye, target, fov_deg = load_scene(root / "scene.json")
        tcp, width = [], []
        for path in paths:
            step = load_step(path)
            tcp.append(step["tcp"])
            width.append(float(step["width"]))
        pose = np.array(tcp, dtype=float)
        world_from_tool = transforms.make_transform(rotations.matrix_from_euler(pose[:, 3:]), pose[:, :3])
        trajectory = GripperTrajectory.from_transforms(
            world_from_tool @ TOOL_FROM_GRIPPER, np.array(width) / MAX_WIDTH_M, np.arange(len(paths)) / hz
        )
        pictures = StepPictures(paths)
        camera = Camera.looking_at(eye, target, pictures.width, pictures.height, vertical_fov_deg=fov_deg)
        views = {"static": View(camera, pictures)}
        return Episode(ref.id, views, trajectory, fps=hz, instructions=(at["text"],), provenance={"source": root.name})
