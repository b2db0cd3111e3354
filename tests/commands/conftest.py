"""Every test of a command runs offline, and compiles a model once for all tests."""

import pytest


@pytest.fixture(autouse=True)
def offline(offline_and_compiled_once):
    pass
