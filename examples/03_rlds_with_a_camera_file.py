"""An RLDS data set of one's own without calibration: an entry for its features, a camera file for its views.

    python examples/03_rlds_with_a_camera_file.py --out DIR

RLDS says how values are stored, not what they mean. The entry says that, once for the data set; the camera file says
where the cameras are. TensorFlow is not needed. It leaves the data set in ``DIR/shards``, the two files, and
``DIR/03_rlds_with_a_camera_file.png``, the contact sheet to look at before converting. On the command line:

    actionimg convert rlds DIR/my_robot shards --config my_robot.yaml --camera-file cameras.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from actionimg_data import ActionImageSpec, engine
from actionimg_data.converters.base import converter_class
from actionimg_data.converters.rlds import open_rlds
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.report import pictures
from actionimg_data.schemas import ConvertOptions

ENTRY = """\
names: [my_robot]
robot: our arm with a parallel gripper
views:
  front: {image: observation/front_rgb}
  right_shoulder: {image: observation/right_shoulder_rgb}
pose:
  position: {columns: ["observation/ee_pose[0:3]"], unit: m}
  rotation: {columns: ["observation/ee_pose[3:7]"], form: quaternion, order: wxyz}
  frame: robot base
gripper: {columns: [observation/gripper_closedness], kind: absolute, closed: 1, open: 0}
instruction: {keys: [language_instruction]}
fps: 20
# The log reports a flange; the fingertips are 12 cm in front of it, turned by 45 degrees.
tool_from_gripper: {translation: [0, 0, 0.12], euler_xyz_deg: [0, 0, 45]}
calibration: {kind: none}
"""

# As calibrated, at 256 pixels; pictures of the same aspect at another size are served too.
CAMERAS = """\
cameras:
  front:
    K: [[351.68, 0, 128], [0, 351.68, 128], [0, 0, 1]]
    width: 256
    height: 256
    world_from_camera: [[0, 0.4338, -0.9010, 1.34], [1, 0, 0, 0], [0, -0.9010, -0.4338, 1.42], [0, 0, 0, 1]]
  right_shoulder:
    K: [[351.68, 0, 128], [0, 351.68, 128], [0, 0, 1]]
    width: 256
    height: 256
    world_from_camera:
      [[0.9778, -0.1128, 0.1766, 0.08], [-0.2095, -0.5262, 0.8241, -0.98], [0, -0.8428, -0.5382, 1.52], [0, 0, 0, 1]]
"""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_03", type=Path, help="folder for everything")
    parser.add_argument("--size", default=192, type=int, help="width and height of the pictures")
    parser.add_argument("--frames", default=40, type=int, help="steps of an episode")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    folder, _, _ = write_rlds_demo(
        options.out, frames=options.frames, size=options.size, cameras=("front", "right_shoulder"), name="my_robot"
    )

    # What is stored, without any meaning yet: nested dicts shaped like features.json.
    (episode, *_) = open_rlds(folder).episodes("train[:1]")
    for name, values in episode["steps"]["observation"].items():
        print(f"observation/{name}: {values.dtype} {values.shape}")

    (options.out / "my_robot.yaml").write_text(ENTRY)
    (options.out / "cameras.yaml").write_text(CAMERAS)
    given = {"config": str(options.out / "my_robot.yaml"), "camera_file": str(options.out / "cameras.yaml")}
    cls = converter_class("rlds")
    converter = cls(cls.Options.parse(given, "rlds"))

    first = converter.read(next(iter(converter.discover(str(folder)))))
    picture = options.out / "03_rlds_with_a_camera_file.png"
    spec = ActionImageSpec(height=options.size, width=options.size)
    picture.write_bytes(pictures.png_bytes(pictures.contact_sheet(first, spec, columns=5, tile=160)))
    print(f"look at {picture}: is the red blob between the fingertips?")

    shards = options.out / "shards"
    engine.convert(converter, str(folder), shards, ConvertOptions.parse(height=options.size, width=options.size))
    report = engine.verify(shards).summary()
    print(f"verified: {report['ok']}, {report['samples']} samples in {shards}")
    return report


if __name__ == "__main__":
    main()
