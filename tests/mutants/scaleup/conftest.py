"""The fixtures of scaleup's tests."""

from tests.scaleup.conftest import folders, fresh_accelerate  # noqa: F401
