"""Methods by name; a method is data, a part for each slot.

In: a name. Out: a `parts.Method`, which the training loop asks slot by slot. Start reading at
`grpo.grpo` and `drift.drift`, then `parts`.
"""

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
