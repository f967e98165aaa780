"""A small writer of RLDS data sets in TFDS' own format, for tests, benchmarks and the demo; no TensorFlow.

What it writes, TFDS reads: ``features.json``, ``dataset_info.json`` and files of ``tf.train.Example`` records are laid
out as by TFDS' features/*.py, example_serializer.py and writer.py. Only what RLDS data sets use is supported.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml

from ..cameras.published import published
from ..converters.rlds import features as F
from ..converters.rlds.crc32c import masked_crc32c
from ..errors import InvalidArrayError, UnsupportedSourceError
from ..geometry import rotations, transforms
from ..model import Camera
from . import scene

_CORE = "tensorflow_datasets.core.features"
_CLASSES = {
    "group": f"{_CORE}.features_dict.FeaturesDict",
    "sequence": f"{_CORE}.sequence_feature.Sequence",
    "steps": f"{_CORE}.dataset_feature.Dataset",
    "tensor": f"{_CORE}.tensor_feature.Tensor",
    "scalar": f"{_CORE}.scalar.Scalar",
    "text": f"{_CORE}.text_feature.Text",
    "image": f"{_CORE}.image_feature.Image",
}

# -- features --------------------------------------------------------------------------------------------------------


def tensor(shape: Sequence[int | None] = (), dtype: str = "float32", encoding: str = "none", doc: str = "") -> F.Leaf:
    """A tensor; ``encoding`` is "none", "bytes" or "zlib"."""
    python_class = _CLASSES["tensor"] if shape else _CLASSES["scalar"]
    return F.Leaf("tensor", tuple(shape), dtype, encoding=encoding, description=doc, python_class=python_class)


def text(doc: str = "") -> F.Leaf:
    """A text."""
    return F.Leaf("text", (), "str", description=doc, python_class=_CLASSES["text"])


def image(shape: Sequence[int | None], dtype: str = "uint8", encoding: str = "jpeg", doc: str = "") -> F.Leaf:
    """A picture ``(height, width, channels)``, stored as "jpeg" or "png"."""
    return F.Leaf("image", tuple(shape), dtype, image_format=encoding, description=doc, python_class=_CLASSES["image"])


def sequence(feature: F.Node | Mapping[str, Any], length: int | None = None) -> F.Sequence:
    """A list of values."""
    return F.Sequence(group(feature) if isinstance(feature, Mapping) else feature, length)


def group(children: Mapping[str, Any]) -> F.Group:
    """A dict of features; nested dicts are taken as such."""
    return F.Group({k: group(v) if isinstance(v, Mapping) else v for k, v in children.items()})


def episode_features(step: Mapping[str, Any], **episode: Any) -> F.Group:
    """The features of RLDS episodes: ``steps`` with the usual flags, and features of the episode."""
    flags = {"is_first": tensor(dtype="bool"), "is_last": tensor(dtype="bool"), "is_terminal": tensor(dtype="bool")}
    steps = F.Sequence(group({**step, **flags}), None, is_steps=True)
    return group({"steps": steps, **episode})


def flags(count: int) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The flags of an episode of ``count`` steps that ends well."""
    index = np.arange(count)
    return {"is_first": index == 0, "is_last": index == count - 1, "is_terminal": index == count - 1}


def features_json(node: F.Node) -> dict[str, Any]:
    """A feature as TFDS writes it to ``features.json``."""
    out: dict[str, Any] = {}
    if isinstance(node, F.Group):
        children = {k: features_json(v) for k, v in node.children.items()}
        out = {"pythonClassName": _CLASSES["group"], "featuresDict": {"features": children}}
    elif isinstance(node, F.Sequence):
        length = "-1" if node.length is None else str(node.length)
        kind = "steps" if node.is_steps else "sequence"
        out = {
            "pythonClassName": _CLASSES[kind],
            "sequence": {"feature": features_json(node.child), "length": length},
        }
    elif node.kind == "text":
        out = {"pythonClassName": _CLASSES["text"], "text": {}}
    elif node.kind == "image":
        body = {"shape": _shape_json(node.shape), "dtype": node.dtype}
        if node.image_format:
            body["encodingFormat"] = node.image_format
        out = {"pythonClassName": _CLASSES["image"], "image": body}
    else:
        dtype = "string" if node.dtype == "str" else node.dtype
        body = {"shape": _shape_json(node.shape), "dtype": dtype, "encoding": node.encoding}
        out = {"pythonClassName": node.python_class or _CLASSES["tensor"], "tensor": body}
    if node.description:
        out["description"] = node.description
    return out


