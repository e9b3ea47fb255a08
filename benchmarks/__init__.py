"""pyvirhost, libvirt-python and C against each other: ``make bench``.

They take turns in one process on the same libvirt, a batch of calls each, round after round, and a
ratio is the median of the rounds' ratios: what disturbs the machine for longer than a round
disturbs all of them alike. `pyperf.Runner` times one benchmark after another, each in processes of
its own, so the turns are taken here, in several processes one after another. pyperf's is the file
that all samples are kept in: ``python -m pyperf stats build/bench.json`` reads it.
"""

# Who takes part: the bindings, a C program, and where it is about starting, Python alone.
OURS, THEIRS, C, PYTHON = "pyvirhost", "libvirt-python", "C", "bare Python"
