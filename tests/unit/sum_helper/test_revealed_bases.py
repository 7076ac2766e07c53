"""What a helper reveals under random requests, read by a second reader that knows the rules from PROTOCOL.md alone.

A coordinator that gives one node another model than the others could tell that node's update from a sum. So one base
version has one digest in each batch (FED-151), while a restored run makes its versions again (FED-153): over all
batches a version may have several.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from federation.protocol.sum_messages import SumOffer, SumReason, SumRefusal
from federation.types import Digest, NodeId
from tests.rigs.helper_rig import BASE, HelperRig, MaskedUpdate, MaskingNode, request, terms

SEEDS = 8
REQUESTS = 25
NODES = 7
LEAST = 5
OTHER = Digest(b"B" * 16)
TERMS = terms()

Held = dict[Digest, tuple[NodeId, int, Digest]]
"""By ticket: whose, and which base."""


def may_be_revealed(members: Sequence[Digest], held: Held, used: set[Digest]) -> bool:
    """The second reader: FED-151 and FED-152 in words of its own."""
    if not all(ticket in held and ticket not in used for ticket in members):
        return False
    of = [held[ticket] for ticket in members]
    if len({node for node, _, _ in of}) < max(LEAST, len(of)):
        return False
    return not any(one[1] == two[1] and one[2] != two[2] for one, two in combinations(of, 2))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_revealed_is_exactly_what_the_rules_allow(seed: int, tmp_path: Path) -> None:
    """FED-151, FED-152, FED-153: nothing more, and nothing less, over restarts of the helper."""
    rng = Random(seed)
    nodes = [MaskingNode(NodeId(f"n{number}")) for number in range(NODES)]
    rig = HelperRig(tmp_path, nodes)
    held: Held = {}
    used: set[Digest] = set()
    known: list[MaskedUpdate] = []
    told = Counter[bool]()
    for number in range(REQUESTS):
        for node in nodes:
            base = rng.choice((2, 3)), rng.choice((BASE, BASE, BASE, OTHER))
            update = node.update(number, TERMS, [rig.public], base=base)
            known.append(update)
            if rng.random() < 0.95:
                rig.hold(update)
                held[update.digest] = node.name, *base
        newest = known[-3 * NODES :]
        members = rng.sample(newest, rng.randint(4, min(NODES, len(newest))))
        if rng.random() < 0.7:  # else an honest request would be rare
            members = _alike(members, newest, held)
        if rng.random() < 0.1:
            rig.restart()
        digests = [update.digest for update in members]
        allowed = may_be_revealed(digests, held, used)
        answer = rig.ask(request(members, TERMS, version=number + 1))
        assert isinstance(answer, SumOffer if allowed else SumRefusal), (seed, number, answer)
        if isinstance(answer, SumRefusal) and len(set(digests)) == len(digests):
            assert answer.reason is not SumReason.NONE
        told[allowed] += 1
        used |= set(digests) if allowed else set()
    assert told[True]
    assert told[False]
    rig.close()


def _alike(members: list[MaskedUpdate], newest: list[MaskedUpdate], held: Held) -> list[MaskedUpdate]:
    """One update of each node, all of the first one's model or of another version."""
    first = held.get(members[0].digest)
    chosen: dict[NodeId, MaskedUpdate] = {}
    for update in newest:
        owner = held.get(update.digest)
        if owner is not None and (first is None or owner[1] != first[1] or owner[2] == first[2]):
            chosen[owner[0]] = update
    return list(chosen.values()) or members
