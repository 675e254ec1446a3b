"""Methods by name; each is a composition of parts."""

from drift.methods.drift import drift
from drift.methods.grpo import grpo

METHODS = {"grpo": grpo, "drift": drift}
