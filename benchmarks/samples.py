"""What was measured: for each reading and contestant the values of each process, in pyperf's file.

The values of a reading belong together: the first of one contestant was measured beside the first
of each other.
"""

from statistics import median

import pyperf

SEPARATOR = ": "


class Samples:
    """A mapping of reading and contestant to runs, each a list of values, and their unit."""

    def __init__(self):
        self.runs = {}
        self.units = {}
        self.metadata = {}

    def add(self, found):
        """Take what a process measured: rows of reading, contestant, unit and values."""
        for reading, contestant, unit, values in found:
            self.runs.setdefault((reading, contestant), []).append(values)
            self.units[reading] = unit

    def values(self, reading, contestant):
        """Return all values in the order of measuring, none where it was not measured."""
        return [value for run in self.runs.get((reading, contestant), ()) for value in run]

    def median(self, reading, contestant):
        """Return the median, or None where nothing was measured."""
        values = self.values(reading, contestant)
        return median(values) if values else None

    def save(self, path):
        """Write everything as a suite of pyperf's."""
        about = {"python": self.metadata["python"], **self.metadata}
        benchmarks = []
        for (reading, contestant), runs in self.runs.items():
            metadata = {**about, "name": contestant + SEPARATOR + reading,
                        "unit": self.units[reading]}
            benchmarks.append(pyperf.Benchmark(
                [pyperf.Run(values, metadata=metadata, collect_metadata=False)
                 for values in runs]))
        pyperf.BenchmarkSuite(benchmarks).dump(str(path), replace=True)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote."""
        samples = cls()
        for benchmark in pyperf.BenchmarkSuite.load(str(path)):
            contestant, _, reading = benchmark.get_name().partition(SEPARATOR)
            samples.runs[reading, contestant] = [list(run.values) for run in benchmark.get_runs()]
            samples.units[reading] = benchmark.get_unit()
            samples.metadata = benchmark.get_metadata()
        return samples
