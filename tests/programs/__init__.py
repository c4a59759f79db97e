"""Whole programs of the kinds that people build, each with many features at once.

A module has `async def main(schedule)`: it runs the program under that schedule and asserts its answer, which does not
depend on the schedule, and what must hold whatever the order of things was.
"""
