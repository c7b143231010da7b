"""corrigenda: nightly fact corrections for fleets of language models."""

__version__ = "0.1.0"
