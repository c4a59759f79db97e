"""Runnable examples; `python -m examples` lists them."""
