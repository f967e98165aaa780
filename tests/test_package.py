"""The package as it is installed: its list of packages, its lazy imports, its entry points, its errors."""

from __future__ import annotations

import inspect
import pickle
import sys
from pathlib import Path

import pytest
from processes import run_program

import actionimg_data as aid
from actionimg_data import errors
from actionimg_data.converters import base

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]


def test_every_folder_with_modules_is_in_the_list_of_packages() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for folder, package in (("actionimg_data",) * 2, ("converters",) * 2, ("schemas",) * 2):
        prefix = package if package == "actionimg_data" else f"actionimg_data.{package}"
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.parent.relative_to(ROOT / folder)
            if folder == "actionimg_data" and inside.parts[:1] in (("converters",), ("schemas",)):
                continue
            found.add(".".join((prefix, *inside.parts)))
    assert found == listed


def test_links_for_static_tools_are_relative_and_resolve() -> None:
    for name in ("converters", "schemas"):
        link = ROOT / "actionimg_data" / name
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == ROOT / name


def test_import_brings_in_nothing_heavy() -> None:
    code = "import sys, actionimg_data; print(' '.join(m for m in sys.modules if '.' not in m))"
    loaded = run_program([sys.executable, "-c", code]).stdout.split()
    assert not set(loaded) & {
        "numpy",
        "scipy",
        "cv2",
        "av",
        "pyarrow",
        "torch",
        "trimesh",
        "pydantic",
        "rich",
    }


def test_the_core_never_imports_torch() -> None:
    code = (
        "import sys, actionimg_data as a; a.render, a.decode, a.Camera, a.ActionImageSpec, a.open_dataset\n"
        "import actionimg_data.engine, actionimg_data.cli\n"
        "from actionimg_data.converters import base; [base.converter_class(n) for n in base.names()]\n"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = run_program([sys.executable, "-c", code])
    assert done.stdout.split() == ["False", "False"]


def test_public_names_resolve_and_are_listed() -> None:
    for name in (
        "Camera",
        "CameraTrack",
        "GripperTrajectory",
        "ActionImageSpec",
        "render",
        "decode",
        "open_dataset",
    ):
        assert name in dir(aid)
        assert callable(getattr(aid, name))
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        aid.rendr  # noqa: B018


def test_decode_is_its_package_and_its_function() -> None:
    import actionimg_data.decode as package
    from actionimg_data.decode import decode

    assert aid.decode is package is pickle.loads(pickle.dumps(package))
    spec = aid.ActionImageSpec(height=64, width=64)
    camera = aid.Camera(
        [[80.0, 0, 32], [0, 80, 32], [0, 0, 1]], [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1], [0, 0, 0, 1]], 64, 64
    )
    video = aid.render(aid.GripperTrajectory([[0.0, 0, 0]], [[0.0, 0, 0, 1]], [1.0], [0.0]), [camera], spec)
    called, direct = aid.decode(video, [camera], spec), decode(video, [camera], spec)
    assert (called.trajectory.position == direct.trajectory.position).all()


def test_every_registered_converter_loads_and_documents_its_options() -> None:
    assert {"rlbench", "action-images", "rlds"} <= set(base.names())
    for name in base.names():
        cls = base.converter_class(name)
        assert cls.name == name
        assert cls.summary
        assert cls.explain()
        for option, field in cls.Options.model_fields.items():
            assert field.description, f"{name}: option {option} has no description"


def test_a_typo_in_a_format_gets_a_suggestion() -> None:
    with pytest.raises(errors.InvalidSpecError, match="Did you mean 'rlbench'"):
        base.converter_class("rlbnch")


ERROR_CLASSES = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, errors.ActionImgError) and cls is not errors.ActionImgError
]


@pytest.mark.parametrize("cls", ERROR_CLASSES, ids=lambda c: c.__name__)
def test_errors_are_stdlib_errors_have_their_own_code_and_survive_pickling(
    cls: type[errors.ActionImgError],
) -> None:
    assert any(
        issubclass(cls, base) for base in (ValueError, OSError, RuntimeError, ImportError, pickle.UnpicklingError)
    )
    assert [c.code for c in ERROR_CLASSES].count(cls.code) == 1
    error = cls("is wrong", where="a.bin", field="size", expected=3, found=4, hint="Do this.")
    text = "a.bin: size: is wrong (expected 3, found 4). Do this."
    assert str(error) == text
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.where) == (cls, text, "a.bin")


def test_errors_print_no_control_characters() -> None:
    error = errors.BadFileError("is wrong", where="a\x1b[31m\n", found="\x07" * 1000)
    assert str(error).isprintable()
    assert len(str(error)) < 300
