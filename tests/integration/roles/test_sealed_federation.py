"""A sealed federation of real processes whose broker is overheard: what passes tells nothing of updates and model."""

import pytest

from benchmarks.privacy.recording import Recording, Site
from benchmarks.privacy.sealing import overhear, read_by
from federation.protocol.messages import CoordinatorState, NodeState, Rebirth, RoundAnnouncement
from federation.protocol.sealed_messages import KeyWrap, Sealed
from federation.protocol.wire import decode_message
from federation.storage.sealing_keys import FILE, read_keys

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("sealed"),
]

VERSIONS = 2


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("sealed"), 2, "quadratic-50", start="spawn")
    made.prepare()
    return made


def run(site: Site, versions: int, *, nodes: int = 2, **flags: object) -> dict[str, object]:
    shared = {"round.concurrency": nodes, "round.quorum": nodes, "round.nodes_min": nodes, "round.versions": versions}
    return {**shared, **{name.replace("__", "."): value for name, value in flags.items()}}


def said(recording: Recording, ending: str) -> list[object]:
    return [decode_message(payload) for payload in recording.on(ending)]


def test_a_broker_that_records_reads_nothing_and_a_revoked_node_reads_no_further(site: Site) -> None:
    """FED-162, FED-163, FED-166, FED-168, FED-169."""
    state = site.folder / "state"
    state.mkdir()
    heard = overhear(site, state, site.names, run(site, VERSIONS))
    codecs = {frame[40 : 40 + frame[7]] for frame in heard.frames}  # said in the clear by each announcement
    hits, total = heard.recording.shared_runs(heard.frames, known=[heard.shape, *sorted(codecs)])
    assert (hits, heard.metrics) == (0, ("loss",))
    assert total > 100
    assert not heard.recording.holds(b"loss")
    assert {type(one) for one in said(heard.recording, "evt")} == {Sealed}
    assert {type(one) for one in said(heard.recording, "tel")} <= {Sealed}
    assert {type(one) for one in said(heard.recording, "cmd")} <= {Sealed, Rebirth}
    assert {type(one) for one in said(heard.recording, "key")} == {KeyWrap}
    keys = [state / "coordinator", *(state / name for name in site.names)]
    assert all((folder / FILE).stat().st_mode & 0o777 == 0o600 for folder in keys)

    gone, other = site.names
    epoch = read_keys(state / "coordinator").groups[-1].epoch
    site.fleet.revoke([gone])
    after = overhear(site, state, [other], run(site, VERSIONS + 1, nodes=1), fresh=False)
    assert read_keys(state / "coordinator").groups[-1].epoch > epoch
    opened, seen = read_by(after.recording, state / gone, gone, VERSIONS + 1)
    assert (opened, seen) == (0, len([one for one in after.recording.messages if f"/model/{VERSIONS + 1}/" in one[0]]))
    assert read_by(after.recording, state / other, other, VERSIONS + 1) == (seen, seen)
    assert seen > 0


def test_the_same_recording_of_a_run_that_is_not_sealed_has_it_all(site: Site) -> None:
    """FED-164: the check above can fail."""
    state = site.folder / "open"
    state.mkdir()
    names = site.names[1:]  # the other test may have shut the first one out
    heard = overhear(site, state, names, run(site, VERSIONS, nodes=1, privacy__sealed=False))
    hits, total = heard.recording.shared_runs(heard.frames, known=[heard.shape])
    assert hits > total / 2
    assert heard.recording.holds(b"loss")
    assert not any(isinstance(one, Sealed) for one in said(heard.recording, "evt"))
    assert said(heard.recording, "key") == []
    states = [one for one in said(heard.recording, "srv") if isinstance(one, CoordinatorState)]
    assert {one.seal for one in states} == {None}


@pytest.mark.thorough
def test_large_updates_and_a_hybrid_key_work_the_same(site: Site) -> None:
    """FED-165, FED-170, FED-172: in chunks, with a rotation at the start of the second process."""
    state = site.folder / "hybrid"
    state.mkdir()
    names = site.names[1:]
    flags = {"codec.up": "lossless", "privacy.kem": "mlkem768_x25519"}
    large = Site(site.folder, site.nodes, "null-100000", start="spawn")  # more than one chunk
    heard = overhear(large, state, names, run(large, 1, nodes=1) | flags)
    assert [payload for topic, payload in heard.recording.messages if "/up/" in topic and payload]
    announced = [one for one in said(heard.recording, "round") if isinstance(one, RoundAnnouncement)]
    assert all(one.seal is not None for one in announced)
    (state / "coordinator" / "rotate-key").touch()
    again = overhear(large, state, names, run(large, 2, nodes=1) | flags, fresh=False)
    assert len(read_keys(state / "coordinator").pairs) == 2
    assert not (state / "coordinator" / "rotate-key").exists()
    born = [one for one in said(again.recording, "state") if isinstance(one, NodeState) and one.seal is not None]
    assert born
    assert born[-1].seal is not None
    assert born[-1].seal.kem == 0x647A
