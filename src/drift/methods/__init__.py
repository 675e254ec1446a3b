"""Methods by name; each is a composition of parts."""

from drift.methods.ablations import ABLATIONS
from drift.methods.ddpo import ddpo, ddpo_buffered
from drift.methods.drift import drift
from drift.methods.grpo import grpo, grpo_kl

METHODS = {
    "ddpo": ddpo,
    "ddpo-buffered": ddpo_buffered,
    "grpo": grpo,
    "grpo-kl": grpo_kl,
    "drift": drift,
} | ABLATIONS
