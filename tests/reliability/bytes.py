"""Is a data set the same, byte for byte, whatever the machine does? One conversion under each of many circumstances.

    python tests/reliability/bytes.py [--real ../shared/data/rlbench] [--short]

Generated demonstrations of three formats (and real ones, where given) are converted by the command line in a process
of its own: plainly, with two fills of fresh memory, three kernels of OpenBLAS, numpy's dispatch limited twice, with
two threads and workers, and with all of it. Every file of the data set has to be equal. x264 is also asked by itself,
over the instruction sets it knows, with the options of this package and without its switch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

SIZES = ("224", "240x320", "512")
CODECS = ("h264", "ffv1", "png")
WITHOUT_V3 = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
CIRCUMSTANCES: Mapping[str, Mapping[str, str]] = {
    "fresh memory filled with 0x55": {"MALLOC_PERTURB_": "170"},
    "fresh memory filled with 0xff": {"MALLOC_PERTURB_": "255"},
    "OpenBLAS for Nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
    "OpenBLAS for Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "OpenBLAS for SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "numpy without AVX-512": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    "numpy without AVX2": {"NPY_DISABLE_CPU_FEATURES": WITHOUT_V3},
    "two threads, two workers": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "WORKERS": "2"},
    "an older machine, two workers": {
        "MALLOC_PERTURB_": "85",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": WITHOUT_V3,
        "WORKERS": "2",
    },
}
# By what x264 calls it, what numpy calls what it needs; an instruction that is not there ends the process.
INSTRUCTION_SETS = {"0": "", "SSE2": "", "SSSE3": "SSSE3", "SSE4.2": "SSE42", "AVX": "AVX", "AVX2": "AVX2",
                    "AVX512": "AVX512_SKX"}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What is converted, and how it is called on the command line."""

    name: str
    words: tuple[str, ...]


def features() -> Mapping[str, bool]:
    """What this CPU can, by numpy's names."""
    from numpy._core._multiarray_umath import __cpu_features__

    return dict(__cpu_features__)


def usable(environment: Mapping[str, str]) -> dict[str, str]:
    """The circumstance as this CPU can have it: numpy refuses to disable what is not there, OpenBLAS dies of it."""
    has = features()
    out = dict(environment)
    if "NPY_DISABLE_CPU_FEATURES" in out:
        out["NPY_DISABLE_CPU_FEATURES"] = " ".join(f for f in out["NPY_DISABLE_CPU_FEATURES"].split() if has.get(f))
    needs = {"SkylakeX": "AVX512_SKX", "Haswell": "AVX2"}.get(out.get("OPENBLAS_CORETYPE", ""))
    return {} if needs is not None and not has.get(needs) else {k: v for k, v in out.items() if v}


def sources(folder: Path, real: Path | None, short: bool) -> list[Source]:
    """Demonstrations written once, so that only their conversion differs."""
    from actionimg_data.demo.recordings import write_recordings
    from actionimg_data.demo.rlds import write_rlds_demo
    from actionimg_data.testing import write_rlbench_dataset

    frames = 6 if short else 16
    log = write_recordings(folder / "log", 1, frames, 96)
    found = [Source("a log with its own clock", ("folder", str(log), "--mapping", str(log / "mapping.yaml")))]
    if not short:
        path, name, options = write_rlds_demo(folder / "rlds", episodes=2, frames=frames, size=96)
        words = [w for key, value in options.items() for w in (f"--{key.replace('_', '-')}", str(value))]
        found.append(Source("RLDS", (name, str(path), *words)))
        found.append(Source("RLBench", ("rlbench", str(write_rlbench_dataset(folder / "rlbench", 1, frames, 128)))))
    if real is not None:
        found.append(Source("RLBench, real", ("rlbench", str(real))))
    return found


