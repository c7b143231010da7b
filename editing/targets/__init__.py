"""What each fact asks of the edited layer: keys, and the residual that makes the model say it.

Imports `models`; nothing of solves. Begin at `target` (the record), then `optimise`.
"""
