"""Many hosts: one mechanism that asks them, and none of them can delay another.

`Host` says how to open one, a `Link` is its connection, a `Fleet` asks many, a `Poller` does so
once an interval, and `poll_once` once.
"""
