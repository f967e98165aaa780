from __future__ import annotations

import io
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.errors import BadImageError, BadVideoError, MissingFrameError, SourceNotFoundError
from actionimg_data.model import Camera
from actionimg_data.video import (
    Encoding,
    VideoFrames,
    action_encoding,
    encode,
    encode_bytes,
    iter_chunks,
    open_video,
    read_frames,
    rgb_encoding,
)
from actionimg_data.video.encode import frame_rate
from actionimg_data.video.resize import resized

H, W, T = 48, 64, 23


def pictures(frames: int = T, height: int = H, width: int = W) -> np.ndarray:
    y, x, t = np.mgrid[:height, :width, :frames]
    planes = [128 + 100 * np.sin(x / 9 + t / 3), 128 + 90 * np.cos(y / 7 - t / 4), 100 + 2 * t + 0 * x]
    return np.stack(planes, -1).astype(np.uint8).transpose(2, 0, 1, 3)


ENCODINGS = [
    rgb_encoding(),
    action_encoding("h264"),
    action_encoding("ffv1"),
    action_encoding("png"),
    Encoding("h264", gop=5),
    Encoding("ffv1", gop=4),
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: f"{e.codec}-gop{e.gop}-{len(e.options)}")
def test_bytes_repeat_and_any_window_equals_the_whole(encoding: Encoding) -> None:
    frames = pictures()
    data = encode_bytes(frames, encoding, 20, H, W)
    assert data == encode_bytes(iter(frames), encoding, 20, H, W)
    whole = read_frames(data)
    assert whole.shape == frames.shape
    if encoding.codec != "h264":
        np.testing.assert_array_equal(whole, frames)
    with open_video(data) as video:
        assert (video.info.frames, video.info.height, video.info.width) == (T, H, W)
    for window in ([0], [T - 1], [3, 4, 5], [4, 5, 15, 16], [7, 2, 7], range(1, T, 6)):
        np.testing.assert_array_equal(read_frames(data, window), whole[list(window)])
    np.testing.assert_array_equal(np.concatenate(list(iter_chunks(data, 7))), whole)


def test_chunks_do_not_share_memory() -> None:
    chunks = list(iter_chunks(encode_bytes(pictures(), action_encoding("ffv1"), 20, H, W), 10))
    assert [len(c) for c in chunks] == [10, 10, 3]
    assert not np.shares_memory(chunks[0], chunks[1])


def test_h264_keeps_colours_within_a_few_levels_and_says_which_colours_they_are() -> None:
    flat = np.empty((4, H, W, 3), np.uint8)
    for i, colour in enumerate([(200, 40, 90), (20, 220, 30), (10, 30, 240), (128, 128, 128)]):
        flat[i] = colour
    data = encode_bytes(flat, Encoding("h264", 1, gop=1), 20, H, W)
    assert np.abs(read_frames(data).astype(int) - flat).max() <= 3
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        # SMPTE 170M (the matrix of BT.601) and limited range, which is also what untagged readers assume.
        assert (int(frame.colorspace), int(frame.color_range)) == (6, 1)
        assert frame.format.name == "yuv420p"


def test_a_video_tagged_bt709_full_range_is_read_with_its_own_colours() -> None:
    flat = np.full((2, H, W, 3), (200, 40, 90), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2
        stream.codec_context.options = {"crf": "1"}
        for picture in flat:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=2)))
        container.mux(stream.encode(None))
    assert np.abs(read_frames(buffer.getvalue()).astype(int) - flat).max() <= 3


def test_h264_does_not_move_colours_sideways() -> None:
    """Chroma is stored at half the resolution; where it lands decides where a red blob is found."""
    y, x = np.mgrid[:128, :128]
    centre = 60.3
    blob = np.exp(-((x - centre) ** 2 + (y - centre) ** 2) / (2 * 8.0**2))
    for channel in range(3):
        picture = np.zeros((1, 128, 128, 3), np.uint8)
        picture[0, ..., channel] = np.round(255 * blob)
        data = encode_bytes(picture, Encoding("h264", 4), 20, 128, 128)
        found = read_frames(data)[0, ..., channel].astype(float)
        weight = np.where(found > 80, found, 0)
        assert abs((weight * x).sum() / weight.sum() - centre) < 0.1
        assert abs((weight * y).sum() / weight.sum() - centre) < 0.1


def test_h264_refuses_odd_sizes_and_lossless_codecs_take_them() -> None:
    frames = pictures(3, 33, 47)
    with pytest.raises(BadVideoError, match=r"even width and height.*48x34"):
        encode_bytes(frames, rgb_encoding(), 20, 33, 47)
    for codec in ("ffv1", "png"):
        np.testing.assert_array_equal(read_frames(encode_bytes(frames, action_encoding(codec), 20, 33, 47)), frames)


@pytest.mark.parametrize("codec", ["h264", "ffv1", "png"])
def test_encoding_nothing_or_the_wrong_shape_is_refused(codec: str) -> None:
    with pytest.raises(BadVideoError, match="no frames"):
        encode_bytes([], action_encoding(codec), 20, H, W)
    with pytest.raises(BadVideoError, match="frame 1"):
        encode_bytes([pictures(1)[0], pictures(1, H + 2)[0]], action_encoding(codec), 20, H, W)


