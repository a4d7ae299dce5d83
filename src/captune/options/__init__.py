"""One dataclass a job: the Python API, the command line and recipes read the same definition."""
