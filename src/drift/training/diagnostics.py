"""What an epoch's numbers look like, and when they call for a warning.

Pure functions: tensors to a line of metrics.jsonl, lines to sentences.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from drift.functional.shaping import intra_group_diversity
from drift.methods.parts import Advantages

WINDOW = 10  # epochs that a warning looks back on
CLIPPED, SHIFT, SPREAD, SIGNAL, ROUNDED = 1 / 3, -0.1, 0.1, 0.05, 0.05  # limits; see `warnings`


def describe_rewards(
    pool: Float[Tensor, "P C"], kept: Float[Tensor, "P G"]
) -> dict[str, float | int]:
    """Raw rewards of pool and kept group, means over prompts; the shift in the pool's stds."""
    pool_std, kept_std = pool.std(1, correction=0), kept.std(1, correction=0)
    varied = pool_std > 0
    unit = pool_std.clamp(min=1e-12)
    shift, ratio = (kept.mean(1) - pool.mean(1)) / unit, kept_std / unit
    return {
        "reward_mean": pool.mean().item(),
        "reward_std": pool_std.mean().item(),
        "kept_reward_mean": kept.mean().item(),
        "kept_reward_std": kept_std.mean().item(),
        "kept_mean_shift": shift[varied].mean().item() if varied.any() else 0.0,
        "kept_std_ratio": ratio[varied].mean().item() if varied.any() else 1.0,
        "unique_rewards": min(len(row.unique()) for row in kept),
    }


def describe_diversity(
    features: Float[Tensor, "P G D"], intrinsic: Float[Tensor, "P G"], upper: float
) -> dict[str, float | None]:
    """Mean intra-group diversity (None without features) and what clipping did to the reward."""
    known = features.shape[2] > 0
    return {
        "diversity": intra_group_diversity(features).mean().item() if known else None,
        "intrinsic_mean": intrinsic.mean().item(),
        "intrinsic_clipped": (intrinsic >= upper).float().mean().item(),
    }


def describe_advantages(advantages: Advantages) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, std and largest magnitude of the advantage and of its two components."""
    return {
        "advantages": {
            name: {
                "mean": values.mean().item(),
                "std": values.std(correction=0).item(),
                "abs_max": values.abs().max().item(),
            }
            for name, values in vars(advantages).items()
        }
    }


def warnings(lines: list[dict[str, Any]]) -> dict[str, str]:
    """What the latest epochs' metrics warn of, by a name for each kind of warning."""
    recent = [line for line in lines if line["update"] == 1][-WINDOW:]
    if not recent:
        return {}
    told = {}
    signal = recent[-1]["prompt_signal"]
    weak = sum(share < SIGNAL for share in signal)
    if weak >= 0.1 * len(signal):
        told["prompt_signal"] = (
            f"prompt noise leaves under {SIGNAL:.0%} of the prompt in {weak} of {len(signal)} "
            "steps; with few steps, raise method.conditioning.tau2 a little above 1"
        )
    if recent[-1]["intrinsic_mean"] > 0 and recent[-1]["advantages"]["intrinsic"]["abs_max"] == 0:
        told["intrinsic_equal"] = (
            "the diversity reward is the same for every image of a group, so it teaches nothing: "
            "a group of 2 has one distance, and a small sigma clips all to one value"
        )
    if recent[-1]["unique_rewards"] == 1:
        told["unique_rewards"] = "a group's rewards are all equal: it teaches nothing"
    if recent[-1]["first_clip_fraction"] > ROUNDED:
        told["first_clip_fraction"] = (
            f"{recent[-1]['first_clip_fraction']:.0%} of the first update is clipped, where every "
            "ratio should be 1: model.dtype rounds by as much as method.surrogate.clip_range; "
            "optimizer.old_log_probs=replay makes the first update exact"
        )
    if len(recent) < WINDOW:
        return told

    def mean(name: str) -> float:
        return sum(line[name] for line in recent) / len(recent)

    if mean("intrinsic_clipped") > CLIPPED:
        told["intrinsic_clipped"] = (
            f"sigma clips {mean('intrinsic_clipped'):.0%} of the intrinsic rewards, and what is "
            "left is mostly noise; set method.shaping.upper to about 1.3 times the base model's "
            f"diversity (now {mean('diversity'):.2f})"
        )
    if mean("kept_mean_shift") < SHIFT:
        told["kept_mean_shift"] = (
            f"the kept groups score {-mean('kept_mean_shift'):.2f} std below their pools, "
            f"{WINDOW} epochs long: the selection keeps a worse hump of the rewards"
        )
    if mean("kept_std_ratio") < SPREAD:
        told["kept_std_ratio"] = (
            f"the kept groups' rewards spread {mean('kept_std_ratio'):.0%} of their pools': "
            "after normalisation mostly noise is left; draw more prompts per epoch"
        )
    return told
