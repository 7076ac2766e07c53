"""The reference tasks and the adapter for the user's own: the only package that uses torch."""

from federation.tasks.data_files import csv_data, image_data, numpy_data
from federation.tasks.partition import split
from federation.tasks.torch_task import TorchTask
from federation.tasks.whole_data import WholeData

__all__ = ["TorchTask", "WholeData", "csv_data", "image_data", "numpy_data", "split"]
