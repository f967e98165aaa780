"""RoboTwin, ManiSkill, AgiBot World and RH20T at full size: speed, memory, resuming, and what comes back of two arms.

``python tests/prove_labs.py ../shared/data [SIZE [FORMAT …]]`` takes the samples of the first two, makes the rest, and
prints a line a format:

* CPU time of the conversion over that of a plain loop that decodes, resizes and encodes the same pictures, and encodes
  action images that were drawn before, with the same encoder's settings (the better of three, taken in turns);
* memory at most, of twice and of eight times as many episodes, each in a process of its own;
* whether a conversion that was stopped after its first shard and begun again gives the same bytes;
* the decoded poses' errors, with H.264.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm_lab_logs
import av
import cv2
import h5py
import numpy as np

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.engine.verification import verify
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset

Pictures = Iterator[np.ndarray]
OPTIONS: dict[str, dict[str, Any]] = {
    "robotwin": {"fps": 16.667, "instruction": "move", "embodiment": "franka-panda"},
    "maniskill": {"fps": 20, "instruction": "stack the cubes"},
    "agibot": {"opening": "y"},
    "rh20t": {"tool_from_gripper": arm_lab_logs.RH20T_TOOL},
}
SAMPLES = {
    "robotwin": "robotwin-shaped/robotwin_legacy.episode0.hdf5",
    "maniskill": "maniskill/StackCube-v1.trajectory.rgb+depth.pd_joint_pos.physx_cpu.h5",
}


def source_of(name: str, samples: Path, place: Path, copies: int) -> Path:
    """A source of so many episodes: the sample once and again, or made."""
    place.mkdir(parents=True)
    if name in SAMPLES:
        path = samples / SAMPLES[name]
        for i in range(copies):
            shutil.copy(path, place / f"episode{i}{path.suffix}")
        return place
    views = ("front", "wrist") if name == "agibot" else ("front", "overhead")
    log = arm_lab_logs.small_log(25, 216, views=views)
    write = arm_lab_logs.write_agibot if name == "agibot" else arm_lab_logs.write_rh20t
    return write([log] * copies, place)


def plain_pictures(name: str, source: Path) -> Iterator[Pictures]:
    """The pictures of every view of every episode, as anyone would read them."""
    if name in SAMPLES:
        for path in sorted(source.iterdir()):
            with h5py.File(path) as file:
                if name == "robotwin":
                    for camera in file["observation"].values():
                        # Encoded as if RGB were BGR: what OpenCV gives is RGB.
                        yield (cv2.imdecode(np.frombuffer(row, np.uint8), cv2.IMREAD_COLOR) for row in camera["rgb"])
                else:
                    for camera in file["traj_0/obs/sensor_data"].values():
                        yield (picture for picture in camera["rgb"])
        return
    for path in sorted(source.rglob("*.mp4")):
        with av.open(str(path)) as container:
            yield (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def encode(path: Path, frames: Any, size: int, options: dict[str, str]) -> None:
    """With the encoder settings of the converter."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        stream.codec_context.options = {"crf": "18", **options}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def cropped(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square, resized."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_LINEAR)


def plain_loop(name: str, source: Path, drawn: list[np.ndarray], out: Path, size: int) -> None:
    """Decode, resize and encode the pictures; encode the action images."""
    for number, (pictures, action) in enumerate(zip(plain_pictures(name, source), drawn, strict=True)):
        encode(out / f"{number}.rgb.mp4", (cropped(p, size) for p in pictures), size, {"preset": "veryfast"})
        encode(out / f"{number}.action.mp4", action, size, {"preset": "fast", "bf": "0"})


def convert(name: str, source: Path, out: Path, size: int, **how: Any) -> None:
    """With default settings, and an episode a shard."""
    kind = converter_class(name)
    options = ConvertOptions.parse(height=size, width=size, episodes_per_shard=1)
    made = kind(kind.Options(**OPTIONS[name]))
    # Where space is short an episode is made on trial, once, whatever their number.
    engine.convert(made, str(source), out, options, check_space=False, **how)


def cpu(function: Callable[[], None]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def speed(name: str, source: Path, place: Path, size: int) -> float:
    """CPU time of the conversion over that of the plain loop."""
    convert(name, source, place / "speed", size)
    dataset = open_dataset(place / "speed")
    drawn = []
    for sample in dataset:
        for view in sorted(sample.views):
            planes = [aid.render(t, [sample.cameras[view]], dataset.spec)[0] for t in sample.grippers.values()]
            # Each arm has a video of its own.
            drawn.append(np.concatenate([np.asarray(p) for p in planes]))
    (place / "plain").mkdir()
    ours, plain = [], []
    for _ in range(3):
        shutil.rmtree(place / "speed")
        ours.append(cpu(lambda: convert(name, source, place / "speed", size)))
        plain.append(cpu(lambda: plain_loop(name, source, drawn, place / "plain", size)))
    return min(ours) / min(plain)


def peak_mb(name: str, source: Path, out: Path, size: int) -> float:
    """Most memory of a process that converts ``source``."""
    command = [sys.executable, __file__, "--convert", name, str(source), str(out), str(size)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(printed.stdout.split()[-1])


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.tar"))}


def resumes(name: str, source: Path, place: Path, size: int) -> bool:
    """Whether the first shard is kept when the conversion goes on, and all bytes are as if it never stopped."""
    convert(name, source, place / "whole", size)
    convert(name, source, place / "parts", size, shard_index=0, num_shards=2)
    done = {p: p.stat().st_mtime_ns for p in (place / "parts").rglob("*.tar")}
    convert(name, source, place / "parts", size)
    kept = bool(done) and all(p.stat().st_mtime_ns == when for p, when in done.items())
    return kept and digests(place / "whole") == digests(place / "parts")


def main(samples: Path, size: int = 512, *names: str) -> None:
    """Print one line a format."""
    print("format     CPU ratio  memory MB (2, 8 episodes)  resumes  position mm      rotation °")
    for name in names or OPTIONS:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            few = source_of(name, samples, place / "few", 2)
            many = source_of(name, samples, place / "many", 8)
            ratio = speed(name, few, place, size)
            memory = [peak_mb(name, source, place / f"memory{i}", size) for i, source in enumerate((few, many))]
            whole = resumes(name, few, place, size)
            found = verify(place / "whole").summary()
        errors = [found["position_error_mm"], found["rotation_error_deg"]]
        figures = "  ".join(f"{e['median']:.3f}/{e['p95']:.3f}" for e in errors)
        print(f"{name:10s} {ratio:9.2f}  {memory[0]:10.0f} {memory[1]:10.0f}       {whole!s:7s}  {figures}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--convert"]:
        convert(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main(Path(sys.argv[1]), *map(int, sys.argv[2:3]), *sys.argv[3:])
