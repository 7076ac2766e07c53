"""Where simulated nodes train: in this process, in forked ones, on Dask or on Ray."""
