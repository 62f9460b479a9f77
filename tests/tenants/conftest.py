"""Deployments with tenants, each for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.marks import starts_engine
from tests.support.served_tenants import Served, serving_tenants


@pytest.fixture(scope="package", params=["colocated", "disaggregated"])
@starts_engine
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One engine, or a router before workers."""
    with serving_tenants(request.param, tmp_path_factory.mktemp("tenants")) as served:
        yield served
