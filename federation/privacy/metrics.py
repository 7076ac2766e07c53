"""Metrics of which only sums are ever seen: what nodes measure on a masked run's model (FED-195 to FED-198).

A report is a masked update of one parameter, which is 0, and a tail. With n the node's test examples and m_i its
metrics, in the order of the announced names, the tail has 1 where the node has measured anything, then n, then for each
name the weight n_i (n, or 0 where the node has no such number) and round(2^30 n_i m_i). Each number behind the first is
taken modulo 2^96 and written in six digits of 16 bits, the lowest first: so the sums of 2,048 reports fit 32 bits,
digit by digit, and are exact. The mean is sum(n_i m_i) / sum(n_i).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.privacy.terms import read_ticket, shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import MEMBERS_MAX
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import DIGEST_BYTES, Digest, NodeId
from update_codec import CodecError
from update_codec.masking import MaskedSum, bits_for, sum_bytes

__all__ = ["Measured", "metric_terms", "names_digest", "objection", "read_sums", "write_tail"]

_DIGITS: Final = 6
_DIGIT_BITS: Final = 16
_SCALE: Final = 1 << 30
_LARGEST: Final = 1 << 48
"""Of an example count, and of one times a metric: a node says nothing of what is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What all reports of one evaluation say together.

    Attributes:
        nodes: So many have measured something.
        num_examples: Their test examples.
        metrics: Each one's mean by test examples, over those that have it.
    """

    nodes: int
    num_examples: int
    metrics: Mapping[str, float]


def metric_terms(terms: PrivacyTerms, metrics: int) -> PrivacyTerms:
    """Under which so many metrics are masked: for the helpers of ``terms``, and the same in all versions of a run."""
    return PrivacyTerms(
        scheme=terms.scheme,
        helpers=terms.helpers,
        count=terms.count,
        threshold=terms.threshold,
        dimension=1,
        tail=1 + _DIGITS * (1 + 2 * metrics),
        step=1.0,
        levels=1,
        members=MEMBERS_MAX,
        bits=bits_for(MEMBERS_MAX),
    )


def names_digest(metrics: Sequence[str]) -> Digest:
    """Which metrics a report has, in which order: BLAKE2b-128 with ``fedmq-metrics`` over their names, a line each."""
    said = "\n".join(metrics).encode()
    return Digest(blake2b(said, digest_size=DIGEST_BYTES, person=b"fedmq-metrics").digest())


def write_tail(num_examples: int, metrics: Mapping[str, float], names: Sequence[str]) -> NDArray[np.int64]:
    """The numbers of one report, int64, shape (1 + 6 (1 + 2 names),), each from 0 to 2^16 - 1.

    Args:
        num_examples: Test examples of the node; 0 where it has measured nothing.
        metrics: What it has measured.
        names: Those that are told, in the announced order; one that is not there, or not finite, has no weight.
    """
    spoke = 0 < num_examples < _LARGEST and bool(metrics)
    examples = num_examples if spoke else 0
    numbers = [examples]
    for name in names:
        value = metrics.get(name, math.nan)
        told = spoke and math.isfinite(value) and abs(value) * examples < _LARGEST
        numbers += [examples, round(value * examples * _SCALE)] if told else [0, 0]
    return np.array([int(spoke), *(digit for number in numbers for digit in _digits(number))], np.int64)


def objection(report: EvaluationReport, node: NodeId, terms: PrivacyTerms, names: Sequence[str]) -> str:
    """Why a report cannot be in a masked sum; nothing where it can. Its ticket's signature is the helpers' matter."""
    hidden = report.masked
    if hidden is None:
        return "it is not masked"
    ticket = read_ticket(hidden.ticket)
    if ticket is None:
        return "its ticket is none"
    named = (ticket.run, ticket.update, ticket.base_version, ticket.base_digest, ticket.terms)
    if named != (report.run, hidden.update, report.version, report.digest, terms_digest(terms)):
        return "its ticket is for something else"
    if hidden.update.partition("-")[2] != node or hidden.metrics != names_digest(names):
        return "it is another node's, or of other metrics"
    if len(hidden.payload) != sum_bytes(shape_of(terms)) or payload_digest(hidden.payload) != ticket.payload_digest:
        return "its numbers are not those of its ticket"
    boxes = tuple(payload_digest(box) for box in hidden.boxes)
    return "" if boxes == ticket.boxes and len(boxes) == terms.count else "its boxes are not those of its ticket"


def read_sums(payloads: Sequence[bytes], masks: Sequence[bytes], terms: PrivacyTerms, names: Sequence[str]) -> Measured:
    """What the sum of these reports says.

    Args:
        payloads: The masked numbers of each.
        masks: What helpers have answered for them, one for each class.
        terms: Those of the batch.
        names: Of the metrics.

    Raises:
        ValueError: No honest reports have such a sum.
    """
    total = MaskedSum(shape_of(terms))
    try:
        for payload in payloads:
            total.add_bytes(payload)
        for one in masks:
            total.take_away(one)
        _, tail = total.lift(limit=0)
    except CodecError as error:
        raise ValueError(str(error)) from error
    nodes, digits, members = int(tail[0]), tail[1:], len(payloads)
    most = members * ((1 << _DIGIT_BITS) - 1)
    if not 0 <= nodes <= members or digits.min() < 0 or digits.max() > most:
        raise ValueError("the sum of the reports is one that no reports can have")
    examples, *pairs = _numbers(digits)
    if not nodes <= examples <= nodes * _LARGEST or any(not 0 <= weight <= examples for weight in pairs[::2]):
        raise ValueError("the sum of the test examples is one that no reports can have")
    found = zip(names, pairs[::2], pairs[1::2], strict=True)
    return Measured(
        nodes=nodes,
        num_examples=examples,
        metrics={name: value / weight / _SCALE for name, weight, value in found if weight},
    )


def _digits(number: int) -> list[int]:
    wrapped = number % (1 << (_DIGITS * _DIGIT_BITS))
    return [(wrapped >> (_DIGIT_BITS * place)) & ((1 << _DIGIT_BITS) - 1) for place in range(_DIGITS)]


def _numbers(digits: NDArray[np.int64]) -> Iterator[int]:
    modulus = 1 << (_DIGITS * _DIGIT_BITS)
    for start in range(0, len(digits), _DIGITS):
        whole = sum(int(digit) << (_DIGIT_BITS * place) for place, digit in enumerate(digits[start : start + _DIGITS]))
        whole %= modulus
        yield whole - modulus if whole >= modulus // 2 else whole