def _shape_json(shape: F.Shape) -> Any:
    return {"dimensions": ["-1" if n is None else str(n) for n in shape]} if shape else {}


# -- tf.train.Example ------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A protobuf varint of a number from -2^63 to 2^64 - 1."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, body: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def bytes_list(values: Sequence[bytes]) -> bytes:
    """A ``tf.train.Feature`` of byte strings."""
    return field(1, b"".join(field(1, v) for v in values))


def float_list(values: Any) -> bytes:
    """A ``tf.train.Feature`` of float32, packed."""
    body = np.ascontiguousarray(values, "<f4").tobytes()
    return field(2, field(1, body) if body else b"")


def int64_list(values: Any) -> bytes:
    """A ``tf.train.Feature`` of int64, packed."""
    body = b"".join(varint(int(v)) for v in np.asarray(values).ravel())
    return field(3, field(1, body) if body else b"")


def example(columns: Mapping[str, bytes]) -> bytes:
    """A serialised ``tf.train.Example`` of serialised ``tf.train.Feature`` by key."""
    entries = (field(1, field(1, key.encode()) + field(2, feature)) for key, feature in columns.items())
    return field(1, b"".join(entries))


def encode_picture(picture: Any, leaf: F.Leaf, quality: int = 95) -> bytes:
    """An encoded picture; bytes are taken as they are."""
    if isinstance(picture, bytes):
        return picture
    array = np.ascontiguousarray(picture, leaf.dtype)
    if leaf.dtype == "float32":
        # TFDS stores a float picture as an RGBA PNG of the floats' bytes (image_feature.py).
        array = array.view(np.uint8)
    swapped = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[array.shape[2]]
    bgr = array if swapped is None else cv2.cvtColor(array, swapped)
    arguments = [cv2.IMWRITE_JPEG_QUALITY, quality] if leaf.image_format == "jpeg" else []
    ok, data = cv2.imencode(".jpg" if leaf.image_format == "jpeg" else ".png", bgr, arguments)
    if not ok:
        raise InvalidArrayError("cannot be encoded as a picture", expected=leaf.text(), found=array.shape)
    return data.tobytes()


def encode_episode(node: F.Group, episode: Mapping[str, Any]) -> bytes:
    """An episode as the ``tf.train.Example`` that TFDS would write.

    Args:
        node: Its features.
        episode: Nested dicts shaped like the features; leaves in sequences are arrays or lists over the sequence.
    """
    columns: dict[str, bytes] = {}
    for stored in F.flatten(node):
        value: Any = episode
        for name in stored.place:
            value = value[name]
        columns.update(_encode(stored, value))
    return example(columns)


def _encode(stored: F.Stored, value: Any) -> dict[str, bytes]:
    depth = len(stored.sequences)
    if depth < 2:
        return _column(stored.key, stored.leaf, [value] if depth == 0 else list(value))
    # Nested sequences: the values one after the other, and the lengths of the inner ones, level by level.
    columns = {}
    rows = list(value)
    for level in range(depth - 1):
        columns[f"{stored.key}/ragged_row_lengths_{level}"] = int64_list([len(r) for r in rows])
        rows = [item for row in rows for item in row]
    return {**columns, **_column(f"{stored.key}/ragged_flat_values", stored.leaf, rows)}


