"""The stages of a night as plain functions, and their order, which is written once.

May import editing, models, validation and storage; no orchestrator. Begin with `order`: it says what happens
in a night. A `runner` says how each stage is run: plainly, or as a task of an orchestrator.
"""
