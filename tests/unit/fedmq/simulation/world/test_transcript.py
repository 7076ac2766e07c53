"""Transcripts: a digest over everything, words for the last steps."""

from federation.protocol.messages import Decline, Receipt, ReceiptStatus
from federation.protocol.wire import encode_message
from federation.types import RoundId, RunId, UpdateId
from fedmq.simulation.world.transcript import Transcript

RUN = RunId("0" * 16)
RECEIPT = encode_message(Receipt(run=RUN, update=UpdateId("9-ann"), status=ReceiptStatus.STORED))


def test_the_tail_says_in_words_what_happened() -> None:
    transcript = Transcript()
    transcript.message(12.0306, "ann", "←", "fl/x/n/ann/cmd", RECEIPT)
    transcript.message(13.0, "ann", "→", "fl/x/n/ann/up/9-ann/0", b"\x00" * 64)
    transcript.message(14.0, "ann", "→", "fl/x/n/ann/evt", b"nonsense")
    transcript.message(15.0, "coordinator-control", "→", "fl/x/n/ann/state", b"")
    transcript.note(16.0, "broker", "killed")
    assert [line.split(maxsplit=1)[1] for line in transcript.tail()][:2] == [
        "ann ← fl/x/n/ann/cmd Receipt update=9-ann status=stored reason=none",
        "ann → fl/x/n/ann/up/9-ann/0 (64 B)",
    ]
    assert ["unreadable" in line or "(cleared)" in line or "killed" in line for line in transcript.tail()][2:] == [
        True,
        True,
        True,
    ]
    assert transcript.steps == 5


def test_every_detail_shows_in_the_digest() -> None:
    decline = encode_message(Decline(run=RUN, round=RoundId(1), reason="busy", retry_after_s=1.0))
    steps = [(1.0, "ann", "→", "t", RECEIPT), (1.0, "bob", "→", "t", RECEIPT), (1.0, "ann", "↛", "t", RECEIPT)]
    steps += [(2.0, "ann", "→", "t", RECEIPT), (1.0, "ann", "→", "u", RECEIPT), (1.0, "ann", "→", "t", decline)]
    digests = set()
    for step in steps:
        transcript = Transcript()
        transcript.message(*step)
        digests.add(transcript.digest())
    assert len(digests) == len(steps)


def test_only_the_last_steps_are_kept() -> None:
    transcript = Transcript(tail=2)
    for number in range(5):
        transcript.note(float(number), "world", f"step {number}")
    assert [line.split()[-1] for line in transcript.tail()] == ["3", "4"]