def _column(key: str, leaf: F.Leaf, values: list[Any]) -> dict[str, bytes]:
    if leaf.kind == "image":
        return {key: bytes_list([encode_picture(v, leaf) for v in values])}
    if leaf.dtype == "str":
        flat = [str(s).encode() for v in values for s in np.asarray(v, dtype=object).ravel()]
        return {key: bytes_list(flat)}
    arrays = [np.asarray(v, leaf.dtype) for v in values]
    if leaf.encoding != "none":
        raw = [a.tobytes() for a in arrays]
        blobs = {key: bytes_list([zlib.compress(r) for r in raw] if leaf.encoding == "zlib" else raw)}
        if not leaf.dynamic:
            return blobs
        shapes = [n for a in arrays for n in a.shape]
        return {f"{key}/value": blobs[key], f"{key}/shape": int64_list(shapes)}
    if leaf.dynamic:
        raise UnsupportedSourceError("several unknown dimensions need an encoding", field=key, found=leaf.text())
    numbers = np.concatenate([a.ravel() for a in arrays]) if arrays else np.zeros(0, leaf.dtype)
    return {key: float_list(numbers) if numbers.dtype.kind == "f" else int64_list(numbers)}


# -- files -----------------------------------------------------------------------------------------------------------


def tfrecord(records: Sequence[bytes]) -> bytes:
    """A TFRecord file's bytes."""
    out = []
    for data in records:
        length = struct.pack("<Q", len(data))
        out += [length, _crc(length), data, _crc(data)]
    return b"".join(out)


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(np.frombuffer(data, np.uint8)))


def write_records(path: Path, records: Sequence[bytes], file_format: str) -> None:
    """A file of records: "tfrecord", "array_record" or "parquet"."""
    if file_format == "tfrecord":
        path.write_bytes(tfrecord(records))
    elif file_format == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")
        for data in records:
            writer.write(data)
        writer.close()
    elif file_format == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"data": pa.array(list(records), pa.binary())}), path, row_group_size=4)
    else:
        raise UnsupportedSourceError("no such file format", found=file_format)


def write_rlds(
    dest: Path,
    name: str,
    node: F.Group,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    version: str = "1.0.0",
    file_format: str = "tfrecord",
    episodes_per_shard: int = 8,
) -> Path:
    """Write an RLDS data set; gives the version's folder, ``dest/NAME/VERSION``.

    Args:
        dest: Folder of data sets.
        name: Of the data set.
        node: Features of an episode, see `episode_features`.
        splits: Episodes of each split; taken one at a time, so any sequence that makes them when asked will do.
        version: Of the data set.
        file_format: "tfrecord", "array_record" or "parquet".
        episodes_per_shard: Episodes in a file.
    """
    folder = dest / name / version
    folder.mkdir(parents=True)
    listed = []
    for split, episodes in splits.items():
        starts = range(0, len(episodes), episodes_per_shard)
        lengths, size = [], 0
        for number, start in enumerate(starts):
            stop = min(start + episodes_per_shard, len(episodes))
            records = [encode_episode(node, episodes[i]) for i in range(start, stop)]
            file = folder / f"{name}-{split}.{file_format}-{number:05d}-of-{len(starts):05d}"
            write_records(file, records, file_format)
            lengths.append(str(len(records)))
            size += sum(map(len, records))
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        listed.append({"filepathTemplate": template, "name": split, "numBytes": str(size), "shardLengths": lengths})
    info = {"fileFormat": file_format, "moduleName": "__main__", "name": name, "splits": listed, "version": version}
    (folder / "features.json").write_text(json.dumps(features_json(node), indent=4))
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


# -- the demo --------------------------------------------------------------------------------------------------------

DEMO_NAME = "tabletop_demo"
DEMO_FPS = 20.0
DEMO_CAMERAS = ("front", "right_shoulder", "wrist")
# What the demo's robot reports is its flange: 0.12 m behind the fingertips, turned by 45 degrees about the approach.
_TURN = np.sqrt(0.5)
DEMO_TOOL_FROM_GRIPPER = np.array([[_TURN, -_TURN, 0, 0], [_TURN, _TURN, 0, 0], [0, 0, 1, 0.12], [0, 0, 0, 1.0]])


