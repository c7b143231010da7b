"""Releases on their way out: to serving hosts, adapters and hubs; and bases on their way in from buckets.

Imports all other wings of storage, and neither torch nor an orchestrator. Begin at `pull`.
"""
