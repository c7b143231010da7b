"""Releases: immutable manifests, the refs that point to them, and all that writes, proves or deletes them.

Imports `storage.objects` and `storage.corrections`. Begin at `manifests` and `refs`, then `publish`.
"""
