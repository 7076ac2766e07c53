"""The helper role: holds the seeds of masks, and reveals only the sum of a whole batch's."""
