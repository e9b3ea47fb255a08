"""Turns: each contestant a batch of calls, round after round."""

import time
import timeit

# The clock that pyperf.perf_counter is; pyperf itself is not in every process that measures.
clock = time.perf_counter


def python_timer(statement, setup, repeat=1, **names):
    """Return a function that runs a statement some times over and returns the seconds it took.

    Each of its loops has the statement `repeat` times, so that little of the loop is measured. The
    garbage collector stays on, as it would in the program that is being promised something.
    """
    timer = timeit.Timer("\n".join([statement] * repeat), f"import gc; gc.enable(); {setup}",
                         clock, names)
    return timer.timeit


def loops_for(timer, seconds):
    """Return how many loops take at least `seconds`, as a power of two."""
    loops = 1
    # A few tries each: one that was interrupted would end the search too early.
    while min(timer(loops) for _ in range(3)) < seconds:
        loops *= 2
    return loops


def alternate(timers, rounds, batch=None):
    """Return for each timer the seconds that a loop took in each round.

    A batch has as many loops as take `batch` seconds, or is a single loop.
    """
    loops = {name: loops_for(timer, batch) if batch else 1 for name, timer in timers.items()}
    seconds = {name: [] for name in timers}
    order = list(timers)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(timers[name](loops[name]) / loops[name])
        # Who comes after whom must make no difference.
        order.append(order.pop(0))
    return seconds
