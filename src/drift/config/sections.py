"""The sections of a run's configuration, strictly validated; `TrainConfig` is made of them."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from drift.errors import refuse
from drift.reward_names import canonical

STRICT = ConfigDict(extra="forbid")


def _split(value: object) -> object:
    """Names with commas between them, as they are written on a command line."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
RewardName = Annotated[str, AfterValidator(canonical)]  # equal rewards have equal names
RewardNames = Annotated[tuple[RewardName, ...], BeforeValidator(_split)]
TrackerName = Literal["tensorboard", "wandb"]
TrackerNames = Annotated[tuple[TrackerName, ...], BeforeValidator(_split)]
JUDGES = "name others there: vae (nothing to fetch), clip, dreamsim, or a -tiny one"
OWN_FEATURES = "policy"  # in place of an encoder: what the policy itself computes as it samples
# Judges beside the training encoder where nobody names any, the first of another kind. Shipped for
# the embedded world, in whose pictures they were trained; elsewhere the policy's own autoencoder,
# which needs nothing fetched, and beside that CLIP.
BESIDE_SHIPPED, BESIDE = ("clip-tiny", "dreamsim-tiny"), ("vae", "clip")

# A fresh LoRA: rank and alpha are Table 2's.
FRESH = {
    "lora_rank": 8,
    "lora_alpha": 16,
    "target_modules": ("to_q", "to_k", "to_v", "to_out.0"),
}


def require(section: object, field: str, fine: bool, rule: str) -> None:
    """Refuse the value of a section's field unless it is fine by this rule."""
    refuse(not fine, f"{field}: {getattr(section, field)} is refused: {rule}")


def require_size(section: "SamplingConfig | EvaluateConfig") -> None:
    """Height and width go together; a model may want coarser multiples than 8."""
    for field in ("height", "width"):
        pixels = getattr(section, field)
        require(section, field, pixels >= 0 and pixels % 8 == 0, "a multiple of 8 pixels, or 0")
    one = (section.height == 0) != (section.width == 0)
    refuse(one, f"height ({section.height}) and width ({section.width}): set both, or none")


