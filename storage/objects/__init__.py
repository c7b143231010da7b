"""Where bytes lie: one interface, a directory and a bucket behind it, and what needs nothing but bytes.

Content-addressed blobs, results remembered under a key, ranges read in parallel. Imports errors, facts and
config alone; nothing here knows what the bytes mean. Begin at `interface`.
"""
