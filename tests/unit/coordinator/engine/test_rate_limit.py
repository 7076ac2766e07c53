"""A node that sends too much is cut off, and nobody else is."""

from coordinator.engine.timers import RateLimit
from federation.types import NodeId

LOUD, QUIET = NodeId("loud"), NodeId("quiet")
PER_S, BURST = 512.0, 1_000.0


def made() -> RateLimit[NodeId]:
    return RateLimit(per_s=PER_S, burst=BURST)


def test_a_flood_costs_its_sender_only() -> None:
    rate_limit = made()
    admitted = sum(rate_limit.admits(LOUD, 100.0) for _ in range(int(BURST) + 500))
    assert admitted == BURST
    assert rate_limit.admits(QUIET, 100.0)


def test_a_node_is_heard_again_at_its_pace() -> None:
    rate_limit = made()
    while rate_limit.admits(LOUD, 100.0):
        pass
    assert sum(rate_limit.admits(LOUD, 100.125) for _ in range(1_000)) == int(PER_S * 0.125)
    assert sum(rate_limit.admits(LOUD, 3_700.0) for _ in range(5_000)) == BURST


def test_a_slow_pace_is_reached_by_whoever_asks_all_the_time() -> None:
    rate_limit = RateLimit[NodeId](per_s=0.1, burst=1)
    assert [second for second in range(25) if rate_limit.admits(LOUD, float(second))] == [0, 10, 20]


def test_invented_names_do_not_fill_the_memory() -> None:
    rate_limit = made()
    for number in range(RateLimit.keys_max + 1):
        assert rate_limit.admits(NodeId(str(number)), 100.0)
    assert len(rate_limit) <= RateLimit.keys_max