def refuse_own_features(field: str, *encoders: str) -> None:
    """Refuse a judge that differs from model to model."""
    refuse(
        any(name.partition(":")[0] == OWN_FEATURES for name in encoders),
        f"{field}: '{OWN_FEATURES}' would judge each model by itself; {JUDGES}",
    )


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The policy: a diffusers folder, .safetensors file, hub id, or shipped part, and what of it is
    trained.
    """

    name: str = "menagerie/model"
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"  # auto: as the model says
    adapter: str = ""  # a LoRA to begin with: a file, folder, or hub id
    adapter_use: Literal["continue", "fuse"] = "continue"  # train it on, or a new one on top of it
    # Of flow models: the form of noisy steps, and how often sigmas are shifted (docs/models.md).
    flow_form: Literal["sde", "cps"] = "sde"
    flow_shift: Literal["auto", "twice", "once"] = "auto"  # auto: as the family's pipeline does
    tune: Literal["lora", "full"] = "lora"  # a LoRA (Table 2), or every weight of the network
    # None: 8, 16 (Table 2) and the projections of every attention, or those of a continued adapter.
    lora_rank: int | None = None
    lora_alpha: int | float | None = None
    target_modules: Names | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # what is trained stays float32
    # Text encoders and autoencoder off the card while they are not asked; auto: if all of the model
    # would take half of it. On the processor there is nothing to move.
    offload: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False  # a fifth of the memory of a backward pass, a third slower

    def __post_init__(self) -> None:
        refuse(
            self.continues and self.tune == "full",
            "adapter_use 'continue' trains a LoRA on, but tune is 'full'; fuse it",
        )
        if not self.continues:
            for field, value in FRESH.items():
                if getattr(self, field) is None:
                    object.__setattr__(self, field, value)
        rank = self.lora_rank
        refuse(rank is not None and rank < 1, f"lora_rank must be at least 1, got {rank}")

    @property
    def continues(self) -> bool:
        """Whether training goes on in the adapter."""
        return bool(self.adapter) and self.adapter_use == "continue"


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """How rollouts are drawn: DDIM in its SDE form.

    Batch sizes, `optimizer.micro_batch_size` too, change results by rounding only, and are no more
    than fit into memory (`drift.training.plan`); 0 is as many as fit.
    """

    steps: int = 50  # T, Table 2
    eta: float = 1.0  # Table 2
    guidance_scale: float = 5.0  # in sampling and in training, Table 2
    negative_prompt: str = ""  # the text of guidance's unconditional branch
    height: int = 0  # pixels; 0: as the model was made for
    width: int = 0
    prompts_per_epoch: int = 16
    pool_size: int = 16  # C, candidates drawn per prompt: 2G
    group_size: int = 8  # G, candidates kept per prompt
    batch_size: int = 16  # images denoised at once
    decode_batch_size: int = 8  # latents decoded to images at once
    scoring_batch_size: int = 64  # images shown to reward and encoder at once

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width; None is the model's own."""
        return (self.height, self.width) if self.height else None

    def __post_init__(self) -> None:
        refuse(
            self.group_size > self.pool_size,
            f"group_size ({self.group_size}) is larger than pool_size ({self.pool_size})",
        )
        refuse(self.group_size < 2, f"group_size must be at least 2, got {self.group_size}")
        refuse(not 0 < self.eta <= 1, f"eta must lie in (0, 1], got {self.eta}")
        refuse(self.guidance_scale < 0, f"guidance_scale is negative: {self.guidance_scale}")
        require_size(self)
        refuse(
            min(self.steps, self.prompts_per_epoch) < 1,
            "steps and prompts_per_epoch must be at least 1",
        )
        refuse(
            min(self.batch_size, self.decode_batch_size, self.scoring_batch_size) < 0,
            "batch sizes must be at least 1, or 0 for as many as fit into memory",
        )


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW on the float32 weights of what is trained."""

    learning_rate: float = 1e-4  # Table 2
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    updates_per_epoch: int = 4  # Table 2
    micro_batch_size: int = 2  # (sample, step) pairs per backward pass; 0: as many as fit
    # Of the ratio: stored in the rollout, or computed again before the updates, in their own batch
    # shapes: exact in the first of them whatever rounds, for a third more forward passes.
    old_log_probs: Literal["rollout", "replay"] = "rollout"
    # Decay of an average of the weights, which is looked at, evaluated and exported; 0: none
    ema: float = 0.0

    def __post_init__(self) -> None:
        refuse(self.learning_rate <= 0, f"learning_rate must be positive: {self.learning_rate}")
        refuse(
            self.updates_per_epoch < 1 or self.micro_batch_size < 0,
            "updates_per_epoch must be at least 1, micro_batch_size at least 1, or 0 for as many "
            "as fit into memory",
        )
        refuse(not 0 <= self.ema < 1, f"ema is a decay in [0, 1), 0 for no average: {self.ema}")


@dataclass(frozen=True, config=STRICT)
class WorkerConfig:
    """The rewards in a process of their own, if they have a time limit; else in this one."""

    timeout: float = 0.0  # seconds for the rewards of one call, of a batch; 0: no worker
    loading: float = 600.0  # seconds for imports and weights
    threads: int = 0  # CPU threads; 0: as many as this process has
    device: str = "cpu"

    def __post_init__(self) -> None:
        refuse(
            not (0 <= self.timeout < math.inf and 0 < self.loading < math.inf),
            f"timeout ({self.timeout}) and loading ({self.loading}) are seconds, and finite",
        )
        refuse(self.threads < 0, f"threads is negative: {self.threads}")


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """How models are judged: the same prompts, seeds and sampler for every one."""

    prompts: str = ""  # empty: the training prompts
    prompts_count: int = 0  # the first so many of them; 0: all
    images_per_prompt: int = 40
    steps: int = 50
    guidance_scale: float = 5.0
    eta: float = 1.0
    negative_prompt: str | None = None  # None: that of `sampling`
    height: int = 0  # pixels; 0: as in `sampling`
    width: int = 0
    seed: int = 1_000_000  # image k of a prompt is drawn with torch seed `seed + k`
    rewards: RewardNames = ()  # empty: the training reward, and each part of a sum
    encoders: Names = ()  # empty: the training encoder, and one that was not rewarded beside it
    batch_size: int = 40  # denoised at once, of some 40 that are drawn together; rounding only

    def __post_init__(self) -> None:
        refuse_own_features("encoders", *self.encoders)
        require(
            self, "prompts_count", self.prompts_count >= 0, "not negative; 0 is all of the list"
        )
        require(
            self, "images_per_prompt", self.images_per_prompt >= 2, "diversity compares 2 or more"
        )
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "batch_size", self.batch_size >= 1, "at least 1")
        require(self, "eta", 0 <= self.eta <= 1, "in [0, 1]")
        require(self, "guidance_scale", self.guidance_scale >= 0, "not negative")
        require(self, "seed", self.seed >= 0, "not negative")
        require_size(self)


@dataclass(frozen=True, config=STRICT)
class LiveConfig:
    """Looks at the policy while it trains: a few prompts and seeds, always the same.

    They are drawn as `evaluation` says. The base model is looked at first, then the policy every
    `every` epochs and whenever a checkpoint is saved.
    """

    every: int = 0  # epochs, of optimizer.updates_per_epoch updates each; 0: no looks
    prompts_count: int = 4  # of those that evaluate, spread over the list
    images_per_prompt: int = 8  # their share is then good to 0.1 (docs/watching.md)
    seed: int = 2_000_000  # of image 0, then counting up; not those that judge in the end
    encoder: str = ""  # empty: the first that evaluates and is not the training's
    alarm_share: float = 0.5  # of the base model's diversity; less is a collapse; 0: no alarm
    on_alarm: Literal["warn", "stop"] = "warn"
    keep: Literal["all", "pareto"] = "all"  # pareto: no checkpoint that another one dominates

    def __post_init__(self) -> None:
        refuse_own_features("encoder", self.encoder)
        require(self, "every", self.every >= 0, "not negative")
        require(self, "prompts_count", self.prompts_count >= 1, "at least 1")
        require(
            self, "images_per_prompt", self.images_per_prompt >= 2, "diversity compares 2 or more"
        )
        require(self, "seed", self.seed >= 0, "not negative")
        require(self, "alarm_share", 0 <= self.alarm_share < 1, "in [0, 1)")
        off = self.every == 0
        refuse(off and self.on_alarm == "stop", "on_alarm 'stop' needs looks, but every is 0")
        refuse(off and self.keep == "pareto", "keep 'pareto' needs looks, but every is 0")
