"""Many hosts, asked by one mechanism, so that none can delay another.

`Host` says how to open one, a `Link` is its connection, a `Fleet` asks many, a `Poller` does so
once per interval, and `poll_once` once.
"""
