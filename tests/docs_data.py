"""The data that the commands of the documents find, made once for all pages and test processes."""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import arm_lab_logs
import numpy as np
import pytest
from lab_logs import renamed_cameras, write_bridge_raw, write_calvin, write_gello, write_isaaclab

from actionimg_data import engine
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo import recordings
from actionimg_data.demo.rlbench import write_action_images_tree
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.demo.simulators import write_simulator_logs
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.testing import write_recordings, write_rlbench_dataset

FRAMES, SIZE = 8, 96


class DocsData:
    """Sources and data sets by the names that the pages use; each is made when first asked for.

    Args:
        folder: Where they are kept; several processes may share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, name: str, home: Path) -> None:
        """Copy what is called ``name`` into ``home``."""
        stored = self._made(name)
        if stored.is_dir():
            shutil.copytree(stored, home / name, dirs_exist_ok=True)
        else:
            shutil.copy(stored, home / name)

    def _made(self, name: str) -> Path:
        target = self.folder / name
        with open(self.folder / f".{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                part = self.folder / f".{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                MAKERS[name](self, part)
                os.rename(part, target)
        return target

    def _rlbench(self, dest: Path) -> None:
        write_rlbench_dataset(dest, 2, FRAMES, SIZE, ("front", "left_shoulder", "wrist"))

    def _dataset(self, dest: Path) -> None:
        source = self._made("rlbench_demos")
        engine.convert(RLBenchConverter(), str(source), dest, ConvertOptions.parse(height=SIZE, width=SIZE))

    def _copy_of_dataset(self, dest: Path) -> None:
        shutil.copytree(self._made("OUT"), dest)

    def _video(self, dest: Path) -> None:
        view = dest.name.removeprefix(".").partition(".")[0]
        dest.write_bytes(open_dataset(self._made("OUT"))[0].read(f"{view}.action.mp4"))

    def _cameras(self, dest: Path) -> None:
        cameras = {}
        for view, camera in open_dataset(self._made("OUT"))[0].cameras.items():
            poses = camera.world_from_camera.tolist()
            cameras[view] = {
                "K": camera.K[0].tolist(),
                "width": camera.width,
                "height": camera.height,
                "world_from_camera": poses[0] if camera.is_static else poses,
            }
        dest.write_text(json.dumps({"cameras": cameras}))

    def _generated(self, dest: Path) -> None:
        example = Path(__file__).resolve().parents[1] / "examples" / "13_score_generated_videos.py"
        made = runpy.run_path(str(example))
        made["generate"](open_dataset(self._made("OUT")), dest, 0.1, 5, (90, 156))

    def _recordings(self, dest: Path) -> None:
        write_recordings(dest, 2, FRAMES, SIZE)

    def _rlds(self, dest: Path) -> None:
        write_rlds_demo(
            dest, episodes=2, frames=FRAMES, size=SIZE, name="my_robot", cameras=("front", "right_shoulder")
        )

    def _lerobot(self, dest: Path) -> None:
        logs = [recordings.make_log(FRAMES, SIZE, seed, ("front", "overhead")) for seed in (0, 1)]
        recordings.write_lerobot(logs, dest / "my_robot", "v3.0", "libx264")

    def _bags(self, dest: Path) -> None:
        dest.mkdir()
        recordings.write_rosbag(recordings.make_log(FRAMES, SIZE, views=("front", "wrist")), dest / "run_0")

    def _simulators(self, dest: Path) -> None:
        pytest.importorskip("mujoco")
        pytest.importorskip("imagecodecs")
        write_simulator_logs(dest, FRAMES, SIZE)

    def _simulator(self, dest: Path) -> None:
        shutil.copytree(self._made("simulators") / dest.name.removeprefix(".").partition(".")[0], dest)

    def _robotwin(self, dest: Path) -> None:
        arm_lab_logs.write_robotwin(
            arm_lab_logs.small_log(FRAMES, SIZE), dest / "lift_block" / "piper_clean_50" / "data" / "episode0.hdf5"
        )

    def _maniskill(self, dest: Path) -> None:
        log = arm_lab_logs.small_log(FRAMES, SIZE)
        depth = {name: np.full((*view.pictures.shape[:3], 1), 900, np.int16) for name, view in log.views.items()}
        arm_lab_logs.write_maniskill([log], dest / "trajectory.rgb+depth.h5", depth=depth)

    def _agibot(self, dest: Path) -> None:
        arm_lab_logs.write_agibot([arm_lab_logs.small_log(FRAMES, SIZE)], dest)

    def _rh20t(self, dest: Path) -> None:
        arm_lab_logs.write_rh20t([arm_lab_logs.small_log(FRAMES, SIZE, views=("front", "overhead"))], dest)

    def _bridge_raw(self, dest: Path) -> None:
        for number in range(2):
            write_bridge_raw(self._lab_log(number), dest, number)

    def _bridge_cameras(self, dest: Path) -> None:
        dest.write_text(json.dumps(renamed_cameras(self._lab_log(0), {"front": "image_0", "overhead": "image_1"})))

    def _isaaclab(self, dest: Path) -> None:
        logs = [self._lab_log(seed) for seed in range(2)]
        write_isaaclab(logs, dest / "generated.hdf5", {"front": "table_cam", "overhead": "high_cam"})

    def _isaaclab_cameras(self, dest: Path) -> None:
        names = {"front": "table_cam", "overhead": "high_cam"}
        dest.write_text(json.dumps(renamed_cameras(self._lab_log(0), names)))

    def _calvin(self, dest: Path) -> None:
        write_calvin([self._lab_log(0)], dest / "training", {"front": "static", "overhead": "overhead"})

    def _gello(self, dest: Path) -> None:
        for seed in range(2):
            write_gello(self._lab_log(seed), dest / f"0131_12{seed}000")

    def _gello_cameras(self, dest: Path) -> None:
        dest.write_text(json.dumps(recordings.camera_file(self._lab_log(0))))

    def _published_tree(self, dest: Path) -> None:
        write_action_images_tree(dest, 1, 4 * FRAMES, SIZE)

    @staticmethod
    def _lab_log(seed: int) -> recordings.TeleopLog:
        return recordings.make_log(FRAMES, SIZE, seed, ("front", "overhead"))

    def _droid_log(self) -> recordings.TeleopLog:
        """Pictures cut to 16:9, as DROID's are."""
        log = recordings.make_log(FRAMES, SIZE, views=("front", "left_shoulder", "wrist"))
        height = SIZE * 9 // 16
        views = {}
        for name, view in log.views.items():
            # The hand is near the lower border of its own camera.
            top = SIZE - height if name == "wrist" else (SIZE - height) // 2
            moved = np.array([[0, 0, 0], [0, 0, top], [0, 0, 0]])
            pictures = view.pictures[:, top : top + height]
            views[name] = recordings.LoggedView(pictures, view.K - moved, view.world_from_camera)
        return replace(log, views=views)

    def _droid(self, dest: Path) -> None:
        recordings.write_droid(self._droid_log(), dest)

    def _droid_calibration(self, dest: Path) -> None:
        episode = json.loads(next(self._made("droid").rglob("metadata_*.json")).read_text())
        folder = next(self._made("droid").rglob("trajectory.h5")).parent
        serials = sorted(p.stem for p in folder.rglob("*.mp4"))
        scale = 1280 / SIZE
        K = {
            serial: [view.K[0, 0] * scale, view.K[0, 2] * scale, view.K[1, 1] * scale, view.K[1, 2] * scale]
            for serial, view in zip(serials, self._droid_log().views.values(), strict=True)
        }
        dest.mkdir()
        uuid = episode["uuid"]
        (dest / "intrinsics.json").write_text(json.dumps({uuid: K}))
        path = folder.relative_to(self._made("droid")).as_posix()
        (dest / "episode_id_to_path.json").write_text(json.dumps({uuid: path}))


