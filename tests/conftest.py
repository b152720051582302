"""Settings and fixtures that all tests share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall now and then, which says nothing about the code; CI repeats the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module")
def exact_int8() -> Iterator[int]:
    """While a module's tests run, `Int8` builds on this CPU; the value is how many bits its weights may have."""
    from exact_kernels import WEIGHT_BITS, int8_builds  # not where nobody asks: it imports torch

    with int8_builds():
        yield WEIGHT_BITS
