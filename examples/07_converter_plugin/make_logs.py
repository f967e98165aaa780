"""Made-up logs in the format of this example: ``python make_logs.py DIR``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from jsonarm import TOOL_FROM_GRIPPER

from actionimg_data.demo import scene
from actionimg_data.geometry import rotations, transforms


def write_logs(dest: Path, episodes: int = 2, frames: int = 30, size: int = 192) -> list[scene.DemoMotion]:
    """Write episodes of the demo's scene; returns their true motions."""
    motions = [scene.make_motion(frames, seed) for seed in range(episodes)]
    for number, motion in enumerate(motions):
        folder = dest / f"take{number}"
        renderer = scene.SceneRenderer(motion, size)
        cameras = scene.make_cameras(motion, size, ("front", "left_shoulder"))
        for name, camera in cameras.items():
            (folder / name).mkdir(parents=True)
            for i in range(frames):
                cv2.imwrite(str(folder / name / f"{i}.jpg"), renderer.draw(camera, i).rgb[..., ::-1])
        tool = motion.world_from_gripper @ transforms.invert(TOOL_FROM_GRIPPER)
        euler = np.degrees(rotations.euler_from_matrix(tool[:, :3, :3]))
        log = {
            "task": "put the red cube on the green mat",
            "hz": 10,
            "cameras": {
                name: {"K": camera.K.tolist(), "camera_to_base": camera.world_from_camera.tolist()}
                for name, camera in cameras.items()
            },
            "steps": [
                {"tcp_mm": (1000 * pose[:3, 3]).tolist(), "rpy_deg": angles.tolist(), "grip": 1 - float(jaw)}
                for pose, angles, jaw in zip(tool, euler, motion.jaw, strict=True)
            ],
        }
        (folder / "log.json").write_text(json.dumps(log))
    return motions


if __name__ == "__main__":
    write_logs(Path(sys.argv[1] if len(sys.argv) > 1 else "logs"))
