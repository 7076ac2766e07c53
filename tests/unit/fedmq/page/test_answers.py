"""Answers are made once for each change, packed, and not sent again to whoever has them; a flood waits."""

import asyncio
import gzip

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from fedmq.page.access import BURST_S, SHARE_MAX, Pacing
from fedmq.page.answers import BODY_MAX, KEPT_MAX, PACKED_MIN, SharedAnswers, make_answer


def request(**headers: str) -> Request:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": told})


def test_a_small_answer_is_not_packed_and_a_large_one_not_kept_unpacked() -> None:
    small = make_answer((b"x" * (PACKED_MIN - 1),), "m", "text/plain")
    assert (small.packed, len(small.body)) == (b"", PACKED_MIN - 1)
    middle = make_answer((b"x" * PACKED_MIN,), "m", "text/plain")
    assert gzip.decompress(middle.packed) == middle.body == b"x" * PACKED_MIN
    large = make_answer([b"x" * 100] * (BODY_MAX // 100 + 1), "m", "text/plain")
    assert large.body == b""
    assert large.whole() == b"x" * 100 * (BODY_MAX // 100 + 1)


def test_each_gets_it_as_it_can_read_it_and_nobody_twice() -> None:
    answer = make_answer((b"x" * 5000,), "m", "text/plain")
    packed = answer.response(request(accept_encoding="br, gzip"))
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(bytes(packed.body)) == answer.whole()
    assert answer.response(request()).body == answer.whole()
    same = answer.response(request(if_none_match='W/"old", "m"'))
    assert (same.status_code, same.body) == (304, b"")
    assert answer.response(request(if_none_match='"n"')).status_code == 200


def test_it_is_made_once_for_each_change() -> None:
    shared, made = SharedAnswers(), list[str]()

    def make() -> list[bytes]:
        made.append("x")
        return [b"body"]

    first = shared.made("/a", "1", "text/plain", make)
    assert shared.made("/a", "1", "text/plain", make) is first
    assert shared.known("/a", "1") is first
    assert shared.known("/a", "2") is None
    shared.made("/a", "2", "text/plain", make)
    assert len(made) == 2
    for number in range(KEPT_MAX):
        shared.made(f"/{number}", "2", "text/plain", make)
    assert shared.known("/a", "2") is None, "old questions are forgotten"
    assert shared.known(f"/{KEPT_MAX - 1}", "2") is not None


class Machine:
    """A clock, and the processor time that answers take."""

    def __init__(self) -> None:
        self.now_s = self.spent_s = 0.0

    async def answer(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        self.spent_s += 1.0


async def no_message() -> Message:
    return {}


async def forget(_message: Message) -> None:
    return


def test_whoever_floods_it_waits() -> None:
    machine = Machine()
    pacing = Pacing(machine.answer, lambda: machine.now_s, lambda: machine.spent_s)
    for _ in range(int(BURST_S)):
        asyncio.run(pacing({"type": "http", "path": "/"}, no_message, forget))
    assert pacing.wait_s() == 0.0
    machine.spent_s += 1.0
    assert pacing.wait_s() == 1.0 / SHARE_MAX
    machine.now_s += 0.5 / SHARE_MAX
    assert pacing.wait_s() == 0.5 / SHARE_MAX
    before_s = machine.spent_s
    asyncio.run(asyncio.wait_for(pacing({"type": "http", "path": "/healthz"}, no_message, forget), 5))
    assert machine.spent_s > before_s, "whether it lives is told at once"
    machine.now_s += 100.0
    assert pacing.wait_s() == 0.0
    machine.spent_s += BURST_S
    assert pacing.wait_s() == 0.0
    machine.spent_s += 1.0
    assert pacing.wait_s() == 1.0 / SHARE_MAX, "an idle time counts no more than the burst"
