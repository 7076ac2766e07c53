"""The reference tasks and the adapter for the user's own: the only package that uses torch."""

from federation.tasks.data.data_files import csv_data, image_data, numpy_data
from federation.tasks.data.partitioners import split
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

__all__ = ["TorchTask", "WholeData", "csv_data", "image_data", "numpy_data", "split"]
