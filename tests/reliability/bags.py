"""What reading one view of a large bag costs, with ten other topics in it and without.

    python tests/reliability/bags.py [--gigabytes 2] [--compression none]

An MCAP file of pictures of one view, and ten topics of other things that make it as large as is asked for, is written
beside one of that view alone. Both are read: all stamps, then all pictures, then a window of 16. CPU seconds, bytes
read and the peak of memory are printed for each, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TOPICS = 10
_PIECE = 60_000


def write(path: Path, gigabytes: float, others: int, compression: str) -> None:
    """A bag of 20 Hz pictures on ``/view``, and of ``others`` topics of bytes that do not pack."""
    from mcap.writer import CompressionType, Writer

    rng = np.random.default_rng(0)
    pieces = [rng.bytes(_PIECE) for _ in range(50)]
    picture = cv2.GaussianBlur(rng.integers(0, 255, (240, 320, 3), np.uint8), (0, 0), 3)
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    kind = CompressionType[compression.upper()]
    with open(path, "wb") as file:
        writer = Writer(file, compression=kind)
        writer.start()
        schema = writer.register_schema("sensor_msgs/msg/CompressedImage", "ros2msg", b"")
        view = writer.register_channel("/view", "cdr", schema)
        ids = [writer.register_channel(f"/other{k}", "bytes", 0) for k in range(others)]
        for i in range(round(gigabytes * 1e9 / (TOPICS * _PIECE))):
            ns = 10**18 + i * 50_000_000
            writer.add_message(view, ns, _cdr(ns, data), ns)
            for k, number in enumerate(ids):
                writer.add_message(number, ns + k, pieces[(i + k) % 50], ns + k)
        writer.finish()


def _cdr(ns: int, data: bytes) -> bytes:
    """A CompressedImage as ROS 2 writes it: header, ``jpeg``, the bytes."""
    import struct

    head = b"\0\1\0\0" + struct.pack("<iII", ns // 10**9, ns % 10**9, 4) + b"cam\0"
    return head + struct.pack("<I", 5) + b"jpeg\0" + b"\0" * 3 + struct.pack("<I", len(data)) + data


def measure(path: Path) -> dict[str, Any]:
    """Read the view of a bag in this process."""
    from actionimg_data.converters.kit.bags.messages import read_topics
    from actionimg_data.converters.kit.bags.pictures import BagFrames

    def used() -> tuple[float, int]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        read = int(Path("/proc/self/io").read_text().split()[1])
        return usage.ru_utime + usage.ru_stime, read

    found: dict[str, Any] = {"size": path.stat().st_size}
    before = used()
    messages = read_topics(path, ["/view"])["/view"]
    frames = BagFrames.open(path, "/view", messages)
    for name, indices in (("stamps", ()), ("pictures", range(len(frames))), ("window", range(16))):
        count = sum(1 for _ in frames.frames(indices))
        now = used()
        found[name] = {"count": count, "cpu_s": round(now[0] - before[0], 3), "read": now[1] - before[1]}
        before = now
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def prove(folder: Path, gigabytes: float, compression: str) -> dict[str, dict[str, Any]]:
    """The cost of the view among others and alone."""
    found = {}
    for name, others in (("among ten", TOPICS), ("alone", 0)):
        path = folder / f"{others}.mcap"
        write(path, gigabytes, others, compression)
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(path)]
        found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        path.unlink()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--compression", choices=["none", "zstd", "lz4"], default="none")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        rows = prove(Path(folder), given.gigabytes, given.compression)
    for name, row in rows.items():
        parts = [f"{row['size'] / 1e6:.0f} MB, peak {row['peak'] / 1e6:.0f} MB"]
        for part in ("stamps", "pictures", "window"):
            parts.append(f"{part}: {row[part]['cpu_s']:.2f} s, {row[part]['read'] / 1e6:.1f} MB read")
        print(f"{name}: {'; '.join(parts)}")
