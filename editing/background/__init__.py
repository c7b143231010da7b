"""What an edit must leave alone, measured once per base: text, covariance of keys, Fisher information.

Imports `models` alone. Begin at `covariance`.
"""
