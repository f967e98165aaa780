"""What video models do to action images, drawn on purpose: kinds of degradation, for tests and `decoder_bench`.

Two sets that share neither kinds, seeds nor trajectories: `TUNING`, on which the decoder's constants were chosen, and
`HELD_OUT`, on which it is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import decoder_scenes as scenes
import numpy as np

from actionimg_data.schemas import ActionImageSpec

BETWEEN = "between"
"""Errors between the views, which the pictures show only in part."""
NOTHING = "nothing"
"""Pictures without an action that these cameras could have seen: no frame may be valid."""
SHOWN = "shown"
"""Errors that the pictures show."""
HIDDEN = "hidden"
"""Errors that no picture shows, such as an average over time."""


@dataclass
class Scene:
    """One clip before it is drawn: what is seen where, and how each blob will look."""

    cameras: list
    truth: object
    spec: ActionImageSpec
    rng: np.random.Generator
    uv: np.ndarray
    """``(V, T, 3, 2)`` pixels."""
    openness: np.ndarray
    """``(V, T)``."""
    peak: np.ndarray = field(default=None)
    """``(V, T, 3)``; 0 drops the blob."""
    width: float | tuple = 1.0
    """Over sigma: a factor, or two axes and the angle of the first."""
    power: float = 2.0
    """Exponent of the profile: 2 is a Gaussian."""
    ghosts: list = field(default_factory=list)
    """Further blobs: view, channel, offset px, peak."""

    @property
    def px(self) -> float:
        """Pixels of this picture per pixel at 512."""
        return self.spec.height / 512

    def draw(self) -> np.ndarray:
        """``(V, T, H, W, 3)`` float32 in [0, 1]."""
        views, frames = self.uv.shape[:2]
        size = (self.spec.height, self.spec.width)
        out = np.zeros((views, frames, *size, 3), np.float32)
        y, x = (np.arange(n, dtype=np.float32) for n in size)
        for v, t, c in np.ndindex(views, frames, 3):
            g = self._blob(x, y, self.uv[v, t, c]) * np.float32(self.peak[v, t, c])
            for view, channel, offset, peak in self.ghosts:
                if (view, channel) == (v, c):
                    g = np.maximum(g, self._blob(x, y, self.uv[v, t, c] + offset) * np.float32(peak))
            if c == 2:
                top = max(float(self.peak[v, t, c]), 1e-6)
                g = np.where(g <= self.spec.pedestal * top, self.spec.pedestal * top * self.openness[v, t], g)
            out[v, t, ..., c] = g
        return out

    def _blob(self, x, y, uv):
        sigma = self.spec.sigma_px
        if isinstance(self.width, tuple):
            a, b, angle = self.width
            dx, dy = (x - uv[0])[None], (y - uv[1])[:, None]
            along, across = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
            return np.exp(-0.5 * ((along / (a * sigma)) ** 2 + (across / (b * sigma)) ** 2)).astype(np.float32)
        s = sigma * self.width
        if self.power != 2:
            r2 = ((x - uv[0])[None] ** 2 + (y - uv[1])[:, None] ** 2) / s**2
            return np.exp(-0.5 * r2 ** (self.power / 2)).astype(np.float32)
        gx, gy = np.exp(-0.5 * ((x - uv[0]) / s) ** 2), np.exp(-0.5 * ((y - uv[1]) / s) ** 2)
        return (gy[:, None] * gx[None]).astype(np.float32)


def make_scene(seed, size=512, frames=41, views=2):
    rng = np.random.default_rng(seed)
    cameras, truth = (
        scenes.ring_cameras(rng, size=size, views=views),
        scenes.random_trajectory(rng, frames=frames, cube=0.5),
    )
    spec = ActionImageSpec(height=size, width=size)
    uv, _ = scenes.project_all(truth, cameras, spec)
    return Scene(
        cameras=cameras, truth=truth, spec=spec, rng=rng, uv=uv,
        openness=np.repeat(truth.openness[None], views, 0), peak=np.ones((views, frames, 3)),
    )  # fmt: skip


def to_uint8(video):
    """Rounded to 8 bits."""
    return np.clip(np.rint(video * 255), 0, 255).astype(np.uint8)


# What happens to the picture: functions (video float32 (V, T, H, W, 3), scene) -> video.


def bleed(amount):
    """A share of each channel added to the two others."""

    def apply(video, scene):
        matrix = np.full((3, 3), amount, np.float32) + (1 - amount) * np.eye(3, dtype=np.float32)
        return video @ matrix.T

    return apply


def mix(spread):
    """Channels mixed by a random matrix of a clip, another one in each view."""

    def apply(video, scene):
        for v in range(len(video)):
            m = np.eye(3) + scene.rng.uniform(-0.3, 1, (3, 3)) * spread * (1 - np.eye(3))
            video[v] = np.clip(video[v] @ m.T.astype(np.float32), 0, 1)
        return video

    return apply


def _smooth_field(scene, shape, scale_px):
    """Noise of unit variance with a correlation length, ``(H, W, 3)``."""
    step = max(1.0, scale_px * scene.px / 2)
    h, w = max(4, int(shape[0] / step)), max(4, int(shape[1] / step))
    small = cv2.GaussianBlur(scene.rng.standard_normal((h, w, 3)).astype(np.float32), (0, 0), 2.0)
    big = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return big / big.std()


def smooth_noise(amount, scale_px=24.0, grey=False):
    """Smooth coloured noise, new in each frame."""

    def apply(video, scene):
        for v, t in np.ndindex(video.shape[:2]):
            noise = _smooth_field(scene, video.shape[2:4], scale_px)
            video[v, t] += amount * (noise.mean(-1, keepdims=True) * 1.7 if grey else noise)
        return video

    return apply


def white_noise(levels):
    """Noise of grey levels, of each pixel."""

    def apply(video, scene):
        return video + (levels / 255) * scene.rng.standard_normal(video.shape, dtype=np.float32)

    return apply


def blur(px):
    """Gaussian blur of the picture."""

    def apply(video, scene):
        for index in np.ndindex(video.shape[:2]):
            video[index] = cv2.GaussianBlur(video[index], (0, 0), px * scene.px)
        return video

    return apply


def down_up(factor, interpolation=cv2.INTER_LINEAR):
    """Reduced by a factor and enlarged again, as a latent's grid does."""

    def apply(video, scene):
        h, w = video.shape[2:4]
        for index in np.ndindex(video.shape[:2]):
            small = cv2.resize(video[index], (w // factor, h // factor), interpolation=cv2.INTER_AREA)
            video[index] = cv2.resize(small, (w, h), interpolation=interpolation)
        return video

    return apply


def ground(level):
    """A constant in all channels under the picture."""
    return lambda video, scene: np.maximum(video, 0) * (1 - level) + level


def added(level):
    """A constant added, and clipped."""
    return lambda video, scene: np.clip(video + level, 0, 1)


def haze(amount, colour=(0.7, 0.7, 0.75)):
    """Blended towards a light grey."""
    return lambda video, scene: video * (1 - amount) + amount * np.asarray(colour, np.float32)


def room(rng, size):
    """A picture of no action: a wall, a table, boxes and lamps, ``(H, W, 3)``."""
    h, w = size
    y, x = np.mgrid[:h, :w].astype(np.float32) / h
    picture = 0.4 + 0.25 * np.stack([x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1) for _ in range(3)], -1)
    for _ in range(25):
        x0, y0 = rng.uniform(0, w * 0.9), rng.uniform(0, h * 0.9)
        x1, y1 = x0 + rng.uniform(0.03, 0.3) * w, y0 + rng.uniform(0.03, 0.3) * h
        colour = tuple(float(c) for c in rng.uniform(0, 1, 3))
        if rng.random() < 0.5:
            cv2.rectangle(picture, (int(x0), int(y0)), (int(x1), int(y1)), colour, -1)
        else:
            cv2.circle(picture, (int(x0), int(y0)), int((x1 - x0) / 2), colour, -1)
    picture = cv2.GaussianBlur(picture, (0, 0), h / 300)
    return np.clip(picture + 0.02 * rng.standard_normal(picture.shape), 0, 1).astype(np.float32)


def scene_through(amount):
    """The camera's own picture shines through."""

    def apply(video, scene):
        for v in range(len(video)):
            video[v] = (1 - amount) * video[v] + amount * room(scene.rng, video.shape[2:4])
        return video

    return apply


def flicker(amount):
    """Brightness that changes from frame to frame."""

    def apply(video, scene):
        return video * (1 + amount * scene.rng.standard_normal((*video.shape[:2], 1, 1, 1))).astype(np.float32)

    return apply


def gamma(exponent):
    return lambda video, scene: np.clip(video, 0, 1) ** np.float32(exponent)


def quantised(levels):
    return lambda video, scene: np.rint(np.clip(video, 0, 1) * (levels - 1)) / np.float32(levels - 1)


def average(frames):
    """Each frame the mean of itself and those before it."""

    def apply(video, scene):
        out = video.copy()
        for t in range(video.shape[1]):
            out[:, t] = video[:, max(0, t - frames + 1) : t + 1].mean(axis=1)
        return out

    return apply


def jpeg(quality):
    return lambda video, scene: scenes.through_jpeg(to_uint8(video), quality).astype(np.float32) / 255


def h264(crf):
    return lambda video, scene: scenes.through_h264(to_uint8(video), crf).astype(np.float32) / 255


def lag(frames, view=1):
    """One view late by whole frames; its first frame stands meanwhile."""

    def apply(video, scene):
        video = video.copy()
        late = np.maximum(np.arange(video.shape[1]) - frames, 0)
        video[view] = video[view][late]
        return video

    return apply


def frozen(start, stop=None, view=1):
    """One view stands still for a part of the clip (fractions)."""

    def apply(video, scene):
        n = video.shape[1]
        a, b = int(start * n), n if stop is None else int(stop * n)
        video[view, a:b] = video[view, a]
        return video

    return apply


def warp(view=1, shift=0.0, roll_deg=0.0, zoom=1.0, drift=False):
    """One view's picture moved (px at 512, any direction), rolled, zoomed; at once or growing over the clip."""

    def apply(video, scene):
        h, w = video.shape[2:4]
        angle = scene.rng.uniform(0, 2 * np.pi)
        n = video.shape[1]
        for t in range(n):
            part = t / (n - 1) if drift else 1.0
            m = cv2.getRotationMatrix2D((w / 2, h / 2), roll_deg * part, 1 + (zoom - 1) * part)
            m[:, 2] += part * shift * scene.px * np.array([np.cos(angle), np.sin(angle)])
            video[view, t] = cv2.warpAffine(video[view, t], m, (w, h), borderMode=cv2.BORDER_REPLICATE)
        return video

    return apply


def channel_gain(spread):
    def apply(video, scene):
        return np.clip(video * scene.rng.uniform(1 - spread, 1, (len(video), 1, 1, 1, 3)).astype(np.float32), 0, 1)

    return apply


def hue(degrees):
    """The colour wheel turned (the YIQ matrix), as a wrong colour space does."""

    def apply(video, scene):
        yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn = np.linalg.inv(yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ yiq
        return np.clip(video @ turn.T.astype(np.float32), 0, 1)

    return apply


def saturation(factor):
    """Colours greyed."""

    def apply(video, scene):
        grey = video @ np.array([0.299, 0.587, 0.114], np.float32)
        return grey[..., None] + factor * (video - grey[..., None])

    return apply


def vignette(depth):
    def apply(video, scene):
        h, w = video.shape[2:4]
        y, x = np.mgrid[:h, :w].astype(np.float32)
        r2 = ((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2) / 0.5
        return video * (1 - depth * r2)[..., None]

    return apply


def lit(depth):
    """Light from one side, another one in each view."""

    def apply(video, scene):
        h, w = video.shape[2:4]
        y, x = np.mgrid[:h, :w].astype(np.float32)
        for v in range(len(video)):
            angle = scene.rng.uniform(0, 2 * np.pi)
            across = np.cos(angle) * (x / w - 0.5) + np.sin(angle) * (y / h - 0.5)
            video[v] = video[v] * (1 - depth * (0.5 + across))[..., None]
        return video

    return apply


def salt(share):
    def apply(video, scene):
        hit = scene.rng.random(video.shape[:-1]) < share
        video[hit] = scene.rng.integers(0, 2, (hit.sum(), 3))
        return video

    return apply


def sharpened(amount, px=6.0):
    def apply(video, scene):
        for index in np.ndindex(video.shape[:2]):
            soft = cv2.GaussianBlur(video[index], (0, 0), px * scene.px)
            video[index] = np.clip(video[index] + amount * (video[index] - soft), 0, 1)
        return video

    return apply


def wobble(px, scale_px=80.0):
    """A smooth warp of each frame, as elastic generators make."""

    def apply(video, scene):
        h, w = video.shape[2:4]
        y, x = np.mgrid[:h, :w].astype(np.float32)
        for index in np.ndindex(video.shape[:2]):
            move = _smooth_field(scene, (h, w), scale_px)[..., :2] * px * scene.px
            video[index] = cv2.remap(video[index], x + move[..., 0], y + move[..., 1], cv2.INTER_LINEAR)
        return video

    return apply


def occluder(share):
    """A dark bar that crosses each view for a part of the clip."""

    def apply(video, scene):
        w = video.shape[3]
        n = video.shape[1]
        for v in range(len(video)):
            start = scene.rng.integers(0, n // 2)
            for i in range(int(share * n)):
                x = int(w * i / (share * n))
                video[v, start + i, :, max(0, x - w // 16) : x + w // 16] = 0.1
        return video

    return apply


def swapped(video, scene):
    return video[::-1].copy()


def mirrored(views):
    def apply(video, scene):
        video = video.copy()
        for v in views:
            video[v] = video[v, :, :, ::-1]
        return video

    return apply


def reversed_time(video, scene):
    video = video.copy()
    video[1] = video[1, ::-1]
    return video


def only_room(moving):
    def apply(video, scene):
        for v in range(len(video)):
            picture = room(scene.rng, video.shape[2:4])
            for t in range(video.shape[1]):
                video[v, t] = np.roll(picture, int(moving * scene.px * t), axis=1)
        return video

    return apply


def nothing_but(noise):
    return lambda video, scene: noise(np.zeros_like(video) + np.float32(0.3), scene)


# What happens to the blobs before they are drawn: functions scene -> None.


def jitter(px, whole_view=False):
    def apply(scene):
        shape = (*scene.uv.shape[:2], 1 if whole_view else 3, 2)
        scene.uv = scene.uv + px * scene.px * scene.rng.standard_normal(shape)

    return apply


def wander(px, length=8.0):
    """Each keypoint off its place by a slow walk."""

    def apply(scene):
        n = scene.uv.shape[1]
        t = np.arange(n)
        kernel = np.exp(-0.5 * ((t[:, None] - t[None]) / length) ** 2)
        kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
        scene.uv = scene.uv + px * scene.px * np.einsum(
            "st,vtcd->vscd", kernel, scene.rng.standard_normal(scene.uv.shape)
        )

    return apply


def channel_shift(px):
    """Each channel moved as a whole (chromatic aberration), another way in each view."""

    def apply(scene):
        scene.uv = scene.uv + px * scene.px * scene.rng.standard_normal((len(scene.uv), 1, 3, 2))

    return apply


def shape(width, power=2.0):
    def apply(scene):
        scene.width, scene.power = width, power

    return apply


def peak(level, spread=0.0):
    def apply(scene):
        scene.peak = np.clip(scene.peak * level * (1 + spread * scene.rng.standard_normal(scene.peak.shape)), 0.05, 1)

    return apply


def dropped(share):
    def apply(scene):
        scene.peak = np.where(scene.rng.random(scene.peak.shape) < share, 0.0, scene.peak)

    return apply


def ghost(level, offset_sigma=6.0, count=1):
    """Second blobs in some channels of some views, which move with the first."""

    def apply(scene):
        for _ in range(count):
            angle = scene.rng.uniform(0, 2 * np.pi)
            offset = offset_sigma * scene.spec.sigma_px * np.array([np.cos(angle), np.sin(angle)])
            scene.ghosts.append((int(scene.rng.integers(0, 2)), int(scene.rng.integers(0, 3)), offset, level))

    return apply


def fraction_lag(frames, view=1):
    """One view late by a fraction of frames."""

    def apply(scene):
        t = np.arange(scene.uv.shape[1])
        late = np.clip(t - frames, 0, None)
        flat = scene.uv[view].reshape(len(t), -1)
        moved = np.stack([np.interp(late, t, column) for column in flat.T], axis=1)
        scene.uv = scene.uv.copy()
        scene.uv[view] = moved.reshape(scene.uv[view].shape)

    return apply


def stutter(every):
    """All views repeat frames: only each n-th is new."""

    def apply(scene):
        held = np.arange(scene.uv.shape[1]) // every * every
        scene.uv = scene.uv[:, held]

    return apply


def teleport(scene):
    """Blobs at random places: a picture of no pose."""
    scene.uv = scene.rng.uniform(0.2, 0.8, scene.uv.shape) * scene.spec.height


def still_random(scene):
    """Blobs at random places that stand still."""
    scene.uv = (
        np.repeat(scene.rng.uniform(0.25, 0.75, (len(scene.uv), 1, 3, 2)), scene.uv.shape[1], 1) * scene.spec.height
    )


@dataclass(frozen=True)
class Kind:
    group: str
    picture: tuple[Callable, ...] = ()
    blobs: tuple[Callable, ...] = ()

    def make(self, scene):
        """The uint8 video of a scene under this degradation."""
        for change in self.blobs:
            change(scene)
        video = scene.draw()
        for change in self.picture:
            video = change(video, scene)
        return to_uint8(video)


def _shown(*picture, blobs=()):
    return Kind(SHOWN, picture, blobs)


MIXTURE = (down_up(8), bleed(0.1), smooth_noise(0.03), flicker(0.05), scene_through(0.05), h264(23))

TUNING: dict[str, Kind] = {
    "clean": _shown(),
    "noise 5": _shown(white_noise(5)),
    "noise 20": _shown(white_noise(20)),
    "JPEG 90": _shown(jpeg(90)),
    "H.264 18": _shown(h264(18)),
    "H.264 28": _shown(h264(28)),
    "H.264 38": _shown(h264(38)),
    "bleed .02": _shown(bleed(0.02)),
    "bleed .05": _shown(bleed(0.05)),
    "bleed .1": _shown(bleed(0.1)),
    "bleed .2": _shown(bleed(0.2)),
    "smooth noise .03": _shown(smooth_noise(0.03)),
    "smooth noise .06": _shown(smooth_noise(0.06)),
    "width 1.3": _shown(blobs=(shape(1.3),)),
    "width 1.6": _shown(blobs=(shape(1.6),)),
    "width .8": _shown(blobs=(shape(0.8),)),
    "width .6": _shown(blobs=(shape(0.6),)),
    "ellipse 1.7:1": _shown(blobs=(shape((1.3, 0.765, 0.6)),)),
    "peak .5": _shown(blobs=(peak(0.5),)),
    "peak .7 ± 10 %": _shown(blobs=(peak(0.7, 0.1),)),
    "ground .1": _shown(added(0.1)),
    "ground .3": _shown(ground(0.3)),
    "haze .2": _shown(haze(0.2)),
    "scene .05": _shown(scene_through(0.05)),
    "scene .1": _shown(scene_through(0.1)),
    "scene .2": _shown(scene_through(0.2)),
    "blur 8 px": _shown(blur(8)),
    "8x resampled": _shown(down_up(8)),
    "16x resampled": _shown(down_up(16)),
    "lit from one side": _shown(lit(0.4)),
    "flicker .1": _shown(flicker(0.1)),
    "gamma .7": _shown(gamma(0.7)),
    "gamma 1.5": _shown(gamma(1.5)),
    "16 levels": _shown(quantised(16)),
    "jitter .5 px": _shown(blobs=(jitter(0.5),)),
    "jitter 1 px": _shown(blobs=(jitter(1.0),)),
    "jitter 2 px": _shown(blobs=(jitter(2.0),)),
    "dropped 10 %": _shown(blobs=(dropped(0.1),)),
    "ghost .6": _shown(blobs=(ghost(0.6),)),
    "ghost 1": _shown(blobs=(ghost(1.0),)),
    "channels off .6 px": _shown(blobs=(channel_shift(0.6),)),
    "hue 15": _shown(hue(15)),
    "blur 12 px": _shown(blur(12)),
    "mixture": _shown(*MIXTURE),
    "lag 1": Kind(BETWEEN, (lag(1),)),
    "lag 2": Kind(BETWEEN, (lag(2),)),
    "lag 8": Kind(BETWEEN, (lag(8),)),
    "turned 10 px": Kind(BETWEEN, (warp(shift=10),)),
    "turned 20 px": Kind(BETWEEN, (warp(shift=20),)),
    "drift 20 px": Kind(BETWEEN, (warp(shift=20, drift=True),)),
    "frozen half": Kind(BETWEEN, (frozen(0.5),)),
    "average 4": Kind(HIDDEN, (average(4),)),
    "scene": Kind(NOTHING, (only_room(0),)),
    "scene moving": Kind(NOTHING, (only_room(3),)),
    "white noise": Kind(NOTHING, (nothing_but(white_noise(60)),)),
    "smooth noise": Kind(NOTHING, (nothing_but(smooth_noise(0.2, 40)),)),
    "swapped views": Kind(NOTHING, (swapped,)),
    "mirrored view": Kind(NOTHING, (mirrored([1]),)),
    "mirrored both": Kind(NOTHING, (mirrored([0, 1]),)),
    "random blobs": Kind(NOTHING, (), (teleport,)),
}  # fmt: skip

HELD_OUT: dict[str, Kind] = {
    "random mixing .1": _shown(mix(0.1)),
    "random mixing .25": _shown(mix(0.25)),
    "hue 10°": _shown(hue(10)),
    "hue 25°": _shown(hue(25)),
    "saturation .7": _shown(saturation(0.7)),
    "bleed .08, noise 8": _shown(bleed(0.08), white_noise(8)),
    "smooth noise .04, 60 px": _shown(smooth_noise(0.04, 60)),
    "smooth grey noise .05": _shown(smooth_noise(0.05, 30, grey=True)),
    "salt .02": _shown(salt(0.02)),
    "width 1.15": _shown(blobs=(shape(1.15),)),
    "width 1.45": _shown(blobs=(shape(1.45),)),
    "width .7": _shown(blobs=(shape(0.7),)),
    "ellipse 1.4:1": _shown(blobs=(shape((1.2, 0.857, 2.0)),)),
    "flat-topped": _shown(blobs=(shape(1.0, 3.0),)),
    "pointed": _shown(blobs=(shape(1.0, 1.5),)),
    "peak .6, ground .15": _shown(added(0.15), blobs=(peak(0.6),)),
    "channel gains .6-1": _shown(channel_gain(0.4)),
    "ground .4": _shown(ground(0.4)),
    "haze .15": _shown(haze(0.15, (0.9, 0.8, 0.6))),
    "scene .08, JPEG 60": _shown(scene_through(0.08), jpeg(60)),
    "scene .15": _shown(scene_through(0.15)),
    "vignette .5": _shown(vignette(0.5)),
    "sharpened": _shown(sharpened(1.5)),
    "12x resampled, cubic": _shown(down_up(12, cv2.INTER_CUBIC)),
    "blur 15 px": _shown(blur(15)),
    "gamma 2.2": _shown(gamma(2.2)),
    "8 levels": _shown(quantised(8)),
    "wobble 1 px": _shown(wobble(1.0)),
    "wander 1.5 px": _shown(blobs=(wander(1.5),)),
    "channels shifted 1 px": _shown(blobs=(channel_shift(1.0),)),
    "jitter .7 px, width 1.2": _shown(blobs=(jitter(0.7), shape(1.2))),
    "dropped 20 %": _shown(blobs=(dropped(0.2),)),
    "two ghosts .8": _shown(blobs=(ghost(0.8, 5.0, 2),)),
    "occluder": _shown(occluder(0.5)),
    "H.264 33, flicker .08": _shown(flicker(0.08), h264(33)),
    "mixture B": _shown(down_up(8, cv2.INTER_CUBIC), mix(0.12), smooth_noise(0.025, 32), haze(0.1), h264(26)),
    "lag 3": Kind(BETWEEN, (lag(3, 0),)),
    "lag 1.5": Kind(BETWEEN, (), (fraction_lag(1.5),)),
    "lag 5, noise 5": Kind(BETWEEN, (lag(5), white_noise(5))),
    "turned 15 px, bleed .05": Kind(BETWEEN, (warp(shift=15), bleed(0.05))),
    "rolled 3°": Kind(BETWEEN, (warp(roll_deg=3.0),)),
    "zoomed 4 %": Kind(BETWEEN, (warp(zoom=1.04),)),
    "drift 12 px": Kind(BETWEEN, (warp(shift=12, view=0, drift=True),)),
    "frozen middle": Kind(BETWEEN, (frozen(0.3, 0.7, 0),)),
    "view shaking 2 px": Kind(BETWEEN, (), (jitter(2.0, whole_view=True),)),
    "average 3": Kind(HIDDEN, (average(3),)),
    "stutter 4": Kind(HIDDEN, (), (stutter(4),)),
    "scene, JPEG 50": Kind(NOTHING, (only_room(1), jpeg(50))),
    "smooth noise 80 px": Kind(NOTHING, (nothing_but(smooth_noise(0.25, 80)),)),
    "time reversed view": Kind(NOTHING, (reversed_time,)),
    "mirrored first view": Kind(NOTHING, (mirrored([0]),)),
    "blobs standing anywhere": Kind(NOTHING, (), (still_random,)),
}  # fmt: skip

SEEDS = {"tuning": (0, 1, 2), "held_out": (101, 102, 103)}
SETS = {"tuning": TUNING, "held_out": HELD_OUT}
