"""Filters match as MQTT 5 says, and the tree finds what a look at everybody finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.testing.topics import SubscriptionTree, matches

_LEVEL = st.sampled_from(["a", "b", "", "$s"])
_TOPIC = st.lists(_LEVEL, min_size=1, max_size=4).map("/".join)
_FILTER = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(st.sampled_from(["a", "b", "", "$s", "+"]), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
) | st.just("#")


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("+/b/+", "a/b/c", True),
        ("+", "", True),
    ],
)
def test_the_specification_s_own_examples(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected
    tree = SubscriptionTree()
    tree.add(topic_filter, "c", 1)
    assert list(tree.subscribers(topic)) == ([("c", 1)] if expected else [])


@given(st.lists(st.tuples(_FILTER, st.sampled_from("xyz"), st.booleans()), max_size=12), _TOPIC)
def test_the_tree_finds_what_a_look_at_everybody_finds(steps: list[tuple[str, str, bool]], topic: str) -> None:
    tree, plain = SubscriptionTree(), dict[tuple[str, str], int]()
    for number, (topic_filter, client, add) in enumerate(steps):
        if add:
            tree.add(topic_filter, client, number % 2)
            plain[topic_filter, client] = number % 2
        else:
            tree.remove(topic_filter, client)
            plain.pop((topic_filter, client), None)
    expected = sorted((client, qos) for (wanted, client), qos in plain.items() if matches(wanted, topic))
    assert sorted(tree.subscribers(topic)) == expected
