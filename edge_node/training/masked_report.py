"""One masked evaluation report: what a node has measured, under fresh masks, and their seeds sealed to the helpers.

Whether it could measure anything is hidden with the numbers: a node whose task has failed reports nothing under masks,
and says why in its own log alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from edge_node.engine.events import EvaluationFinished
from edge_node.training.evaluation import EvaluationJob, HiddenMetrics
from federation.errors import BadSeal
from federation.privacy.classes import classes
from federation.privacy.metrics import names_digest, write_tail
from federation.privacy.seeds import SEED_BYTES, SeedMask, seal_seeds
from federation.privacy.terms import shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import fit_text
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import MaskedReport, PrivacyTerms, Ticket
from federation.types import NodeId, RoundId, UpdateId, update_id
from update_codec.masking import masked

__all__ = ["hidden_numbers", "hide", "told"]

_NAME_BITS: Final = 31


def hide(report: EvaluationReport, node: NodeId, how: HiddenMetrics) -> EvaluationReport:
    """The same report with every number of it under masks; where there is nobody to seal to, one that says so.

    Its name is drawn anew each time: a node that starts again evaluates again, and two reports never share a mask.
    """
    terms, masking = how.terms, how.masking
    plain = replace(report, num_examples=0, metrics={}, evaluate_s=0.0, reason="")
    if isinstance(masking, str):
        return replace(plain, reason=fit_text(masking))
    drawn = int.from_bytes(masking.draw(4), "big") >> (32 - _NAME_BITS)
    name = update_id(RoundId((1 << _NAME_BITS) + drawn), node)
    seeds = [masking.draw(SEED_BYTES) for _ in classes(terms.count, terms.threshold)]
    payload = hidden_numbers(report, how.terms, how.metrics, (name, seeds))
    ticket = Ticket(
        run=report.run,
        update=name,
        base_version=report.version,
        base_digest=report.digest,
        terms=terms_digest(terms),
        payload_digest=payload_digest(payload),
        boxes=(),
    )
    try:
        ticket, boxes = seal_seeds(ticket, seeds, masking.keys, threshold=terms.threshold)
    except (BadSeal, ValueError) as error:
        return replace(plain, reason=fit_text(f"helpers: {error}"))
    names = names_digest(how.metrics)
    hidden = MaskedReport(update=name, metrics=names, payload=payload, ticket=masking.sign(ticket), boxes=boxes)
    return replace(plain, masked=hidden)


def told(node: NodeId, job: EvaluationJob, event: EvaluationFinished) -> EvaluationFinished:
    """What a node measured, as it leaves the node: under masks where only sums of it are to be seen."""
    return event if job.hidden is None else replace(event, report=hide(event.report, node, job.hidden))


def hidden_numbers(
    report: EvaluationReport,
    terms: PrivacyTerms,
    metrics: Sequence[str],
    masks: tuple[UpdateId, Sequence[bytes]],
) -> bytes:
    """A report's numbers under masks of these seeds; a simulation may take none, and hides nothing."""
    name, seeds = masks
    tail = write_tail(report.num_examples, report.metrics, metrics)
    nothing = np.zeros(terms.dimension, np.int64)
    total = masked(shape_of(terms), nothing, tail, [SeedMask(seed, report.run, name) for seed in seeds])
    return total.to_bytes()
