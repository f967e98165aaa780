"""Close the loop: observation in, action videos, poses out, and a simulated robot that does what they say.

    MUJOCO_GL=egl python examples/12_closed_loop.py --out DIR

A gripper has to pick up a cube and put it on a mat, seen by two cameras, in MuJoCo. Where a world action model would
stand there is a stand-in: it draws the action images of what a demonstrator would do next, and spoils them as a
generator and a codec do. Everything else is what a real robot would run: `Conditioning` makes the model's input of an
observation, `ActionChunk` decodes its canvas to poses with trust, and `Follower` carries them out, replanning every
two seconds, and stands still where it cannot trust what it sees. The second chunk of every other task is nonsense on
purpose.

``DIR/12_closed_loop.png`` shows one task from both cameras with the action drawn over it, ``DIR/12_closed_loop.mp4`` is
its video. Without a way to draw (MuJoCo's renderer needs EGL or OSMesa) pictures are left out: --no-pictures.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation, Slerp

import actionimg_data as aid
from actionimg_data.policy import ActionChunk, Conditioning, Follower, Limits
from actionimg_data.video import encode_bytes, read_frames, rgb_encoding

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco  # it looks at the variable when it is imported

FPS, FRAMES, REPLAN_S = 10.0, 41, 2.0
SECONDS, CONTROL_HZ = 20.0, 50
CUBE = 0.02
VIEWS = ("front", "side")
SCENE = """
<mujoco>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual><global offwidth="640" offheight="640"/><headlight ambient=".45 .45 .45" diffuse=".5 .5 .5"/></visual>
  <asset>
    <texture name="wood" type="2d" builtin="checker" rgb1=".78 .66 .5" rgb2=".74 .62 .46" width="64" height="64"/>
    <material name="table" texture="wood" texrepeat="6 6"/>
    <texture type="skybox" builtin="gradient" rgb1=".8 .86 .92" rgb2=".55 .62 .7" width="64" height="64"/>
  </asset>
  <worldbody>
    <light pos=".2 -.4 1.6" dir="-.1 .3 -1" diffuse=".5 .5 .5"/>
    <geom name="table" type="box" pos="0 0 -.05" size=".5 .5 .05" material="table" friction="1 .05 .001"/>
    <geom name="mat" type="box" size=".045 .045 .001" pos="0 0 .001" rgba=".1 .6 .35 1" contype="0" conaffinity="0"/>
    <body name="cube"><freejoint name="cube"/>
      <geom type="box" size=".02 .02 .02" rgba=".85 .15 .12 1" mass=".05" friction="1.5 .05 .001" condim="4"/></body>
    <body name="wish" mocap="true"/>
    <body name="hand" gravcomp="1"><freejoint name="hand"/>
      <geom type="box" pos="0 0 -.085" size=".03 .05 .02" rgba=".3 .32 .36 1" mass=".5"/>
      <geom type="cylinder" pos="0 0 -.145" size=".022 .04" rgba=".85 .86 .88 1" mass=".1"/>
      <body name="left" pos="0 0 0" gravcomp="1"><joint name="left" type="slide" axis="0 1 0" range="0 .04"
               damping="4"/>
        <geom type="box" pos="0 .008 -.026" size=".01 .006 .034" rgba=".2 .2 .22 1" mass=".05" friction="2 .05 .001"
              condim="4"/></body>
      <body name="right" pos="0 0 0" gravcomp="1"><joint name="right" type="slide" axis="0 -1 0" range="0 .04"
               damping="4"/>
        <geom type="box" pos="0 -.008 -.026" size=".01 .006 .034" rgba=".2 .2 .22 1" mass=".05" friction="2 .05 .001"
              condim="4"/></body></body>
  </worldbody>
  <equality><weld body1="wish" body2="hand" solref=".01 1" solimp=".95 .99 .001"/></equality>
  <actuator>
    <position name="left" joint="left" kp="600" forcerange="-30 30" ctrlrange="-.01 .04"/>
    <position name="right" joint="right" kp="600" forcerange="-30 30" ctrlrange="-.01 .04"/>
  </actuator>
</mujoco>
"""


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    """``world_from_camera`` with OpenCV's axes."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def make_cameras(size: int) -> dict[str, aid.Camera]:
    focal = 1.25 * size
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    eyes = {"front": (0.75, -0.1, 0.55), "side": (0.1, -0.75, 0.5)}
    return {view: aid.Camera(K, look_at(eyes[view], (0, 0, 0.1)), size, size) for view in VIEWS}


def pointing_down(yaw: float) -> Rotation:
    """The gripper's frame: +z (approach) down, fingers along y turned by ``yaw``."""
    return Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)


