"""What people do with a fleet, as plain functions and frozen values: the command line is one user of it.

Begin with `fleet.Fleet`. `import corrigenda` offers all of it by name. Here lie the rules of the product that
are neither mathematics nor storage: which releases SQL sees, what waits, that a retract is later than what it
takes back, what a report is about.
"""
