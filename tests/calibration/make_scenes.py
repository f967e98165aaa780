"""Scenes for `prove_guess.py`: robosuite's arms and grippers, moved by inverse kinematics, seen by hidden cameras.

    python -m venv VENV && VENV/bin/pip install robosuite==1.5.2 "mujoco<4" av        # not the project's environment
    MUJOCO_GL=egl VENV/bin/python tests/calibration/make_scenes.py FOLDER --seeds 1000 1036
    python tests/calibration/prove_guess.py --scenes FOLDER/* --out guesses.jsonl

Each seed is a scene: one of ten pairs of an arm and a gripper, one of four tables with their things, textures, tints
and lights drawn anew, up to three things that move about by themselves, and three cameras that stand still in both
episodes of 100 pictures. The pose that is written is that of robosuite's grip site, turned so that +x is along the
opening of the fingers; where in the hand that site lies differs from gripper to gripper. A camera is taken where it
sees the hand, not hidden behind the arm, in most of the pictures, as one that somebody set up would. Nothing here
imports the project.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import av
import cv2
import mujoco
import numpy as np
import robosuite
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

ARMS = (
    ("Panda", "PandaGripper"),
    ("UR5e", "Robotiq85Gripper"),
    ("XArm7", "XArm7Gripper"),
    ("Panda", "Robotiq140Gripper"),
    ("Sawyer", "RethinkGripper"),
    ("IIWA", "Robotiq140Gripper"),
    ("Kinova3", "Robotiq85Gripper"),
    ("UR5e", "PandaGripper"),
    ("IIWA", "RethinkGripper"),
    ("Sawyer", "PandaGripper"),
)
TABLES = ("Lift", "Stack", "NutAssembly", "PickPlace")
HZ, POSES_HZ = 20, 100
EYE = "robot0_eye_in_hand"


class Scene:
    """A table with an arm, made anew from a seed."""

    def __init__(self, seed: int, arms: tuple[tuple[str, str], ...], size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.arm, self.gripper = arms[seed % len(arms)]
        self.table = TABLES[int(self.rng.integers(len(TABLES)))]
        env = robosuite.make(
            self.table,
            robots=self.arm,
            gripper_types=self.gripper,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            seed=seed,
        )
        robot = env.robots[0]
        self.model, self.size = env.sim.model._model, size
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = size
        self.model.vis.quality.offsamples = 0
        self.data = mujoco.MjData(self.model)
        self.data.qpos[:] = env.sim.data.qpos
        self.joints = [self.model.joint(n).qposadr[0] for n in robot.robot_joints]
        self.dofs = [self.model.joint(n).dofadr[0] for n in robot.robot_joints]
        self.limits = np.array([self.model.joint(n).range for n in robot.robot_joints])
        self.rest = np.array(robot.init_qpos)
        hand = robot.gripper["right"]
        self.fingers = [self.model.joint(n).qposadr[0] for n in hand.joints]
        named = {self.model.geom(g).name for g in range(self.model.ngeom)}
        self.pads = [
            self.model.geom(
                next(
                    n
                    for n in (*hand.important_geoms[f"{side}_fingerpad"], f"gripper0_right_{side}_finger_pad_1")
                    if n in named
                )
            ).id
            for side in ("left", "right")
        ]
        self.site = self.model.site("gripper0_right_grip_site").id
        self.hand_bodies = {
            b for b in range(self.model.nbody) if self.model.body(b).name.startswith(("gripper0", "robot0_right_hand"))
        }
        self.free = [j for j in range(self.model.njnt) if self.model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE]
        self.data.qpos[self.joints] = self.rest
        self._learn_fingers()
        mujoco.mj_forward(self.model, self.data)
        self.middle = self.data.site_xpos[self.site].copy()
        self.upright = self.data.site_xmat[self.site].reshape(3, 3).copy()
        self._paint()

    def _learn_fingers(self) -> None:
        """Finger joints from closed to open, as the gripper's own linkage moves them."""
        model, data = self.model, mujoco.MjData(self.model)
        data.qpos[:] = self.data.qpos
        gravity, model.opt.gravity[:] = model.opt.gravity.copy(), 0
        drives = [a for a in range(model.nu) if model.actuator(a).name.startswith("gripper0")]
        rows = []
        for end in (0, 1, 0):
            data.ctrl[drives] = model.actuator_ctrlrange[drives, end]
            # Where two actuators drive the two fingers, one of them is the other's mirror image.
            if len(drives) == 2 and np.prod(model.actuator_ctrlrange[drives].mean(1)) < 0:
                data.ctrl[drives[1]] = model.actuator_ctrlrange[drives[1], 1 - end]
            for _ in range(500):
                mujoco.mj_step(model, data)
                data.qpos[self.joints], data.qvel[self.dofs] = self.rest, 0
                mujoco.mj_forward(model, data)
                width = float(np.linalg.norm(np.diff(data.geom_xpos[self.pads], axis=0)))
                rows.append((width, *data.qpos[self.fingers]))
        model.opt.gravity[:] = gravity
        table = np.array(rows[500:])
        order = np.argsort(table[:, 0])
        self.finger_table = table[order]

    def _paint(self) -> None:
        """Textures, tints and lights of everything but the arm."""
        model, rng = self.model, self.rng
        robot = {int(model.geom_matid[g]) for g in range(model.ngeom) if self._of_robot(int(model.geom_bodyid[g]))}
        flat = [t for t in range(model.ntex) if model.tex_type[t] == mujoco.mjtTexture.mjTEXTURE_2D]
        for m in range(model.nmat):
            if m in robot:
                continue
            if model.mat_texid[m].max() >= 0 and rng.random() < 0.6:
                model.mat_texid[m][model.mat_texid[m] >= 0] = rng.choice(flat)
            model.mat_rgba[m, :3] *= rng.uniform(0.45, 1.0, 3)
            model.mat_specular[m] *= rng.uniform(0, 1)
        for light in range(model.nlight):
            model.light_pos[light] += rng.normal(size=3) * 0.7
            model.light_diffuse[light] = np.clip(rng.uniform(0.35, 0.9) * rng.uniform(0.85, 1, 3), 0, 1)
        model.vis.headlight.ambient[:] = rng.uniform(0.1, 0.4)
        model.vis.headlight.diffuse[:] = rng.uniform(0.1, 0.5)

    def _of_robot(self, body: int) -> bool:
        return self.model.body(body).name.startswith(("robot0", "gripper0"))

    def pose(self) -> np.ndarray:
        """The grip site ``(4, 4)``, +x along the opening."""
        out = np.eye(4)
        turn = self.data.site_xmat[self.site].reshape(3, 3)
        along = self.data.geom_xpos[self.pads[1]] - self.data.geom_xpos[self.pads[0]]
        z = turn[:, 2]
        x = along - z * (z @ along)
        x = x / np.linalg.norm(x) if np.linalg.norm(x) > 0.01 else self._opening(turn)
        out[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
        out[:3, 3] = self.data.site_xpos[self.site]
        return out

    def _opening(self, turn: np.ndarray) -> np.ndarray:
        return turn @ self.x_in_site

    def place(self, q: np.ndarray, width: float) -> None:
        self.data.qpos[self.joints] = q
        row = [np.interp(width, self.finger_table[:, 0], self.finger_table[:, k + 1]) for k in range(len(self.fingers))]
        self.data.qpos[self.fingers] = row
        mujoco.mj_forward(self.model, self.data)

    def learn_opening(self) -> None:
        """Which way the fingers open, in the site's frame: from an open gripper."""
        self.place(self.rest, float(self.finger_table[-1, 0]))
        self.x_in_site = np.array([1.0, 0, 0])
        self.x_in_site = self.data.site_xmat[self.site].reshape(3, 3).T @ self.pose()[:3, 0]

    def reach(self, q: np.ndarray, position: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Joints that bring the grip site about there: damped least squares (Buss 2004)."""
        q = q.copy()
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(80):
            self.data.qpos[self.joints] = q
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self.site)
            now = self.data.site_xmat[self.site].reshape(3, 3)
            error = np.concatenate(
                [position - self.data.site_xpos[self.site], Rotation.from_matrix(turn @ now.T).as_rotvec()]
            )
            if np.abs(error).max() < 1e-3:
                break
            J = jacobian[:, self.dofs]
            step = J.T @ np.linalg.solve(J @ J.T + 0.01 * np.eye(6), error)
            q = np.clip(q + np.clip(step, -0.2, 0.2), self.limits[:, 0], self.limits[:, 1])
        return q

    def motion(self, frames: int) -> tuple[CubicSpline, np.ndarray]:
        """Joints over time, and the width between the pads at each hundredth of a second."""
        rng = self.rng
        ways, q = [], self.rest
        count = int(rng.integers(6, 9))
        while len(ways) < count:
            offset = rng.uniform([-0.16, -0.24, -0.16], [0.16, 0.24, 0.14])
            tilt = Rotation.from_euler("xyz", rng.uniform([-22, -22, -55], [22, 22, 55]), degrees=True).as_matrix()
            tried = self.reach(q, self.middle + offset, tilt @ self.upright)
            self.place(tried, float(self.finger_table[-1, 0]))
            away = np.linalg.norm(self.data.site_xpos[self.site] - self.middle - offset)
            struck = any(
                c.dist < -0.002 and (self._of_robot(self._body(c.geom1)) != self._of_robot(self._body(c.geom2)))
                for c in self.data.contact
            )
            if away < 0.05 and not struck:
                ways.append(tried)
                q = tried
        seconds = frames / HZ
        gaps = rng.uniform(0.6, 1.4, count - 1)
        at = np.concatenate([[0], np.cumsum(gaps)])
        spline = CubicSpline(at / at[-1] * seconds, np.stack(ways), bc_type="clamped")
        t = np.arange(int(seconds * POSES_HZ) + 1) / POSES_HZ
        ends = self.finger_table[[0, -1], 0]
        knots = np.sort(rng.uniform(0.3, seconds - 0.3, 3))
        state = np.interp(
            t, np.ravel([[k - 0.25, k + 0.25] for k in knots]), np.ravel([[k % 2, (k + 1) % 2] for k in range(1, 4)])
        )
        return spline, ends[0] + (ends[1] - ends[0]) * state

    def _body(self, geom: int) -> int:
        return int(self.model.geom_bodyid[geom])


def eye(scene: Scene, position: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """``world_from_camera`` in OpenCV axes."""
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    out = np.eye(4)
    turn = np.stack([x, np.cross(z, x), z], 1)
    out[:3, :3] = turn @ Rotation.from_euler("z", roll).as_matrix()
    out[:3, 3] = position
    return out


def cameras(scene: Scene, count: int, seen_at: list[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]]:
    """Poses and vertical fields of view of cameras that see the hand."""
    found: list[tuple[np.ndarray, float]] = []
    groups = np.array([0, 1, 0, 0, 0, 0], np.uint8)
    fovy = float(scene.rng.uniform(38, 62))
    for _ in range(2000):
        if len(found) == count:
            break
        azimuth, up = scene.rng.uniform(-2.3, 2.3), scene.rng.uniform(0.12, 0.9)
        away = scene.rng.uniform(0.65, 1.4)
        flat = np.sqrt(1 - up**2)
        at = scene.middle + away * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), up])
        pose = eye(scene, at, scene.middle + scene.rng.normal(size=3) * 0.08, scene.rng.normal() * 0.06)
        if any(np.linalg.norm(pose[:3, 3] - other[:3, 3]) < 0.35 for other, _ in found):
            continue
        good = 0
        hit = np.zeros(1, np.int32)
        for q, width in seen_at:
            scene.place(q, width)
            hand = scene.pose()
            point = hand[:3, 3] - 0.04 * hand[:3, 2]
            local = pose[:3, :3].T @ (point - at)
            inside = np.abs(local[:2] / local[2]).max() < 0.9 * np.tan(np.radians(fovy) / 2)
            mujoco.mj_ray(scene.model, scene.data, at, (point - at) / np.linalg.norm(point - at), groups, 1, -1, hit)
            good += bool(inside and hit[0] >= 0 and scene._body(int(hit[0])) in scene.hand_bodies)
        if good >= 0.65 * len(seen_at):
            found.append((pose, fovy))
    return found


def draw(renderer: mujoco.Renderer, data: mujoco.MjData, camera: int, option: mujoco.MjvOption) -> np.ndarray:
    """One picture: a sample a pixel, blurred as by a lens; four samples take software three times as long."""
    renderer.update_scene(data, camera, option)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return cv2.GaussianBlur(renderer.render(), (0, 0), 0.5)


def wander(scene: Scene, count: int) -> list[tuple[int, np.ndarray, np.ndarray, float]]:
    """Things that move by themselves: their joint, where they start, how far and how fast."""
    movers = scene.rng.permutation(scene.free)[:count].tolist()
    return [
        (j, scene.rng.uniform([0.03, 0.03], [0.1, 0.15]), scene.rng.uniform(0.5, 2.5, 2), scene.rng.uniform(0, 6.3))
        for j in movers
    ]


def make(folder: Path, seed: int, arms: tuple[tuple[str, str], ...], options: argparse.Namespace) -> None:
    scene = Scene(seed, arms, options.size)
    scene.learn_opening()
    model, data = scene.model, scene.data
    motions = [scene.motion(options.frames) for _ in range(options.episodes)]
    times = np.arange(options.frames) / HZ
    seen_at = [(q(t), float(w[round(t * POSES_HZ)])) for q, w in motions for t in times[::12]]
    views = cameras(scene, options.cameras, seen_at)
    if not views:
        print(f"{folder}: no camera sees the hand often enough", flush=True)
        return
    movers = wander(scene, int(scene.rng.integers(0, 4)))
    begin = {j: data.qpos[model.jnt_qposadr[j] : model.jnt_qposadr[j] + 3].copy() for j, *_ in movers}
    renderer = mujoco.Renderer(model, scene.size, scene.size)
    option = mujoco.MjvOption()
    option.geomgroup[:] = (0, 1, 0, 0, 0, 0)
    option.sitegroup[:] = 0
    camera = model.camera("frontview").id
    focal = [scene.size / 2 / np.tan(np.radians(f) / 2) for _, f in views]
    wrist = model.camera(EYE).id
    parts = [b for b in range(model.nbody) if scene._of_robot(b)]
    for number, (q, width) in enumerate(motions):
        episode = folder / f"episode_{number}"
        episode.mkdir(parents=True, exist_ok=True)
        fine = np.arange(len(width)) / POSES_HZ
        rows = []
        for t, w in zip(fine, width, strict=True):
            scene.place(q(t), float(w))
            pose = scene.pose()
            quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat()
            rows.append([t, *pose[:3, 3], *quaternion, w])
        names = "time_s,x_m,y_m,z_m,qx,qy,qz,qw,gripper"
        np.savetxt(episode / "poses.csv", rows, fmt="%.9g", delimiter=",", header=names, comments="")
        np.savetxt(episode / "frame_times.csv", times, fmt="%.6g", header="time_s", comments="")
        bodies, hands, pictures = [], [], {k: [] for k in [*range(len(views)), "wrist"]}
        for t in times:
            for j, far, speed, phase in movers:
                at = model.jnt_qposadr[j]
                data.qpos[at : at + 2] = begin[j][:2] + far * np.sin(speed * (t + 7 * number) + phase)
            scene.place(q(t), float(width[round(t * POSES_HZ)]))
            hands.append(scene.pose())
            bodies.append(np.concatenate([data.xpos[parts], data.xquat[parts]], 1))
            for k, (pose, fovy) in enumerate(views):
                model.cam_fovy[camera] = fovy
                model.cam_pos[camera] = pose[:3, 3]
                turn = Rotation.from_matrix(pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])).as_quat()
                model.cam_quat[camera] = turn[[3, 0, 1, 2]]
                mujoco.mj_camlight(model, data)
                pictures[k].append(draw(renderer, data, camera, option))
            if options.wrist:
                pictures["wrist"].append(draw(renderer, data, wrist, option))
                here = np.eye(4)
                here[:3, :3] = data.cam_xmat[wrist].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
                here[:3, 3] = data.cam_xpos[wrist]
                hand_from_wrist = np.linalg.inv(hands[-1]) @ here
        truth = {
            "K": np.array([[focal[0], 0, scene.size / 2], [0, focal[0], scene.size / 2], [0, 0, 1]]),
            "world_from_camera": np.stack([p for p, _ in views]),
            "world_from_gripper": np.stack(hands),
            "bodies": np.stack(bodies),
        }
        if options.wrist:
            f = scene.size / 2 / np.tan(np.radians(model.cam_fovy[wrist]) / 2)
            truth["wrist_K"] = np.array([[f, 0, scene.size / 2], [0, f, scene.size / 2], [0, 0, 1]])
            truth["gripper_from_wrist"] = hand_from_wrist
        np.savez_compressed(episode / "truth.npz", **truth)
        for k, seen in pictures.items():
            if seen:
                write(episode / (f"cam{k}.mp4" if k != "wrist" else "wrist.mp4"), seen)
    np.savez_compressed(folder / "arm.npz", **_meshes(scene, parts))
    told = {"arm": scene.arm, "gripper": scene.gripper, "table": scene.table, "movers": len(movers)}
    (folder / "scene.json").write_text(json.dumps(told))


def _meshes(scene: Scene, parts: list[int]) -> dict[str, np.ndarray]:
    """Visual meshes of each of the robot's bodies, in the body's frame: ``NAME/vertices`` and ``NAME/faces``."""
    model, out = scene.model, {}
    for number, body in enumerate(parts):
        vertices, faces, count = [], [], 0
        for g in np.flatnonzero(model.geom_bodyid == body).tolist():
            if model.geom_type[g] != mujoco.mjtGeom.mjGEOM_MESH or model.geom_group[g] != 1:
                continue
            mesh = model.geom_dataid[g]
            v = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
            f = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
            turn = Rotation.from_quat(model.geom_quat[g][[1, 2, 3, 0]])
            vertices.append(turn.apply(v) + model.geom_pos[g])
            faces.append(f + count)
            count += len(v)
        name = f"{number}/{model.body(body).name}"
        if vertices:
            out[f"{name}/vertices"] = np.concatenate(vertices).astype(np.float32)
            out[f"{name}/faces"] = np.concatenate(faces).astype(np.int32)
    return out


def write(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=HZ, options={"crf": "18", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(1000, 1036), help="first, and one past the last")
    parser.add_argument("--arms", type=int, default=len(ARMS), help="only the first so many pairs of arm and gripper")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--wrist", action="store_true", help="the camera on the hand too")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for seed in range(*options.seeds):
        folder = options.out / f"sim_{seed}"
        if not (folder / "scene.json").exists():
            make(folder, seed, ARMS[: options.arms], options)
            print(folder, flush=True)


if __name__ == "__main__":
    main()
