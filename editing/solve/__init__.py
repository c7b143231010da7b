"""From targets to one change of the edited weight: linear algebra in closed form.

Imports the record of targets alone: no network is asked anything here. Begin at `closed_form`, then `joint`.
"""
