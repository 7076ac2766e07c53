"""A node that sends too much is cut off, and nobody else is."""

from coordinator.runtime.inbound import BURST_MESSAGES, MESSAGES_PER_S, NODES_MAX, RateLimit
from federation.types import NodeId

LOUD, QUIET = NodeId("loud"), NodeId("quiet")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_costs_its_sender_only() -> None:
    rate_limit = RateLimit(Clock())
    admitted = sum(rate_limit.admits(LOUD) for _ in range(int(BURST_MESSAGES) + 500))
    assert admitted == BURST_MESSAGES
    assert rate_limit.admits(QUIET)


def test_a_node_is_heard_again_at_its_pace() -> None:
    clock = Clock()
    rate_limit = RateLimit(clock)
    while rate_limit.admits(LOUD):
        pass
    clock.now += 0.125
    assert sum(rate_limit.admits(LOUD) for _ in range(1_000)) == int(MESSAGES_PER_S * 0.125)
    clock.now += 3_600.0
    assert sum(rate_limit.admits(LOUD) for _ in range(5_000)) == BURST_MESSAGES


def test_invented_names_do_not_fill_the_memory() -> None:
    rate_limit = RateLimit(Clock())
    for number in range(NODES_MAX + 1):
        assert rate_limit.admits(NodeId(str(number)))
    assert len(rate_limit._left) <= NODES_MAX
