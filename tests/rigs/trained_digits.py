"""A store whose newest version is a digits model that was trained a little, and pictures of real digits."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, TaskContext
from federation.tasks.builtin.digits import build, digits
from update_codec import Manifest

CONTEXT = TaskContext(node_index=0, node_count=1, device="cpu")


@cache
def trained() -> Parameters:
    """Parameters with which most digits are told apart."""
    task = build(CONTEXT)
    settings = TrainSettings(local_epochs=8, batch_size=16, learning_rate=0.2)
    return task.train(task.initial_parameters(0), settings, lambda: False).parameters


def digits_store(folder: Path) -> Path:
    """A state folder with these parameters as version 0."""
    parameters = trained()
    manifest = Manifest.of(dict(parameters), {})
    store = SqliteStore(folder)
    vectors = manifest.flatten(parameters)
    store.initialise(manifest, first_commit(vectors, manifest, DownlinkSettings(), seed=0))
    store.close()
    return folder


def digit(index: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], int]:
    """A test digit as 8 x 8 brightness, white on black, and what it is."""
    images, labels = digits(train=False)
    return np.rint(images[index].reshape(8, 8) * 255).astype(np.uint8), int(labels[index])


def digit_file(path: Path, index: int = 0, *, size: int = 8, paper: bool = False) -> int:
    """Write a test digit as a picture of this size, ``paper`` black on white; returns what it is."""
    pixels, label = digit(index)
    image = Image.fromarray(255 - pixels if paper else pixels)
    image.resize((size, size), Image.Resampling.NEAREST).save(path)
    return label
