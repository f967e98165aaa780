"""Encoded pictures: decoded as OpenCV does, and refused where they are cut, damaged or made to take for ever."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actionimg_data.converters.kit.bags.pictures import decode_message
from actionimg_data.converters.kit.frames import HDF5Frames, ImageFiles, ZarrFrames
from actionimg_data.converters.kit.pictures import PngFrames
from actionimg_data.converters.lerobot import ParquetImages
from actionimg_data.converters.rlds import images
from actionimg_data.converters.rlds.features import Leaf
from actionimg_data.errors import BadImageError
from actionimg_data.untrusted import pictures

Image = np.ndarray
FACTOR = cv2.IMWRITE_JPEG_SAMPLING_FACTOR
H, W = 96, 128


@pytest.fixture(scope="module")
def scene() -> Image:
    noise = np.random.default_rng(7).integers(0, 255, (H, W, 3), np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX))


def encoded(picture: Image, suffix: str = ".jpg", *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, picture, options)[1].tobytes())


def by_opencv(data: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def middle_damaged(data: bytes, count: int = 0) -> bytes:
    """A run of zeros in the middle of what is not header."""
    count = count or len(data) // 8
    at = len(data) // 2
    return data[:at] + bytes(count) + data[at + count :]


KINDS = {
    "4:2:0": (".jpg", cv2.IMWRITE_JPEG_QUALITY, 90),
    "4:4:4": (".jpg", FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "4:2:2": (".jpg", FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    "4:4:0": (".jpg", FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": (".jpg", FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "progressive": (".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "png": (".png",),
    "webp": (".webp",),
    "bmp": (".bmp",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_has_the_pixels_that_opencv_gives(scene: Image, kind: str) -> None:
    for picture in (scene, scene[: H - 3, : W - 5], scene[..., 1].copy()):
        data = encoded(picture, *KINDS[kind])
        np.testing.assert_array_equal(pictures.decode(data, "x"), by_opencv(data))
        np.testing.assert_array_equal(pictures.decode(np.frombuffer(data, np.uint8)), by_opencv(data))
        assert pictures.decode(data, "x", 1).shape == (*picture.shape[:2], 1)
        out = np.zeros((*picture.shape[:2], 3), np.uint8)
        assert pictures.decode(data, "x", out=out) is out or np.shares_memory(pictures.decode(data, out=out), out)
        np.testing.assert_array_equal(out, by_opencv(data))


def test_a_png_comes_as_it_is_stored_where_that_is_asked_for(scene: Image) -> None:
    deep = scene[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(pictures.decode(encoded(deep, ".png"), channels=None)[..., 0], deep)
    clear = np.dstack([scene, scene[..., :1]])
    np.testing.assert_array_equal(pictures.decode(encoded(clear, ".png"), channels=None)[..., [2, 1, 0, 3]], clear)


# What is accepted, damaged or not.


def test_padding_is_no_damage(scene: Image) -> None:
    for data in (encoded(scene), encoded(scene, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        expected = by_opencv(data)
        for padded in (data + bytes(4000), data[:-2] + bytes(9) + data[-2:], data[:-2] + b"\xff" * 5 + data[-2:]):
            np.testing.assert_array_equal(pictures.decode(padded, "x"), expected)


def test_what_stands_behind_a_picture_or_in_its_header_is_no_scan(scene: Image) -> None:
    data = encoded(scene)
    note = b"\xff\xda\x00\x08" * 200
    comment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
    np.testing.assert_array_equal(pictures.decode(data[:2] + comment + data[2:], "x"), by_opencv(data))


@pytest.mark.realdata
def test_no_picture_of_the_samples_is_taken_for_a_damaged_one(sample_data: Path) -> None:
    seen = 0
    for path in sorted((sample_data / "rlds").rglob("*tfrecord*"))[:6]:
        data = path.read_bytes()
        at = data.find(b"\xff\xd8\xff\xe0\x00\x10JFIF")
        while at >= 0 and seen < 300:
            end = data.index(b"\xff\xd9", at) + 2
            one = data[at:end]
            np.testing.assert_array_equal(pictures.decode(one, path), by_opencv(one))
            pictures.decode(one + bytes(100), path)
            seen += 1
            at = data.find(b"\xff\xd8\xff\xe0\x00\x10JFIF", end)
    assert seen > 50


# Damage, in every reader.


def from_file(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    (folder / f"0{suffix}").write_bytes(data)
    return ImageFiles([str(folder / f"0{suffix}")], folder).frames([0])


def from_hdf5(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    with h5py.File(folder / "x.hdf5", "w") as file:
        file["rgb"] = np.frombuffer(data + bytes(50), np.uint8)[None]
    return HDF5Frames(folder / "x.hdf5", "rgb").frames([0])


def from_bag(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    yield decode_message(SimpleNamespace(format="jpeg", data=np.frombuffer(data, np.uint8)), "x.mcap: /rgb[0]")


def from_lerobot(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    table = {"front": [{"bytes": data, "path": "0.jpg"}], "episode_index": [0]}
    pq.write_table(pa.table(table), folder / "x.parquet")
    return ParquetImages.open(folder / "x.parquet", "front", 0).frames([0])


def from_rlds(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    leaf = Leaf("image", (None, None, 3), "uint8")
    yield images.decode(data, leaf)


def from_rlds_alike(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    """The second picture of an episode, of which the first was in order."""
    leaf = Leaf("image", (None, None, 3), "uint8")
    first = encoded(np.zeros((H, W, 3), np.uint8), suffix)
    head = images.header(first)
    out = np.empty((H, W, 3), np.uint8)
    if not images.decode_alike(data, leaf, out, first, head):
        out = images.decode(data, leaf)
    yield out


def from_zarr(data: bytes, folder: Path, suffix: str) -> Iterator[Image]:
    zarr = pytest.importorskip("zarr")
    codecs = pytest.importorskip("imagecodecs.numcodecs")
    if suffix != ".jpg":
        pytest.skip("pictures in zarr are JPEG, or have codecs that look for damage themselves")
    codecs.register_codecs(verbose=False)
    group = zarr.create_group(folder / "x.zarr", zarr_format=2)
    group.create_array(
        "rgb", shape=(1, H, W, 3), chunks=(1, H, W, 3), dtype="u1", compressors=codecs.Jpeg(), fill_value=None
    )
    (folder / "x.zarr/rgb/0.0.0.0").write_bytes(data)
    return ZarrFrames(folder / "x.zarr", "rgb").frames([0])


READERS = [from_file, from_hdf5, from_bag, from_lerobot, from_rlds, from_rlds_alike, from_zarr]


@pytest.mark.parametrize("read", READERS, ids=lambda r: r.__name__)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_whose_middle_is_damaged_is_refused_by_name(
    scene: Image, tmp_path: Path, read: Callable[[bytes, Path, str], Iterator[Image]], suffix: str
) -> None:
    data = encoded(scene, suffix)
    (tmp_path / "good").mkdir()
    assert next(read(data, tmp_path / "good", suffix)).shape == (H, W, 3)
    if suffix == ".jpg":
        # What there is to find: OpenCV shows it, with grey where it could not go on.
        assert by_opencv(middle_damaged(data)).shape == (H, W, 3)
    (tmp_path / "bad").mkdir()
    with pytest.raises(BadImageError, match="is damaged") as caught:
        next(read(middle_damaged(data), tmp_path / "bad", suffix))
    assert "rlds" in read.__name__ or "bad" in str(caught.value) or "x.mcap: /rgb[0]" in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_no_cut_is_missed(scene: Image, suffix: str) -> None:
    data = encoded(scene, suffix)
    for at in np.linspace(1, len(data) - 4, 40).astype(int):
        with pytest.raises(BadImageError):
            pictures.decode(data[:at], "x")


def test_pngs_of_a_numbered_folder_are_looked_at_too(scene: Image, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(middle_damaged(encoded(scene, ".png"), 10))
    with pytest.raises(BadImageError, match=r"0\.png: .*checksum does not match"):
        next(PngFrames(str(tmp_path), 1, W, H).frames([0]))


# Pictures that are made to take long.


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG in which the last scan comes again and again."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + data[-2:]


@pytest.mark.parametrize("read", READERS, ids=lambda r: r.__name__)
def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded(
    scene: Image, tmp_path: Path, read: Callable[[bytes, Path, str], Iterator[Image]]
) -> None:
    data = with_scans(encoded(scene, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 900)
    begin = time.process_time()
    with pytest.raises(BadImageError, match=r"more scans than a camera writes \(expected ≤ 64, found 900 scans\)"):
        next(read(data, tmp_path, ".jpg"))
    assert time.process_time() - begin < 2


def test_the_scans_that_encoders_write_are_read(scene: Image) -> None:
    data = with_scans(encoded(scene, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 60)
    assert pictures.decode(data, "x").shape == (H, W, 3)
    large = encoded(np.zeros((8192, 8192), np.uint8), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    with pytest.raises(BadImageError, match="expected ≤ 16, found 17 scans"):
        pictures.decode(with_scans(large, 17), "x")


def test_a_jpeg_of_four_inks_is_seen_as_pillow_sees_it(scene: Image) -> None:
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    PillowImage.fromarray(np.dstack([scene, scene[..., :1]]), "CMYK").save(buffer, "JPEG", quality=95)
    wanted = np.asarray(PillowImage.open(buffer).convert("RGB"))
    assert np.abs(pictures.decode(buffer.getvalue()).astype(int) - wanted).max() <= 2
    with pytest.raises(BadImageError, match=r"channels that cannot be converted.*found 4"):
        pictures.decode(buffer.getvalue(), channels=1)
