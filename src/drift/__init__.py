"""DRIFT: RL fine-tuning of text-to-image diffusion models without diversity collapse.

Importing `drift` loads nothing else: each part is imported by its own name
(`drift.functional.advantages`, `drift.methods`, `drift.training.loop`), so that the command line
answers `--help` at once.
"""

__version__ = "0.1.0"
