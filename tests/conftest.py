"""What all tests share: one thread, a plotting backend without a screen, property tests that repeat, real data."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Before torch is imported; child processes inherit these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

import typecheck  # noqa: E402

# All of palate but its command line, which gives functions the signatures of the models' settings.
package = find_spec("palate")  # that of the repository, or the installed one where the tests were copied
assert package is not None
home = Path(next(iter(package.submodule_search_locations or ())))
rooms = {f"palate.{path.stem}" for path in home.iterdir() if not path.name.startswith(("_", "cli"))}
jaxtyping.jaxtyped = typecheck.jaxtyped  # type: ignore[assignment]
jaxtyping.install_import_hook(sorted(rooms), "typecheck.check")
torch.set_num_threads(1)
settings.register_profile("palate", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("palate")


def pytest_runtest_setup() -> None:
    """Types are checked anew in each test."""
    typecheck.test_number += 1


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Whatever asks for `real_data` is marked `data`."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("ml-100k")` is that data set's folder; a test that needs it skips where it is absent.

    Looks in the folder that the environment variable PALATE_TEST_DATA names, else in ../shared/data, seen from the
    repository.
    """
    home = Path(os.environ.get("PALATE_TEST_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        folder = home / name
        if not folder.is_dir():
            pytest.skip(f"no folder {name} in {home}; set PALATE_TEST_DATA to where real data sets are kept")
        return folder

    return find


def pytest_collection_finish() -> None:
    """What has been imported stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