@dataclass
class World:
    """The simulated robot: a hand that a weld drags to where it is told, a cube, and a mat."""

    model: Any
    data: Any
    target: np.ndarray

    @classmethod
    def make(cls, rng: np.random.Generator) -> World:
        model = mujoco.MjModel.from_xml_string(SCENE)
        data = mujoco.MjData(model)
        places = rng.uniform(-0.15, 0.15, (2, 2))
        while np.linalg.norm(places[0] - places[1]) < 0.12:
            places = rng.uniform(-0.15, 0.15, (2, 2))
        yaw = rng.uniform(-0.6, 0.6)
        model.geom("mat").pos[:2] = places[1]
        cube = Rotation.from_euler("z", yaw).as_quat(scalar_first=True)
        data.joint("cube").qpos[:] = [*places[0], CUBE, *cube]
        hand = pointing_down(rng.uniform(-0.3, 0.3)).as_quat(scalar_first=True)
        data.joint("hand").qpos[:] = [*rng.uniform(-0.08, 0.08, 2), 0.25, *hand]
        data.joint("left").qpos[:] = data.joint("right").qpos[:] = 0.04
        data.mocap_pos[0], data.mocap_quat[0] = data.joint("hand").qpos[:3], data.joint("hand").qpos[3:]
        data.ctrl[:] = 0.04
        mujoco.mj_forward(model, data)
        return cls(model, data, np.array([*places[1], CUBE]))

    @property
    def pose(self) -> np.ndarray:
        """``(8,)`` of the gripper: x y z, qx qy qz qw, openness."""
        hand = self.data.joint("hand").qpos
        fingers = self.data.joint("left").qpos[0] + self.data.joint("right").qpos[0]
        return np.array([*hand[:3], *hand[4:7], hand[3], float(fingers > 0.055)])

    @property
    def cube(self) -> tuple[np.ndarray, float]:
        """Where the cube is, and how it is turned about the vertical."""
        joint = self.data.joint("cube").qpos
        yaw = Rotation.from_quat(joint[3:], scalar_first=True).as_euler("zyx")[0]
        return joint[:3].copy(), float(yaw)

    def step(self, position: np.ndarray, quaternion_xyzw: np.ndarray, opened: bool) -> None:
        """Go on for one period of the controller."""
        self.data.mocap_pos[0] = position
        self.data.mocap_quat[0] = np.roll(quaternion_xyzw, 1)
        self.data.ctrl[:] = 0.04 if opened else -0.01
        for _ in range(round(1 / CONTROL_HZ / self.model.opt.timestep)):
            mujoco.mj_step(self.model, self.data)

    @property
    def done(self) -> bool:
        """Whether the cube lies on the mat and the gripper has let it go."""
        place = self.cube[0]
        return bool(np.linalg.norm(place - self.target) < 0.03 and self.pose[2] > 0.1 and self.pose[7] > 0.5)


def above(place: np.ndarray, metres: float) -> np.ndarray:
    return np.array([place[0], place[1], place[2] + metres])


def demonstrated(world: World) -> aid.GripperTrajectory:
    """What a demonstrator would do in the next `FRAMES` frames, from what there is now."""
    position, yaw = world.cube
    yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4  # a cube looks the same after a quarter turn
    now, held = world.pose, world.pose[7] < 0.5
    carried = held and np.linalg.norm(position - now[:3]) < 0.03
    over, target = pointing_down(yaw), world.target
    if np.linalg.norm(position[:2] - target[:2]) < 0.025 and position[2] < 0.03 and not carried:
        points = [(np.array([*now[:2], 0.2]), pointing_down(0), 1.0)]
    else:
        fetch = [
            (above(position, 0.12), over, 1.0), (above(position, 0.002), over, 1.0),
            (above(position, 0.002), over, 0.0), (above(position, 0.14), over, 0.0),
        ]  # fmt: skip
        near = np.linalg.norm(position[:2] - now[:2]) < 0.01
        if carried:
            fetch = [(np.array([*now[:2], 0.16]), over, 0.0)] if np.linalg.norm(now[:2] - target[:2]) > 0.02 else []
        elif held:
            # Closed, and nothing in it: up and open, before it goes anywhere.
            fetch = [(np.array([*now[:2], max(now[2], 0.12)]), Rotation.from_quat(now[3:7]), 0.0), *fetch]
            fetch.insert(1, (fetch[0][0], fetch[0][1], 1.0))
        elif near:
            fetch = fetch[1:]
        down = pointing_down(0) if not carried else Rotation.from_quat(now[3:7])
        points = [
            *fetch, (above(target, 0.14), down, 0.0), (above(target, 0.005), down, 0.0),
            (above(target, 0.005), down, 1.0), (above(target, 0.18), down, 1.0),
        ]  # fmt: skip
    times, places = [0.0], [now[:3]]
    turns, openness = [Rotation.from_quat(now[3:7])], [now[7]]
    for place, turn, opened in points:
        still = 0.5 if opened != openness[-1] else 0.1
        way = np.linalg.norm(place - places[-1]) / 0.22 + (turn * turns[-1].inv()).magnitude() / 1.5
        times.append(times[-1] + max(still, way))
        places.append(place)
        turns.append(turn)
        openness.append(opened)
    times, places = [*times, times[-1] + 100.0], np.array([*places, places[-1]])
    turns, openness = [*turns, turns[-1]], np.array([*openness, openness[-1]])
    frames = np.arange(FRAMES) / FPS
    place = np.stack([np.interp(frames, times, places[:, i]) for i in range(3)], axis=1)
    due = np.clip(np.searchsorted(times, frames + 1e-9, side="right"), 1, len(times) - 1)
    # The gripper opens or closes where it stands, not on the way.
    stands = np.linalg.norm(places[due] - places[due - 1], axis=1) < 1e-6
    state = np.where(stands & (frames > np.array(times)[due - 1] + 0.05), openness[due], openness[due - 1])
    return aid.GripperTrajectory(place, Slerp(times, Rotation.concatenate(turns))(frames).as_quat(), state, frames)


