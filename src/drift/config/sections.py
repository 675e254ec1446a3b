"""The sections of a run's configuration, strictly validated; `TrainConfig` is made of them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from drift.errors import refuse
from drift.ranges import (
    LISTED,
    STRICT,
    Alpha,
    Amount,
    Count,
    Epsilon,
    Guidance,
    Limit,
    Name,
    Pixels,
    Positive,
    Rank,
    Rate,
    Seconds,
    Seed,
    Several,
    Share,
    ShareBelowOne,
    SomeShare,
    Steps,
    Text,
    Threads,
    Weight,
    check_name,
)
from drift.reward_names import canonical, parse


def _split(value: object) -> object:
    """Names with commas between them, as they are written on a command line."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


def _reward(text: str) -> str:
    """The one name of it; a server's address may be longer than a file's."""
    name = canonical(text)
    for term in parse(name) if name else ():
        if not term.startswith(("http://", "https://")):
            check_name(term)
    return name


Names = Annotated[tuple[Name, ...], LISTED, BeforeValidator(_split)]
RewardName = Annotated[Text, AfterValidator(_reward)]  # equal rewards have equal names
RewardNames = Annotated[tuple[RewardName, ...], LISTED, BeforeValidator(_split)]
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


def require_size(section: "SamplingConfig | EvaluateConfig") -> None:
    """Height and width go together; a model may want coarser multiples than 8."""
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

    name: Name = "menagerie/model"
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"  # auto: as the model says
    adapter: Name = ""  # a LoRA to begin with: a file, folder, or hub id
    adapter_use: Literal["continue", "fuse"] = "continue"  # train it on, or a new one on top of it
    # Of flow models: the form of noisy steps, and how often sigmas are shifted (docs/models.md).
    flow_form: Literal["sde", "cps"] = "sde"
    flow_shift: Literal["auto", "twice", "once"] = "auto"  # auto: as the family's pipeline does
    tune: Literal["lora", "full"] = "lora"  # a LoRA (Table 2), or every weight of the network
    # None: 8, 16 (Table 2) and the projections of every attention, or those of a continued adapter.
    lora_rank: Rank | None = None
    lora_alpha: Alpha | None = None
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

    steps: Steps = 50  # T, Table 2
    eta: SomeShare = 1.0  # Table 2
    guidance_scale: Guidance = 5.0  # in sampling and in training, Table 2
    negative_prompt: Text = ""  # the text of guidance's unconditional branch
    height: Pixels = 0  # 0: as the model was made for
    width: Pixels = 0
    prompts_per_epoch: Count = 16
    pool_size: Several = 16  # C, candidates drawn per prompt: 2G
    group_size: Several = 8  # G, candidates kept per prompt
    batch_size: Amount = 16  # images denoised at once
    decode_batch_size: Amount = 8  # latents decoded to images at once
    scoring_batch_size: Amount = 64  # images shown to reward and encoder at once

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width; None is the model's own."""
        return (self.height, self.width) if self.height else None

    def __post_init__(self) -> None:
        refuse(
            self.group_size > self.pool_size,
            f"group_size ({self.group_size}) is larger than pool_size ({self.pool_size})",
        )
        require_size(self)


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW on the float32 weights of what is trained."""

    learning_rate: Rate = 1e-4  # Table 2
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.999
    weight_decay: Weight = 1e-4
    epsilon: Epsilon = 1e-8
    max_grad_norm: Limit = 1.0
    updates_per_epoch: Count = 4  # Table 2
    micro_batch_size: Amount = 2  # (sample, step) pairs per backward pass; 0: as many as fit
    # Of the ratio: stored in the rollout, or computed again before the updates, in their own batch
    # shapes: exact in the first of them whatever rounds, for a third more forward passes.
    old_log_probs: Literal["rollout", "replay"] = "rollout"
    # Decay of an average of the weights, which is looked at, evaluated and exported; 0: none
    ema: ShareBelowOne = 0.0

    def __post_init__(self) -> None:
        refuse(
            self.learning_rate * self.weight_decay >= 1,
            f"weight_decay ({self.weight_decay}) times learning_rate ({self.learning_rate}) is 1 "
            "or more: every update would wipe the weights out",
        )


@dataclass(frozen=True, config=STRICT)
class WorkerConfig:
    """The rewards in a process of their own, if they have a time limit; else in this one."""

    timeout: Seconds = 0.0  # for the rewards of one call, of a batch; 0: no worker
    loading: Positive = 600.0  # seconds for imports and weights
    threads: Threads = 0  # CPU threads; 0: as many as this process has
    device: Name = "cpu"


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """How models are judged: the same prompts, seeds and sampler for every one."""

    prompts: Name = ""  # empty: the training prompts
    prompts_count: Amount = 0  # the first so many of them; 0: all
    images_per_prompt: Several = 40
    steps: Steps = 50
    guidance_scale: Guidance = 5.0
    eta: Share = 1.0
    negative_prompt: Text | None = None  # None: that of `sampling`
    height: Pixels = 0  # 0: as in `sampling`
    width: Pixels = 0
    seed: Seed = 1_000_000  # image k of a prompt is drawn with torch seed `seed + k`
    rewards: RewardNames = ()  # empty: the training reward, and each part of a sum
    encoders: Names = ()  # empty: the training encoder, and one that was not rewarded beside it
    batch_size: Count = 40  # denoised at once, of some 40 that are drawn together; rounding only

    def __post_init__(self) -> None:
        refuse_own_features("encoders", *self.encoders)
        require_size(self)


@dataclass(frozen=True, config=STRICT)
class LiveConfig:
    """Looks at the policy while it trains: a few prompts and seeds, always the same.

    They are drawn as `evaluation` says. The base model is looked at first, then the policy every
    `every` epochs and whenever a checkpoint is saved.
    """

    every: Amount = 0  # epochs, of optimizer.updates_per_epoch updates each; 0: no looks
    prompts_count: Count = 4  # of those that evaluate, spread over the list
    images_per_prompt: Several = 8  # their share is then good to 0.1 (docs/watching.md)
    seed: Seed = 2_000_000  # of image 0, then counting up; not those that judge in the end
    encoder: Name = ""  # empty: the first that evaluates and is not the training's
    # Of the base model's diversity; less is a collapse; 0: no alarm.
    alarm_share: ShareBelowOne = 0.5
    on_alarm: Literal["warn", "stop"] = "warn"
    keep: Literal["all", "pareto"] = "all"  # pareto: no checkpoint that another one dominates

    def __post_init__(self) -> None:
        refuse_own_features("encoder", self.encoder)
        off = self.every == 0
        refuse(off and self.on_alarm == "stop", "on_alarm 'stop' needs looks, but every is 0")
        refuse(off and self.keep == "pareto", "keep 'pareto' needs looks, but every is 0")


@dataclass(frozen=True, config=STRICT)
class GuardsConfig:
    """Limits of an epoch's figures, checked before anything of it is saved; 0: no limit."""

    on_breach: Literal["warn", "stop"] = "warn"
    skipped_updates: Count = 10  # in a row, whose gradients are not finite; these always stop
    grad_norm: Weight = 0.0  # of an update, before it is clipped
    grad_norm_jump: Weight = 100.0  # times the median of the 10 epochs before
    approx_kl: Weight = 0.0  # of an update, nats a step
    ratio_error: Weight = 0.0  # the largest |ratio - 1| of a sample and step
    reward_drop: Weight = 3.0  # below the 10 epochs before, in standard deviations within a prompt
