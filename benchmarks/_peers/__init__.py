"""The peers, each measured against tracedflow in a process of its own, from programs written after their public documentation.

A module here is one peer. It is imported in an environment that has that peer (`requirements.txt`, made by `make bench`), says what
the peer is with `NAME`, and returns from `jobs()` what it can do: the same work as tracedflow's own program of that name.
"""