def through_codec(videos: np.ndarray, crf: int) -> np.ndarray:
    """Videos (V, T, H, W, 3) after H.264."""
    return np.stack([read_frames(encode_bytes(iter(v), rgb_encoding(crf), FPS, *v.shape[1:3])) for v in videos])


def mixture(videos: np.ndarray, pictures: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """What generators do to action images, all at once.

    A latent's coarse grid (down and up by 8), channels that bleed into each other (10 %), smooth coloured noise (3 % of
    full scale), flicker (5 %), the camera's picture shining through (5 %), H.264 at crf 23.
    """
    out = videos.astype(np.float32) / 255
    height, width = videos.shape[2:4]
    bleed = np.full((3, 3), 0.1, np.float32) + 0.9 * np.eye(3, dtype=np.float32)
    for view, picture in zip(out, pictures, strict=True):
        for t, frame in enumerate(view):
            small = cv2.resize(frame, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
            spoiled = cv2.resize(small, (width, height)) @ bleed
            noise = rng.standard_normal((height // 24 + 2, width // 24 + 2, 3)).astype(np.float32)
            spoiled += 0.03 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            spoiled *= 1 + 0.05 * rng.standard_normal()
            view[t] = 0.95 * spoiled + 0.05 * picture.astype(np.float32) / 255
    return through_codec(np.clip(np.rint(255 * out), 0, 255).astype(np.uint8), 23)


def nonsense(videos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A chunk without any action in it: washes of colour."""
    height, width = videos.shape[2:4]
    wash = rng.uniform(0, 255, (*videos.shape[:2], 4, 4, 3)).astype(np.float32)
    return np.array([[cv2.resize(frame, (width, height)) for frame in view] for view in wash]).astype(np.uint8)


def stand_in_for_a_model(
    given: Conditioning, pictures: list[np.ndarray], world: World, spoil: str, rng: np.random.Generator
) -> np.ndarray:
    """A canvas [video | action | video | action] (2 V T, H, W, 3), as a model would make it of ``given``."""
    size = given.video.shape[-1]
    drawn = aid.render(demonstrated(world), dict(given.cameras), aid.ActionImageSpec(height=size, width=size))
    if spoil == "nonsense":
        made = nonsense(drawn, rng)
    elif spoil == "mixture":
        made = mixture(drawn, pictures, rng)
    else:
        made = through_codec(drawn, 28)
    video = np.zeros_like(made[0])
    return np.concatenate([part for action in made for part in (video, action)])


class Film:
    """Pictures of the world from both cameras; grey ones where nothing can be drawn."""

    def __init__(self, world: World, cameras: dict[str, aid.Camera], drawing: bool) -> None:
        self.cameras, self.world = cameras, world
        size = cameras[VIEWS[0]].width
        self.grey = np.full((size, size, 3), 128, np.uint8)
        self.renderer = mujoco.Renderer(world.model, size, size) if drawing else None

    def look(self, view: str) -> np.ndarray:
        if self.renderer is None:
            return self.grey
        camera = self.cameras[view]
        self.renderer.update_scene(self.world.data)
        pose = camera.world_from_camera
        tangent = camera.height / 2 / camera.K[1, 1]
        for eye in self.renderer.scene.camera:
            near = eye.frustum_near
            eye.pos, eye.forward, eye.up = pose[:3, 3], pose[:3, 2], -pose[:3, 1]
            eye.frustum_center, eye.frustum_top, eye.frustum_bottom = 0.0, near * tangent, -near * tangent
            eye.frustum_width = near * tangent
        return self.renderer.render()

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()


def run_task(seed: int, spoil: str, size: int, drawing: bool, keep: bool) -> dict[str, Any]:
    """One task from start to end: whether it was done, and what happened on the way."""
    rng = np.random.default_rng(seed)
    world, cameras = World.make(rng), make_cameras(size)
    film = Film(world, cameras, drawing)
    follower = Follower(world.pose, 0.0, Limits(speed=0.35, turn=2.5))
    nonsense_at = 1 if seed % 2 else -1
    period, chunks, holding, carried_out, shots = round(REPLAN_S * CONTROL_HZ), [], 0, False, []
    for tick in range(round(SECONDS * CONTROL_HZ)):
        now, number = tick / CONTROL_HZ, tick // period
        if tick % period == 0:
            if world.done:
                break
            seen = {view: film.look(view) for view in VIEWS}
            given = Conditioning.from_observation(
                seen, cameras, world.pose, "put the cube on the mat", size=size, num_frames=FRAMES, arrays="numpy"
            )
            kind = "nonsense" if number == nonsense_at else spoil
            canvas = stand_in_for_a_model(given, list(seen.values()), world, kind, rng)
            chunk = ActionChunk.from_canvas(canvas, given.cameras, fps=FPS)
            chunks.append(follower.accept(chunk, now))
            carried_out |= kind == "nonsense" and chunks[-1]
            actions = canvas.reshape(2 * len(VIEWS), FRAMES, size, size, 3)[1::2]
        command = follower.command(now)
        holding += command.state == "holding"
        world.step(command.position, command.quaternion_xyzw, command.open)
        if keep and tick % round(CONTROL_HZ / FPS) == 0:
            frame = min(FRAMES - 1, round((tick % period) / CONTROL_HZ * FPS))
            shots.append([blended(film.look(view), action[frame]) for view, action in zip(VIEWS, actions, strict=True)])
    film.close()
    return {
        "done": world.done,
        "off_mm": 1000 * float(np.linalg.norm(world.cube[0] - world.target)),
        "seconds": tick / CONTROL_HZ,
        "refused": chunks.count(False),
        "nonsense_carried_out": carried_out,
        "holding_s": holding / CONTROL_HZ,
        "shots": shots,
    }


def blended(picture: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The blobs over the picture, without the pedestal of the openness."""
    weight = action.astype(np.float32) / 255
    weight[..., 2] = np.where(weight[..., 2] < 0.32, 0, weight[..., 2])
    weight = np.where(weight < 0.12, 0, weight)
    cover = weight.max(-1, keepdims=True)
    return (picture * (1 - cover) + 255 * weight).astype(np.uint8)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_12", type=Path, help="folder for the picture and the video")
    parser.add_argument("--tasks", default=20, type=int, help="how many, each with another cube and mat")
    parser.add_argument(
        "--spoil", default="both", choices=["crf28", "mixture", "both"], help="what is done to the videos"
    )
    parser.add_argument("--size", default=256, type=int, help="width and height of the videos")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the world")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for spoil in ("crf28", "mixture") if options.spoil == "both" else (options.spoil,):
        found = []
        for seed in range(options.tasks):
            keep = not options.no_pictures and spoil == "crf28" and seed == 0
            found.append(run_task(seed, spoil, options.size, not options.no_pictures, keep))
            if keep:
                show(found[-1]["shots"], options.out)
        seconds, off = np.mean([one["seconds"] for one in found]), np.median([one["off_mm"] for one in found])
        print(
            f"{spoil}: {sum(one['done'] for one in found)} of {len(found)} tasks done in {seconds:.1f} s, the cube "
            f"{off:.1f} mm from the middle of the mat; {sum(one['refused'] for one in found)} chunks refused, nonsense "
            f"carried out {sum(one['nonsense_carried_out'] for one in found)} times"
        )
        results[spoil] = found
    return results


def show(shots: list[list[np.ndarray]], folder: Path) -> None:
    """A sheet of frames and a video of one task."""
    picked = [shots[round(i)] for i in np.linspace(0, len(shots) - 1, 7)]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in zip(*picked, strict=True)], axis=0)
    cv2.imwrite(str(folder / "12_closed_loop.png"), sheet[..., ::-1])
    frames = [np.concatenate(pair, axis=1) for pair in shots]
    data = encode_bytes(iter(frames), rgb_encoding(23), FPS, *frames[0].shape[:2])
    (folder / "12_closed_loop.mp4").write_bytes(data)
    print(f"look at {folder / '12_closed_loop.png'} and 12_closed_loop.mp4")


if __name__ == "__main__":
    main()
