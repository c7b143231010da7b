"""The stages of the pipeline as tasks of the orchestrator: names and retries, and nothing else."""
