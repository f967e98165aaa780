"""Random reachable trajectories, cameras around them, and dense action videos, for the decoder's tests."""

from __future__ import annotations

import io

import numpy as np

from actionimg_data.decode import BlobMeasurements
from actionimg_data.decode.measure import FreeBlobs
from actionimg_data.geometry import pinhole, rotations
from actionimg_data.model import Camera, GripperTrajectory
from actionimg_data.raster.keypoints import gripper_keypoints
from actionimg_data.schemas import ActionImageSpec


def look_at(eye, target, up=(0.0, 0.0, 1.0)):
    """world_from_camera of a camera at ``eye`` looking at ``target`` (OpenCV axes)."""
    z = np.asarray(target, float) - eye
    z /= np.linalg.norm(z)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    pose[:3, 3] = eye
    return pose


def ring_cameras(rng, views=2, size=512, distance=1.0, baseline_deg=None, focal=None, center=(0.4, 0.0, 0.3)):
    """Cameras about ``distance`` away, 45 to 60 degrees apart, slightly above, all looking at ``center``."""
    focal = size * rng.uniform(0.9, 1.1) if focal is None else focal
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    step = np.deg2rad(rng.uniform(45, 60) if baseline_deg is None else baseline_deg)
    first = rng.uniform(0, 2 * np.pi)
    cameras = []
    for v in range(views):
        angle, height = first + v * step, np.deg2rad(rng.uniform(15, 35))
        away = np.array([np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)])
        cameras.append(Camera(K, look_at(np.asarray(center) + distance * away, center), size, size))
    return cameras


def random_trajectory(rng, frames=41, cube=0.6, center=(0.4, 0.0, 0.3), max_turn_deg=70.0):
    """A smooth walk through a cube, turning about a random orientation; openness flips now and then."""
    t = np.linspace(0, 1, frames)
    waves = rng.uniform(0.3, 1.2, size=(6, 2)) * 2 * np.pi
    phases = rng.uniform(0, 2 * np.pi, size=(6, 2))
    motion = np.sin(waves[..., None] * t + phases[..., None]).mean(axis=1).T
    position = np.asarray(center) + motion[:, :3] * cube / 2
    base = rotations.matrix_from_quaternion(rotations.normalize(rng.standard_normal(4)))
    R = rotations.matrix_from_rotation_vector(motion[:, 3:] * np.deg2rad(max_turn_deg)) @ base
    openness = (np.sin(rng.uniform(1, 4) * 2 * np.pi * t + rng.uniform(0, 6)) > 0).astype(float)
    return GripperTrajectory(position, rotations.quaternion_from_matrix(R), openness, t * (frames - 1) / 20)


def dense_render(trajectory, cameras, spec=None, *, as_float=False):
    """The picture as its definition has it, pixel by pixel: (V, T, H, W, 3) uint8, or float32 before rounding."""
    spec = spec or ActionImageSpec(height=cameras[0].height, width=cameras[0].width)
    points = gripper_keypoints(trajectory.position, trajectory.rotation, spec.axis_length)
    y, x = np.arange(spec.height)[:, None], np.arange(spec.width)[None]
    dtype = np.float64 if as_float else np.uint8
    out = np.zeros((len(cameras), len(trajectory), spec.height, spec.width, 3), dtype)
    for v, camera in enumerate(cameras):
        uv, _, valid = pinhole.project(points, camera.K, camera.world_from_camera, spec.near)
        for t in range(len(trajectory)):
            drawn = trajectory.openness[t]
            if spec.openness == "binary":
                drawn = float(drawn > spec.openness_threshold)
            for c in range(3):
                column, row = (y - uv[t, c, 1]) / spec.sigma_px, (x - uv[t, c, 0]) / spec.sigma_px
                g = np.exp(-0.5 * column**2) * np.exp(-0.5 * row**2) * bool(valid[t, c])
                if c == 2:
                    g = np.where(g <= spec.pedestal, spec.pedestal * drawn, g)
                out[v, t, ..., c] = g if as_float else np.round(255 * g)
    return out


def add_noise(video, rng, sigma=5.0):
    """Gaussian noise of ``sigma`` grey levels, clipped and rounded to uint8."""
    noise = rng.standard_normal(video.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(np.round(video + noise), 0, 255).astype(np.uint8)


def through_jpeg(video, quality=90):
    """Each frame through JPEG (4:2:0, as OpenCV writes it)."""
    import cv2

    out = np.empty_like(video)
    for index in np.ndindex(video.shape[:2]):
        ok, data = cv2.imencode(".jpg", video[index][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        out[index] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return out


def through_h264(video, crf, fps=20, pixel_format="yuv420p"):
    """Each view through x264 in MP4."""
    import av

    out = np.empty_like(video)
    for v, frames in enumerate(video):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "threads": "1"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixel_format
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        buffer.seek(0)
        with av.open(buffer) as container:
            decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert len(decoded) == len(frames)
        out[v] = np.stack(decoded)
    return out


def pose_errors(decoded, truth):
    """Position errors in millimetres and rotation errors in degrees of the valid frames."""
    ok = decoded.valid
    position = np.linalg.norm(decoded.trajectory.position[ok] - truth.position[ok], axis=-1) * 1e3
    rotation = np.rad2deg(rotations.angle_between(decoded.trajectory.rotation[ok], truth.rotation[ok]))
    return position, rotation


def camera_transforms(cameras):
    """(V, 3, 3) and (V, 4, 4) of cameras."""
    return np.stack([c.K for c in cameras]), np.stack([c.world_from_camera for c in cameras])


def project_all(trajectory, cameras, spec):
    """True pixels (V, T, 3, 2) of the keypoints and which are in front (V, T, 3)."""
    points = gripper_keypoints(trajectory.position, trajectory.rotation, spec.axis_length)
    found = [pinhole.project(points, c.K, c.world_from_camera, spec.near) for c in cameras]
    return np.stack([f[0] for f in found]), np.stack([f[2] for f in found])


def perfect_measurements(trajectory, cameras, spec, rng, noise):
    """What `measure_blobs` would find in each view, if its errors were Gaussian with ``noise`` pixels."""
    uv, _ = project_all(trajectory, cameras, spec)
    frames = len(trajectory)
    return [
        BlobMeasurements(
            uv=view + noise * rng.standard_normal(view.shape),
            covariance=np.broadcast_to(noise**2 * np.eye(2), (frames, 3, 2, 2)),
            valid=np.ones((frames, 3), bool),
            amplitude=np.ones((frames, 3)),
            residual=np.zeros((frames, 3)),
            pedestal=spec.pedestal * trajectory.openness,
            pedestal_samples=np.full(frames, 100),
            ground=np.zeros(frames),
            another=np.zeros((frames, 2), bool),
            structure=np.ones((frames, 3)),
            odd=np.zeros(frames, bool),
            free=FreeBlobs.nothing(frames),
        )
        for view in uv
    ]


DAMAGES = {
    "uint8": lambda video, rng: video,
    "gaussian noise of 5 levels": add_noise,
    "JPEG quality 90": lambda video, rng: through_jpeg(video, 90),
    "H.264 crf 18": lambda video, rng: through_h264(video, 18),
    "H.264 crf 28": lambda video, rng: through_h264(video, 28),
}
"""What a video goes through before it is decoded, by name."""
