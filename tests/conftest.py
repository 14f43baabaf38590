"""Fixtures that more than one part of the suite needs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("lowdino", deadline=None)  # two shared cores: a deadline would measure the neighbours
settings.load_profile("lowdino")
os.environ.setdefault("OMP_NUM_THREADS", "2")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup; the commands under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indices of folders and fetched shards do not outlive the suite, and none is found from before."""
    os.environ["LOWDINO_CACHE"] = str(tmp_path_factory.mktemp("lowdino-cache"))


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """A test's random weights and images do not depend on what ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of real image sets: $LOWDINO_TEST_DATA, or ../shared/data beside the checkout, unpacked."""
    named = os.environ.get("LOWDINO_TEST_DATA")
    if named:
        return Path(named)
    unpack = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack"
    if not unpack.is_file():
        pytest.skip("no real images: set LOWDINO_TEST_DATA to a folder with cifar10/{train,val}/CLASS/*")
    out = tmp_path_factory.mktemp("real-data")
    subprocess.run([str(unpack), str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def real_cifar(real_data: Path) -> Path:
    """CIFAR-10 images as cifar10/{train,val}/CLASS/*.webp."""
    path = real_data / "cifar10"
    if not path.is_dir():
        pytest.skip(f"no cifar10 folder in {real_data}")
    return path