MAKERS: dict[str, Callable[[DocsData, Path], None]] = {
    "rlbench_demos": DocsData._rlbench,
    "OUT": DocsData._dataset,
    "out": DocsData._copy_of_dataset,
    "shards": DocsData._copy_of_dataset,
    "front.mp4": DocsData._video,
    "wrist.mp4": DocsData._video,
    "cameras.json": DocsData._cameras,
    "epoch_10": DocsData._generated,
    "epoch_20": DocsData._generated,
    "recordings": DocsData._recordings,
    "tensorflow_datasets": DocsData._rlds,
    "lerobot": DocsData._lerobot,
    "bags": DocsData._bags,
    "droid": DocsData._droid,
    "droid_calibration": DocsData._droid_calibration,
    "simulators": DocsData._simulators,
    "robomimic": DocsData._simulator,
    "libero": DocsData._simulator,
    "aloha": DocsData._simulator,
    "robotwin": DocsData._robotwin,
    "maniskill": DocsData._maniskill,
    "agibot": DocsData._agibot,
    "rh20t": DocsData._rh20t,
    "umi": DocsData._simulator,
    "published_tree": DocsData._published_tree,
    "bridge_raw": DocsData._bridge_raw,
    "bridge_cameras.json": DocsData._bridge_cameras,
    "isaaclab": DocsData._isaaclab,
    "task_D_D": DocsData._calvin,
    "gello": DocsData._gello,
    "gello_cameras.json": DocsData._gello_cameras,
    "isaaclab_cameras.json": DocsData._isaaclab_cameras,
}
