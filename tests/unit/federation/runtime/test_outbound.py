"""The outgoing queue keeps its bounds, its order and its books."""

from hypothesis import given
from hypothesis import strategies as st

from federation.runtime.outbound import Outbound, Outgoing


def _message(number: int, *, qos: int = 1, size: int = 10) -> Outgoing:
    return Outgoing(f"t/{number}", bytes(size), qos, False)


def _queue(*, messages_max: int = 100, bytes_max: int = 1_000) -> Outbound:
    return Outbound(messages_max=messages_max, bytes_max=bytes_max)


def _send(queue: Outbound, window: int) -> list[Outgoing]:
    sent: list[Outgoing] = []
    while (message := queue.take(window)) is not None:
        queue.sent(len(sent) + 1, message)
        sent.append(message)
    return sent


def test_messages_leave_in_order_up_to_the_window() -> None:
    queue = _queue()
    messages = [_message(number) for number in range(5)]
    assert all(queue.offer(message) for message in messages)
    assert _send(queue, 3) == messages[:3]
    assert queue.take(3) is None
    assert queue.settle(1) == messages[0]
    assert queue.take(3) == messages[3]


def test_a_full_queue_counts_what_it_refuses() -> None:
    queue = _queue(messages_max=2)
    assert [queue.offer(_message(number)) for number in range(4)] == [True, True, False, False]
    assert (len(queue), queue.dropped) == (2, 2)


def test_bytes_are_bounded_until_they_are_acknowledged() -> None:
    queue = _queue(bytes_max=25)
    assert [queue.offer(_message(number)) for number in range(3)] == [True, True, False]
    _send(queue, 10)
    assert not queue.offer(_message(4))
    queue.settle(1)
    assert queue.offer(_message(5))


def test_an_unknown_packet_id_settles_nothing() -> None:
    assert _queue().settle(7) is None


def test_a_message_that_was_given_back_is_next_again() -> None:
    queue = _queue()
    for number in range(2):
        queue.offer(_message(number))
    first = queue.take(10)
    assert first is not None
    queue.give_back(first)
    assert queue.take(10) == first


def test_a_dropped_or_refused_message_frees_its_bytes_and_is_counted() -> None:
    queue = _queue(bytes_max=10)
    queue.offer(_message(1))
    message = queue.take(10)
    assert message is not None
    queue.drop(message)
    queue.refuse()
    assert queue.dropped == 2
    assert queue.offer(_message(2))


def test_a_lost_connection_forgets_qos_0_only() -> None:
    queue = _queue()
    for number, qos in enumerate((0, 1, 0, 1)):
        queue.offer(_message(number, qos=qos))
    _send(queue, 2)
    queue.forget_unreliable()
    assert (len(queue), queue.dropped) == (2, 2)
    queue.rewind()
    assert [message.topic for message in _send(queue, 10)] == ["t/1", "t/3"]


def test_a_lost_connection_forgets_perishable_messages_and_says_how_many_were_in_flight() -> None:
    queue = Outbound(messages_max=8, bytes_max=1000, perishable="t/up/")
    for topic in ("t/up/0", "t/0", "t/up/1", "t/up/2"):
        queue.offer(Outgoing(topic, b"x", 1, retain=False))
    _send(queue, 3)
    assert queue.forget_unreliable() == 2
    assert (len(queue), queue.dropped) == (1, 3)
    queue.rewind()
    assert [message.topic for message in _send(queue, 10)] == ["t/0"]
    assert not queue.survives("t/up/9", 1)
    assert queue.survives("t/9", 1)


def test_rewind_puts_the_unacknowledged_in_front_in_their_order() -> None:
    queue = _queue()
    messages = [_message(number) for number in range(5)]
    for message in messages:
        queue.offer(message)
    _send(queue, 3)
    queue.settle(2)
    queue.rewind()
    assert _send(queue, 10) == [messages[0], messages[2], messages[3], messages[4]]


@given(st.lists(st.sampled_from(["offer", "offer0", "send", "settle", "lose", "rewind"]), max_size=60))
def test_whatever_happens_the_bounds_hold_and_no_qos_1_message_vanishes(steps: list[str]) -> None:
    queue = _queue(messages_max=8, bytes_max=50)
    accepted = settled = mid = 0
    for number, step in enumerate(steps):
        if step == "offer":
            accepted += queue.offer(_message(number))
        elif step == "offer0":
            queue.offer(_message(number, qos=0))
        elif step == "send" and (message := queue.take(3)) is not None:
            mid += 1
            queue.sent(mid, message)
        elif step == "settle" and (answered := queue.settle(mid)) is not None:
            settled += answered.qos
        elif step == "lose":
            queue.forget_unreliable()
        elif step == "rewind":
            queue.rewind()
        assert len(queue) <= 8
    queue.forget_unreliable()
    assert len(queue) == accepted - settled
