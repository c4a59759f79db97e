"""The rules of the scripted model, a module for each example: `RULES` maps a prompt to a function of what was asked.

A rule may look at the messages only, never at a file: what it says then follows the data, as a real model's answer would.
"""
