from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, however slow the machine: `--hypothesis-profile=search` looks for others.
settings.register_profile(
    "suite", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with two threads each wait for one another on two cores, some of them spinning.
    for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_threads, "1")

# A command that is not told how many processes to use starts none: each would import everything anew.
os.environ["PYTHON_CPU_COUNT"] = "1"


def _sample_data_root() -> Path | None:
    named = os.environ.get("ACTIONIMG_TEST_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return root if root.is_dir() else None


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real samples; tests that need it are skipped, by name, where it is absent."""
    root = _sample_data_root()
    if root is None:
        pytest.skip("sample data not found: set ACTIONIMG_TEST_DATA or put it at ../shared/data")
    return root


LONG = ("test_ray.py", "test_training_processes.py", "test_docs_site.py", "test_guess.py", "test_examples.py")
"""Files with tests of many seconds; they come first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests live as long as the process: the garbage collector is not to look through them each time.

    It took a fourth of the time of collecting, and half a second of every `gc.collect()` of a test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module")
def settled_heap() -> None:
    """What earlier tests have imported is left alone too, for tests that collect garbage many times."""
    gc.collect()
    gc.freeze()
