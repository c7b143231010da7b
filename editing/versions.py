"""The versions of what an edit is made by, bumped by hand when an algorithm changes what it gives.

By themselves, so that a night can tell whether a release is due without importing a network. Each is in the
keys of the caches of what it names, and all are in what a release was asked with: the first night after a
change solves an unchanged active set again.
"""

from __future__ import annotations

from collections.abc import Mapping

CORPUS = 2  # background text
CONTEXTS = 2  # the openings that facts are practised behind
COVARIANCE = 1  # second moments of keys
FISHER = 2  # the metric in which residuals are short
NORM_CAP = 2  # how long residuals may be
SCALES = 1  # how a residual is shared within the band
TARGETS = 8  # keys and residuals
_SOLVE = 2  # the update, and the rounding to the published tensor

OF_AN_EDIT: Mapping[str, int] = {
    "corpus": CORPUS,
    "contexts": CONTEXTS,
    "covariance": COVARIANCE,
    "fisher": FISHER,
    "norm_cap": NORM_CAP,
    "scales": SCALES,
    "targets": TARGETS,
    "solve": _SOLVE,
}
