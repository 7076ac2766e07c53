"""Large updates on their way: bitmaps, sizes, and when they are given up."""

from dataclasses import replace

import pytest

from coordinator.engine.transfers import CHUNKS_UNDER_WAY_MAX, TRANSFER_IDLE_S, Arrival, Transfers
from coordinator.records import TransferRecord, UpdateRecord
from federation.types import Digest, ModelVersion, NodeId, RoundId, UpdateId
from tests.rigs.coordinator_rig import DIGEST, offer_of

UPDATE = UpdateId("0-ann")
RECORD = UpdateRecord(
    update=UPDATE, node=NodeId("ann"), round=RoundId(0), base_version=ModelVersion(0), num_examples=1, codec="edge",
    payload_bytes=10, payload_digest=DIGEST,
)  # fmt: skip
SAVED = TransferRecord(record=RECORD, chunk_bytes=4, arrived=frozenset({2}))


def test_a_recovered_transfer_goes_on_where_it_was() -> None:
    """FED-47: what arrived stays."""
    transfer = Transfers((SAVED,)).get(UPDATE)
    assert transfer is not None
    assert transfer.bitmap.to_bytes() == b"\x04"
    assert not transfer.bitmap.complete


@pytest.mark.parametrize(
    ("index", "body", "arrival"),
    [
        (0, b"0123", Arrival.NEW),
        (0, b"012", Arrival.FOREIGN),
        (2, b"89", Arrival.KNOWN),
        (2, b"8901", Arrival.FOREIGN),
        (3, b"", Arrival.FOREIGN),
        (-1, b"0123", Arrival.FOREIGN),
    ],
)
def test_a_chunk_has_its_place_and_its_size(index: int, body: bytes, arrival: Arrival) -> None:
    """FED-55: every chunk but the last is full."""
    transfer = Transfers((SAVED,)).get(UPDATE)
    assert transfer is not None
    assert transfer.arrival(index, body) is arrival


def test_what_is_on_disk_is_granted_no_more() -> None:
    """FED-46, FED-47."""
    transfer = Transfers((SAVED,)).get(UPDATE)
    assert transfer is not None
    transfer.grant(2)
    assert not transfer.wants_grant
    transfer.take(0)
    assert transfer.wants_grant
    granted = transfer.grant(2)
    assert (granted.update, granted.bitmap, granted.window) == (UPDATE, transfer.bitmap.to_bytes(), 2)
    assert 0 in transfer.bitmap
    assert not transfer.wants_grant
    for index in transfer.bitmap.missing():
        transfer.take(index)
    assert transfer.complete


@pytest.mark.parametrize(
    "changes", [{"payload_digest": Digest(b"y" * 16)}, {"payload_bytes": 9}, {"chunk_bytes": 5}, {}]
)
def test_an_offer_of_other_bytes_is_another_transfer(changes: dict[str, object]) -> None:
    transfer = Transfers((SAVED,)).get(UPDATE)
    assert transfer is not None
    same = offer_of("ann", 0, payload_bytes=10, chunk_bytes=4, inline=None)
    assert transfer.matches(replace(same, **changes)) is (not changes)  # type: ignore[arg-type]


def test_a_transfer_is_given_up_after_a_long_silence() -> None:
    transfers = Transfers((SAVED,))
    transfers.touch(UPDATE, 5.0)
    assert transfers.next_timer() == 5.0 + TRANSFER_IDLE_S
    assert [transfer.record for transfer in transfers.idle(5.0 + TRANSFER_IDLE_S)] == [RECORD]
    transfers.close(UPDATE)
    transfers.close(UPDATE)
    assert len(transfers) == 0


def test_all_windows_together_fit_the_queue_of_a_broker_that_drops_what_is_beyond() -> None:
    transfers = Transfers(())
    assert transfers.window(32) == 32
    for number in range(CHUNKS_UNDER_WAY_MAX + 1):
        update = UpdateId(f"{number}-ann")
        transfers.open(replace(SAVED, record=replace(RECORD, update=update)), 0.0)
        window = transfers.window(32)
        assert window == 1 or (number + 1) * window <= CHUNKS_UNDER_WAY_MAX
    assert transfers.window(32) == 1


def test_transfers_may_end_while_they_are_gone_through() -> None:
    transfers = Transfers((SAVED, replace(SAVED, record=replace(RECORD, update=UpdateId("9-bob")))))
    assert [transfers.close(transfer.record.update) for transfer in transfers] == [True, True]
    assert [transfers.close(UPDATE), *transfers] == [False]
