"""The engine: what happens to a run, from its start event to its end. The only tasks, futures and timers are here.

Read `_runner` first, then `_state`, `_dispatch` and `_lead`. Nothing here is public.
"""
