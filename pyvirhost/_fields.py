"""The names of a snapshot's fields, for type checkers."""

from typing import Literal, TypeAlias

SnapshotField: TypeAlias = Literal[
    "node_info", "cpu_stats", "cpu_map", "per_cpu_stats", "memory_stats", "free_memory",
    "cells_free_memory", "per_cell_memory_stats", "free_pages", "memory_parameters",
]
