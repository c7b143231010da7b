"""Which layer of a model should carry its corrections: gradient attribution, baselines, trial edits.

Imports every other wing of editing (a trial is a whole edit). Begin at `localize`.
"""