def demo_features(size: int, cameras: Sequence[str] = DEMO_CAMERAS) -> F.Group:
    """Features of the demo's episodes: pictures, poses, closedness and, as ManiSkill's RLDS has them, cameras."""
    observation: dict[str, Any] = {
        "ee_pose": tensor((7,), doc="flange in the world: x y z qw qx qy qz"),
        "gripper_closedness": tensor((1,), doc="1 is closed"),
    }
    for name in cameras:
        observation[f"{name}_rgb"] = image((size, size, 3), encoding="jpeg")
        observation[f"{name}_intrinsics"] = tensor((3, 3))
        observation[f"{name}_camera_from_world"] = tensor((4, 4), doc="OpenCV axes")
    step = {
        "observation": observation,
        "action": tensor((7,)),
        "language_instruction": text(),
        "reward": tensor(),
        "discount": tensor(),
    }
    return episode_features(step, episode_metadata={"file_path": text(), "episode_id": tensor(dtype="int64")})


class _DemoEpisodes(Sequence[Mapping[str, Any]]):
    """Demo episodes, drawn when asked for."""

    def __init__(self, episodes: int, frames: int, size: int, cameras: Sequence[str], seed: int) -> None:
        self.episodes, self.frames, self.size, self.cameras, self.seed = episodes, frames, size, cameras, seed

    def __len__(self) -> int:
        return self.episodes

    def __getitem__(self, index: Any) -> Any:
        colour = tuple(scene.COLOURS)[index % len(scene.COLOURS)]
        motion = scene.make_motion(self.frames, self.seed + index, colour)
        tool = motion.world_from_gripper @ transforms.invert(DEMO_TOOL_FROM_GRIPPER)
        xyzw = rotations.make_sign_continuous(rotations.quaternion_from_matrix(tool[:, :3, :3]))
        pose = np.concatenate([tool[:, :3, 3], xyzw[:, [3, 0, 1, 2]]], axis=1)
        observation: dict[str, Any] = {"ee_pose": pose, "gripper_closedness": 1 - motion.gripper_open[:, None]}
        renderer = scene.SceneRenderer(motion, self.size)
        for name, camera in scene.make_cameras(motion, self.size, self.cameras).items():
            track = camera.track(self.frames)
            observation[f"{name}_rgb"] = [renderer.draw(track[t], t).rgb for t in range(self.frames)]
            observation[f"{name}_intrinsics"] = track.K
            observation[f"{name}_camera_from_world"] = transforms.invert(track.world_from_camera)
        change = np.diff(pose[:, :3], axis=0, append=pose[-1:, :3])
        turn = np.zeros((self.frames, 3))
        steps = {
            "observation": observation,
            "action": np.concatenate([change, turn, 1 - motion.gripper_open[:, None]], axis=1),
            "language_instruction": [f"put the {motion.colour} cube on the green mat"] * self.frames,
            "reward": np.arange(self.frames) == self.frames - 1,
            "discount": np.ones(self.frames),
            **flags(self.frames),
        }
        metadata = {"file_path": f"demo/episode_{index}", "episode_id": index}
        return {"steps": steps, "episode_metadata": metadata}


def demo_entry(cameras: Sequence[str] = DEMO_CAMERAS) -> dict[str, Any]:
    """The registry entry of the demo, as a user writes one for a data set of their own (``--config``)."""
    return {
        "names": [DEMO_NAME],
        "robot": "a made-up arm with a parallel gripper",
        "views": {name: {"image": f"observation/{name}_rgb"} for name in cameras},
        "pose": {
            "position": {"columns": ["observation/ee_pose[0:3]"], "unit": "m"},
            "rotation": {"columns": ["observation/ee_pose[3:7]"], "form": "quaternion", "order": "wxyz"},
            "frame": "world",
        },
        "gripper": {"columns": ["observation/gripper_closedness"], "kind": "absolute", "closed": 1, "open": 0},
        "instruction": {"keys": ["language_instruction"]},
        "fps": DEMO_FPS,
        "tool_from_gripper": DEMO_TOOL_FROM_GRIPPER.tolist(),
        "calibration": {
            "kind": "features",
            "cameras": {
                name: {
                    "K": f"observation/{name}_intrinsics",
                    "camera_from_world": f"observation/{name}_camera_from_world",
                }
                for name in cameras
            },
        },
    }


