"""Trace readers, one file a format: `load_trace(path)` gives the jobs of any of them as a `Trace`."""

from trainmaster.workload.traces.catalog import formats, load_trace
from trainmaster.workload.traces.trace import Trace

__all__ = ["Trace", "formats", "load_trace"]