def test_an_error_of_the_frame_source_passes_through_the_encoder() -> None:
    def frames():
        yield pictures(1)[0]
        raise MissingFrameError("is missing", field="frame 1")

    with pytest.raises(MissingFrameError):
        encode(frames(), io.BytesIO(), rgb_encoding(), 20, H, W)


@pytest.mark.parametrize("codec", ["h264", "ffv1", "png"])
def test_every_truncation_is_an_error_and_not_fewer_frames(codec: str) -> None:
    data = encode_bytes(pictures(), action_encoding(codec), 20, H, W)
    for cut in range(0, len(data), max(1, len(data) // 60)):
        try:
            count = len(read_frames(data[:cut], range(T)))
        except (BadVideoError, MissingFrameError):
            continue
        # Matroska keeps its index at the end: what is cut there is not needed to decode every frame.
        assert count == T, f"{count} frames of {T} after {cut} of {len(data)} bytes"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_byte_is_an_error_or_a_picture_but_never_a_crash(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(["h264", "ffv1", "png"]))
    video = bytearray(encode_bytes(pictures(4), action_encoding(codec), 20, H, W))
    place = data.draw(st.integers(0, len(video) - 1))
    video[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = read_frames(bytes(video))
    except (BadVideoError, MissingFrameError):
        return
    assert found.dtype == np.uint8
    assert found.ndim == 4


@pytest.mark.parametrize("data", [b"", b"no video", b"PK\x03\x04 no zip", b"\x00" * 4096])
def test_what_is_no_video_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadVideoError, match="the name"):
        open_video(data, "the name")


def test_a_zip_with_compressed_or_foreign_members_is_refused() -> None:
    for names, method in ((["000000.png"], zipfile.ZIP_DEFLATED), (["../x.png"], 0), (["000001.png"], 0)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name in names:
                archive.writestr(name, b"\0" * 1000)
        with pytest.raises(BadVideoError):
            open_video(buffer.getvalue())


def test_a_png_that_claims_a_huge_size_is_refused_before_it_is_decoded() -> None:
    png = encode_bytes(pictures(1), action_encoding("png"), 20, H, W)
    start = png.index(b"\x89PNG")
    picture = bytearray(png[start : png.index(b"IEND") + 8])
    picture[16:20] = (65536).to_bytes(4, "big")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("000000.png", bytes(picture))
    with pytest.raises(BadVideoError, match="65536x48"):
        read_frames(buffer.getvalue())


def test_frames_past_the_end_are_refused(tmp_path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(encode_bytes(pictures(), rgb_encoding(), 20, H, W))
    with pytest.raises(MissingFrameError, match="22"):
        read_frames(path, [T])
    with pytest.raises(SourceNotFoundError, match=r"absent\.mp4"):
        open_video(tmp_path / "absent.mp4")
    source = VideoFrames(path)
    assert (len(source), source.height, source.width) == (T, H, W)
    np.testing.assert_array_equal(np.stack(list(source.frames([2, 9]))), read_frames(path)[[2, 9]])
    with pytest.raises(BadVideoError, match="increase"):
        list(source.frames([3, 3]))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(20, 20), (20 / 3, Fraction(20, 3)), (30000 / 1001, Fraction(30000, 1001)), (0.5, Fraction(1, 2))],
)
def test_frame_rates_are_exact_fractions(fps: float, expected: Fraction) -> None:
    assert frame_rate(fps) == expected
    with open_video(encode_bytes(pictures(5), rgb_encoding(), fps, H, W)) as video:
        assert video.info.fps == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (96, 64), (160, 300)])
def test_resized_pictures_agree_with_the_resized_camera(size: tuple[int, int]) -> None:
    """A spot in the picture is found where the resized camera projects its point."""
    height, width = 96, 120
    K = np.array([[100.0, 0, 60], [0, 100.0, 48], [0, 0, 1]])
    camera = Camera(K, np.eye(4), width, height)
    point = np.array([[0.08, -0.05, 1.0]])
    uv, _ = camera.project(point)
    y, x = np.mgrid[:height, :width] + 0.5
    spot = np.exp(-((x - uv[0, 0]) ** 2 + (y - uv[0, 1]) ** 2) / (2 * 4.0**2))
    picture = np.repeat(np.round(255 * spot)[..., None], 3, -1).astype(np.uint8)
    found = next(resized(iter([picture]), height, width, *size))[..., 0].astype(float)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    centre = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
    expected, _ = camera.resized(*size).project(point)
    np.testing.assert_allclose(centre, expected[0], atol=0.05 * max(1, size[1] / width))


def test_a_picture_of_another_size_than_its_stream_is_named() -> None:
    with pytest.raises(BadImageError, match=r"frame 1.*\(48, 64, 3\)"):
        list(resized(iter([pictures(1)[0], pictures(1, 50)[0]]), H, W, 32, 32))
