"""What is said when a Ray cluster does not take this machine."""

import pytest

from prefillshare.cluster.connection import _explain


@pytest.mark.parametrize(
    ("address", "reason", "said"),
    [
        ("head:6379", "Version mismatch: the cluster has Ray 2.60.0", "install the same Python and the same ray"),
        ("ray://head:10001", "Version mismatch: the cluster has Ray 2.60.0", "install the same Python"),
        ("ray://head:6379", "ray client connection timeout", "the port of the client server"),
        ("head:6379", "no node here", "run `ray start --address=head:6379` here"),
    ],
)
def test_the_message_names_the_fix(address: str, reason: str, said: str) -> None:
    assert said in _explain(address, reason)
