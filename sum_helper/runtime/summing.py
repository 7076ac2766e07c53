"""The thread that adds masks: NumPy and ChaCha20, a piece at a time, so that the broker is answered meanwhile."""

import queue
import threading
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.privacy.seeds import SeedMask
from federation.privacy.sum_noise import SumNoise
from federation.privacy.terms import bit_deviation, noise_deviation, shape_of
from federation.runtime.transport import Inbox, InboxItem
from sum_helper.engine.events import SumsComputed
from sum_helper.records import SumJob
from update_codec import MaskedSum

__all__ = ["Noise", "SummingThread", "add_masks", "noise_from"]

Noise = Callable[[SumJob], tuple[NDArray[np.int64], NDArray[np.int64]] | None]
"""The noise of one batch, int64, on its parameters, shape (D,), and on its tail: the same for it for ever."""

JOBS_MAX: Final = 2


def noise_from(secret: bytes) -> Noise:
    """Noise as the terms ask for it.

    Args:
        secret: 32 bytes that nobody else has: who knows them can take the noise away.
    """

    def noise(job: SumJob) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        terms, request = job.terms, job.request
        deviation, batch = noise_deviation(terms), request.batch.hex()
        if not deviation:
            return None
        # Correlated noise is a function of the sum's number, which the store gives to one batch only.
        correlated = terms.bandwidth is not None
        source = SumNoise(secret=secret, sigma=deviation, bandwidth=terms.bandwidth or 1)
        number = job.release if correlated else request.version
        codes = source.of(request.run, number, batch, terms.dimension)
        tail = SumNoise(secret=secret, sigma=bit_deviation(terms))
        return codes, tail.of(request.run, request.version, f"{batch}/tail", terms.tail)

    return noise


def add_masks(job: SumJob, noise: Noise) -> dict[int, bytes]:
    """The sum of each class's masks, as it is revealed (PROTOCOL.md, FED-148).

    Noise is added to every class, and terms with noise have one class for each helper: it is added once.
    """
    shape, run = shape_of(job.terms), job.request.run
    drawn = noise(job)
    sums: dict[int, bytes] = {}
    for number, seeds in job.seeds.items():
        total = MaskedSum(shape)
        for update, seed in seeds:
            total.add_mask(SeedMask(seed, run, update))
        if drawn is not None:
            # The node's masks are taken away: noise of either sign is the same.
            total.add_integers(*drawn)
        sums[number] = total.to_bytes()
    return sums


class SummingThread:
    """One worker; what it finds arrives in the inbox, and so does an error, which is a bug of ours.

    Args:
        inbox: The driver's.
        noise: Of a batch.
    """

    def __init__(self, inbox: Inbox, noise: Noise) -> None:
        self._inbox, self._noise = inbox, noise
        self._jobs: queue.Queue[SumJob | None] = queue.Queue(JOBS_MAX)
        self._thread = threading.Thread(target=self._work, name="summing", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it works: it ends only by `close`, or by a bug of ours."""
        return self._thread.is_alive()

    def start(self, job: SumJob) -> None:
        """Add the masks of one batch."""
        self._jobs.put(job)

    def close(self, *, timeout_s: float) -> None:
        """Finish the job at hand, at most so long."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                done: object = SumsComputed(request=job.request, sums=add_masks(job, self._noise))
            except Exception as error:  # noqa: BLE001 - it ends the process, on the thread that can say so
                done = error
            self._inbox.put(InboxItem(event=done))
