"""Corrections on their way from people's files through the queue into a model's ledger.

Imports `storage.objects` at most; nothing here knows of releases. Begin at `schemas`, then `queue` (files),
`intake` (what is new for whom), `rules` and `ledger` (what becomes of it).
"""
