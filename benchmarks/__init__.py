"""What tracedflow costs, as ratios to a bare queue and task measured in the same process. `python -m benchmarks` shows them."""