def write_rlds_demo(
    dest: Path,
    *,
    episodes: int = 2,
    frames: int = 60,
    size: int = 128,
    seed: int = 0,
    cameras: Sequence[str] = DEMO_CAMERAS,
    file_format: str = "tfrecord",
    name: str = DEMO_NAME,
) -> tuple[Path, str, dict[str, Any]]:
    """Write the tabletop scene as a calibrated RLDS data set, with the registry entry that it needs.

    Args:
        dest: Folder that will hold the data set and its entry, ``NAME.yaml``.
        episodes: Number of episodes.
        frames: Steps of each, at 20 Hz.
        size: Width and height of the pictures in pixels.
        seed: Of the first episode; the next has the next.
        cameras: Which of the scene's cameras.
        file_format: "tfrecord", "array_record" or "parquet".
        name: Of the data set, and of the entry.

    Returns:
        The version's folder, the converter's name ("rlds"), and the converter's options.
    """
    drawn = _DemoEpisodes(episodes, frames, size, cameras, seed)
    folder = write_rlds(dest, name, demo_features(size, cameras), {"train": drawn}, file_format=file_format)
    config = dest / f"{name}.yaml"
    config.write_text(yaml.safe_dump({**demo_entry(cameras), "names": [name]}, sort_keys=False))
    return folder, "rlds", {"config": str(config)}


LIBERO_FROM_DEMO: Final = np.array(
    [[1.0, 0, 0, -0.35], [0, 1, 0, 0], [0, 0, 1, 0.9 - scene.TABLE_HEIGHT], [0, 0, 0, 1]]
)
"""Puts the demo's table where LIBERO's stands in its world."""


def write_libero_demo(folder: Path, episodes: int = 1, frames: int = 24, size: int = 128, seed: int = 0) -> Path:
    """A LIBERO-shaped data set whose pictures are drawn through the camera that LIBERO publishes for its table.

    Pictures, states and actions are stored as the RLDS copies of LIBERO have them (the registry's entry ``libero``);
    there is no calibration in it.

    Args:
        folder: Where the data set's folder will be.
        episodes: How many.
        frames: Of each.
        size: Width and height of the pictures.
        seed: Of the motions.

    Returns:
        The version's folder.
    """
    known = published()["libero"].cameras["tabletop"].calibrated("published")
    pose = transforms.invert(LIBERO_FROM_DEMO) @ np.asarray(known.world_from_camera)
    scale = size / known.width
    camera = Camera(np.diag([scale, scale, 1.0]) @ known.K, pose, size, size)
    images = {name: image((size, size, 3), encoding="png") for name in ("image", "wrist_image")}
    step = {"observation": {**images, "state": tensor((8,))}, "action": tensor((7,)), "language_instruction": text()}
    made = []
    for number in range(episodes):
        motion = scene.make_motion(frames, seed + number)
        renderer = scene.SceneRenderer(motion, size)
        reported = LIBERO_FROM_DEMO @ motion.world_from_gripper
        turn = rotations.rotation_vector_from_matrix(reported[:, :3, :3])
        # Two finger joints, the one of the other's sign; actions say -1 for open.
        fingers = np.stack([motion.gripper_open, -motion.gripper_open], axis=1) * 0.04
        # The simulator's pictures come upside down, and were turned by 180 degrees.
        seen = [np.ascontiguousarray(renderer.draw(camera, t).rgb[:, ::-1]) for t in range(frames)]
        observation = {
            "image": seen,
            "wrist_image": [np.full((size, size, 3), 90, np.uint8)] * frames,
            "state": np.concatenate([reported[:, :3, 3], turn, fingers], axis=1),
        }
        action = np.concatenate([np.zeros((frames, 6)), 1 - 2 * motion.gripper_open[:, None]], axis=1)
        words = [f"put the {motion.colour} cube on the green mat"] * frames
        values = {"observation": observation, "action": action, "language_instruction": words, **flags(frames)}
        made.append({"steps": values, "episode_metadata": {"file_path": f"demo/episode_{number}.hdf5"}})
    node = episode_features(step, episode_metadata={"file_path": text()})
    return write_rlds(folder, "libero_spatial_no_noops", node, {"train": made})
