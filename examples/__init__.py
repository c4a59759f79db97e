"""Runnable examples; `python -m examples` lists them."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # The start of `python -m examples.rag`: its imports take half a second, and Ctrl-C in them just ends the program.
    # `_kit/terminal.py` takes over when it begins.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
