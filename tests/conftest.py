"""One thread for torch in all tests: cores are few, and a forked child that misses its threads waits for ever.

No test asks the Hub, and none waits for a network that is not there.
"""

import gc
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything is imported that reads it
gc.disable()  # until all is imported, of which nothing is garbage

TESTS = Path(__file__).parent
# tests/recorded is imported as `recorded`, and so are the others; tests/ itself stays off sys.path, where its folders
# datasets and models would be taken for packages of these names
for name in ("recorded", "faults", "started"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(TESTS / name)]


def pytest_collection_finish() -> None:
    """Before the first test of a process that runs any; to hand out the tests, torch need not be imported."""
    import torch

    torch.set_num_threads(1)
    # autograd counts the devices at its first use; with one that a test pretends, no fork of this process has gradients
    torch.ones((), requires_grad=True).backward()
    gc.freeze()  # what has been imported stays, and no collection has to look at it again
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores for `-n auto`: tests of whole runs wait for processes a good part of their time."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Workers that are done take over what another has left: tests of whole runs come last, and many to one worker."""
    if config.getoption("dist") == "load":
        from xdist.scheduler import WorkStealingScheduling

        return WorkStealingScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def own_precision():
    """No file's tests compute in the precision that another's have asked Accelerate for, which keeps the first."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def parity():
    """The script that runs golden cases, as a module."""
    spec = importlib.util.spec_from_file_location("parity", TESTS / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