def converted(source: Source, out: Path, size: str, codec: str, environment: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each file of a data set that another process made in these circumstances."""
    more = dict(environment)
    workers = more.pop("WORKERS", "1")
    words = [sys.executable, "-m", "actionimg_data", "convert", source.words[0], source.words[1], str(out)]
    words += [*source.words[2:], "--size", size, "--action-codec", codec, "-j", workers, "--episodes-per-shard", "1"]
    run = subprocess.run([*words, "--json"], env={**os.environ, **more}, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(words)}\nended with {run.returncode}:\n{run.stderr[-3000:]}")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frames(height: int, width: int, count: int = 12) -> Iterator[np.ndarray]:
    """Pictures with smooth and rough parts that move."""
    rough = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        smooth = 127 + 90 * np.sin((x + 3 * t) / 17)[..., None] * np.cos((y - 2 * t) / 23)[..., None]
        picture = np.where(((x - 5 * t) % width < width // 3)[..., None], np.roll(rough, t, 1), smooth)
        yield np.clip(picture, 0, 255).astype(np.uint8)


def x264_alone(height: int, width: int, switch: bool = True) -> dict[str, str]:
    """By instruction set, SHA-256 of the pictures that x264 makes: with our switch, or without it."""
    from actionimg_data.video import encode_bytes, rgb_encoding
    from actionimg_data.video.encode import SAME_ON_EVERY_CPU

    ours, has = rgb_encoding(), features()
    out = {}
    for name in (name for name, needs in INSTRUCTION_SETS.items() if not needs or has.get(needs)):
        params = f"{SAME_ON_EVERY_CPU}:asm={name}" if switch else f"asm={name}"
        encoding = replace(ours, options={**ours.options, "x264-params": params})
        data = encode_bytes(frames(height, width), encoding, 20, height, width)
        out[name] = hashlib.sha256(data).hexdigest()
    return out


def digests() -> dict[str, str]:
    """SHA-256 of what is computed for a data set without any codec: what `elsewhere` makes in other circumstances."""
    import actionimg_data as aid
    from actionimg_data.converters.recording.streams import quaternions
    from actionimg_data.geometry import exact, pinhole, rotations, transforms
    from actionimg_data.shards.sample import cameras_bytes, trajectory_bytes

    rng = np.random.default_rng(0)
    count = 160
    times = np.arange(count) / 20
    angles = np.cumsum(rng.normal(scale=0.05, size=(count, 3)), axis=0) + np.array([3.0, 0.1, 1.0])
    position = np.cumsum(rng.normal(scale=0.004, size=(count, 3)), axis=0) + np.array([0.4, 0.0, 0.3])
    tool = transforms.make_transform(rotations.matrix_from_euler(np.array([0.1, 0.2, 2.0])), np.array([0.0, 0.01, 0.1]))
    by = {
        form: quaternions(values, form, order, "rad", "here")
        for form, values, order in (
            ("euler", angles, "ZYX"),
            ("rotation_vector", angles, None),
            ("matrix", rotations.matrix_from_euler(angles).reshape(-1, 9), "row"),
        )
    }
    pose = transforms.make_transform(rotations.matrix_from_quaternion(by["euler"]), position)
    moved = exact.matmul(pose, tool)
    grip = aid.GripperTrajectory.from_transforms(moved, (np.sin(times) > 0).astype(float), times)
    between = rotations.slerp(by["euler"][:-1], by["euler"][1:], np.linspace(0, 1, count - 1))
    K = np.array([[210.3, 0, 121.7], [0, 209.1, 118.2], [0, 0, 1.0]])
    looks = transforms.make_transform(rotations.matrix_from_euler(np.array([2.2, 0.1, 1.6])), np.array([1.3, 0.1, 0.8]))
    fixed = aid.Camera(K, looks, 320, 240)
    hand = transforms.make_transform(rotations.matrix_from_euler(np.array([0.1, 0.3, -1.6])), np.array([0.1, 0, -0.2]))
    wrist = aid.CameraTrack(np.broadcast_to(K, (count, 3, 3)), exact.matmul(moved, hand), 320, 240)
    cameras = {"front": fixed.resized(224, 224), "wrist": wrist.resized(224, 224)}
    spec = aid.ActionImageSpec(height=224, width=224)
    back = pinhole.unproject(rng.uniform(0, 224, (count, 9, 2)), rng.uniform(0.2, 2, (count, 9)), K, moved)
    parts = {
        **{f"rotations: {form}": q.tobytes() for form, q in by.items()},
        "slerp": np.asarray(between).tobytes(),
        "Euler angles": np.asarray(rotations.euler_from_matrix(moved[:, :3, :3])).tobytes(),
        "trajectory": trajectory_bytes(grip),
        "cameras": cameras_bytes({name: camera.track(count) for name, camera in cameras.items()}),
        "unprojected": np.asarray(back).tobytes(),
        "pictures": aid.render(grip, cameras, spec).tobytes(),
        "profiles": exact.exp_float32(-rng.uniform(0, 30, 200_000).astype(np.float32)).tobytes(),
    }
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from make_golden import make

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "out"), "h264")
        parts["a data set"] = Path(folder, "out", "dataset.json").read_bytes()
    return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}


def elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """`digests` of a process of its own."""
    words = [sys.executable, __file__, "--digests"]
    run = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


def main() -> None:
    """Convert, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="a folder of RLBench demos to convert besides")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--codecs", nargs="+", default=CODECS, choices=CODECS)
    parser.add_argument("--sources", nargs="+", help="words that a source's name holds; all by default")
    parser.add_argument("--short", action="store_true", help="one source, one size, one codec: what CI runs")
    parser.add_argument("--digests", action="store_true", help="only print hashes of what is computed, as JSON")
    options = parser.parse_args()
    if options.digests:
        print(json.dumps(digests()))
        return
    sizes, codecs = (("224",), ("h264",)) if options.short else (options.sizes, options.codecs)
    begun, done, wrong = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources(Path(folder), options.real, options.short):
            if options.sources and not any(word in source.name for word in options.sources):
                continue
            for size in sizes:
                for codec in codecs:
                    label = f"{source.name}, {size}, {codec}"
                    base = converted(source, Path(folder, "out", label.replace(" ", "-")), size, codec, {})
                    differing = []
                    for name, environment in CIRCUMSTANCES.items():
                        env = usable(environment)
                        if not env:
                            continue
                        out = Path(folder, "out", f"{label}-{name}".replace(" ", "-"))
                        found = converted(source, out, size, codec, env)
                        done += 1
                        files = sorted(k for k in base.keys() | found.keys() if base.get(k) != found.get(k))
                        if files:
                            differing.append(f"{name}: {', '.join(files)}")
                    print(
                        f"{label}: {len(base)} files, {'equal' if not differing else '; '.join(differing)}", flush=True
                    )
                    wrong += differing
        for height, width in ((224, 224), (240, 320), (512, 512)):
            with_switch, without = (len(set(x264_alone(height, width, s).values())) for s in (True, False))
            print(
                f"x264 alone, {width}x{height}, over instruction sets: {with_switch} with the switch, {without} without"
            )
            wrong += [f"x264 {width}x{height}"] * (with_switch > 1)
    print(json.dumps({"conversions": done, "differing": len(wrong), "seconds": round(time.monotonic() - begun)}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
