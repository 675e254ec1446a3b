"""What a run is: frozen, strictly validated, written whole beside the results.

Runs are made from recipes: `drift.recipes`.
"""

import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from drift.errors import UserError, refuse
from drift.methods.parts import Method
from drift.reward_names import canonical, with_components

STRICT = ConfigDict(extra="forbid")


def _split(value: object) -> object:
    """Names with commas between them, as they are written on a command line."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
RewardName = Annotated[str, AfterValidator(canonical)]  # equal rewards have equal names
RewardNames = Annotated[tuple[RewardName, ...], BeforeValidator(_split)]
JUDGES = "name others there: vae (nothing to fetch), clip, dreamsim, or a -tiny one"
OWN_FEATURES = "policy"  # in place of an encoder: what the policy itself computes as it samples
# Judges beside the training encoder where nobody names any, the first of another kind. Shipped for
# the embedded world, in whose pictures they were trained; elsewhere the policy's own autoencoder,
# which needs nothing fetched, and beside that CLIP.
BESIDE_SHIPPED, BESIDE = ("clip-tiny", "dreamsim-tiny"), ("vae", "clip")


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The policy: a diffusers folder, hub id, or shipped part, and what of it is trained."""

    name: str = "menagerie/model"
    tune: Literal["lora", "full"] = "lora"  # a LoRA (Table 2), or every weight of the network
    lora_rank: int = 8  # Table 2
    lora_alpha: int = 16  # Table 2
    target_modules: Names = ("to_q", "to_k", "to_v", "to_out.0")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # what is trained stays float32
    gradient_checkpointing: bool = False  # a fifth of the memory of a backward pass, a third slower

    def __post_init__(self) -> None:
        refuse(self.lora_rank < 1, f"lora_rank must be at least 1, got {self.lora_rank}")


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """How rollouts are drawn: DDIM in its SDE form.

    Batch sizes, `optimizer.micro_batch_size` too, change results by rounding only, and are no more
    than fit into memory (`drift.plan`); 0 is as many as fit.
    """

    steps: int = 50  # T, Table 2
    eta: float = 1.0  # Table 2
    guidance_scale: float = 5.0  # in sampling and in training, Table 2
    prompts_per_epoch: int = 16
    pool_size: int = 16  # C, candidates drawn per prompt: 2G
    group_size: int = 8  # G, candidates kept per prompt
    batch_size: int = 16  # images denoised at once
    decode_batch_size: int = 8  # latents decoded to images at once
    scoring_batch_size: int = 64  # images shown to reward and encoder at once

    def __post_init__(self) -> None:
        refuse(
            self.group_size > self.pool_size,
            f"group_size ({self.group_size}) is larger than pool_size ({self.pool_size})",
        )
        refuse(self.group_size < 2, f"group_size must be at least 2, got {self.group_size}")
        refuse(not 0 < self.eta <= 1, f"eta must lie in (0, 1], got {self.eta}")
        refuse(self.guidance_scale < 0, f"guidance_scale is negative: {self.guidance_scale}")
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

    def __post_init__(self) -> None:
        refuse(self.learning_rate <= 0, f"learning_rate must be positive: {self.learning_rate}")
        refuse(
            self.updates_per_epoch < 1 or self.micro_batch_size < 0,
            "updates_per_epoch must be at least 1, micro_batch_size at least 1, or 0 for as many "
            "as fit into memory",
        )


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
    seed: int = 1_000_000  # image k of a prompt is drawn with torch seed `seed + k`
    rewards: RewardNames = ()  # empty: the training reward, and each part of a sum
    encoders: Names = ()  # empty: the training encoder, and one that was not rewarded beside it
    batch_size: int = 40  # denoised at once, of some 40 that are drawn together; rounding only

    def __post_init__(self) -> None:
        refuse(self.prompts_count < 0, f"prompts_count is negative: {self.prompts_count}")
        refuse(
            any(name.partition(":")[0] == OWN_FEATURES for name in self.encoders),
            f"encoders: '{OWN_FEATURES}' would judge each model by itself; {JUDGES}",
        )


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A training run, whole."""

    prompts: str  # a text file, one prompt a line, or the name of a shipped list
    method: Method
    reward: RewardName  # a name, a URL, module:function, or a sum: "pickscore + 0.1*aesthetic"
    # Measures, and under DRIFT rewards, diversity; "" for none, "policy" for its own features.
    encoder: str = "dreamsim-tiny"
    output: str = "runs/run"
    seed: int = 42  # Table 2
    epochs: int = 100
    checkpoint_every: int = 10  # epochs
    device: str = "auto"  # auto: the first CUDA device, if there is one, else the CPU
    threads: int = 0  # CPU threads; 0 leaves it to torch
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    reward_worker: WorkerConfig = field(default_factory=WorkerConfig)
    method_name: str = ""  # what `method` was built from; for people, not read by the code

    def __post_init__(self) -> None:
        method, sampling = self.method, self.sampling
        refuse(
            method.selection.kind == "none" and sampling.pool_size != sampling.group_size,
            f"method.selection 'none' keeps the whole pool: pool_size ({sampling.pool_size}) must "
            f"be group_size ({sampling.group_size})",
        )
        refuse(
            method.shaping.weight > 0 and not self.encoder,
            f"method.shaping.weight is {method.shaping.weight}, but encoder is empty",
        )
        refuse(
            self.encoder == OWN_FEATURES and not self.evaluation.encoders,
            f"evaluation.encoders is empty, and encoder '{OWN_FEATURES}' cannot judge; {JUDGES}",
        )
        refuse(
            self.images_kept % self.optimizer.updates_per_epoch != 0,
            f"the {self.images_kept} kept samples of an epoch do not divide into "
            f"updates_per_epoch ({self.optimizer.updates_per_epoch})",
        )
        refuse(
            min(self.epochs, self.checkpoint_every) < 1, "epochs and checkpoint_every: at least 1"
        )

    @property
    def images_sampled(self) -> int:
        """Of an epoch."""
        return self.sampling.prompts_per_epoch * self.sampling.pool_size

    @property
    def images_kept(self) -> int:
        """Of an epoch."""
        return self.sampling.prompts_per_epoch * self.sampling.group_size

    @property
    def samples_per_update(self) -> int:
        return self.images_kept // self.optimizer.updates_per_epoch

    @property
    def judging_rewards(self) -> list[str]:
        """Of an evaluation, each once."""
        return list(dict.fromkeys(self.evaluation.rewards or with_components(self.reward)))

    @property
    def encoder_beside(self) -> str:
        """One that judges beside the training encoder, where `evaluation.encoders` is empty.

        Diversity that was rewarded by an encoder may only have fooled that encoder. It does not
        depend on the method, so that runs with and without such a reward are judged alike.
        """
        shipped = self.model.name.startswith("menagerie/")
        kind = self.encoder.partition(":")[0]
        return next(name for name in (BESIDE_SHIPPED if shipped else BESIDE) if name != kind)

    @property
    def judging_encoders(self) -> list[str]:
        """Of an evaluation, each once."""
        asked = self.evaluation.encoders or (self.encoder, self.encoder_beside)
        return list(dict.fromkeys(name for name in asked if name))


def read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping of fields")
    return content


def validate(raw: dict, *, source: str) -> TrainConfig:
    """Build a TrainConfig; every error at once, one line, named by field."""
    try:
        return TypeAdapter(TrainConfig).validate_python(raw)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field_path = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{field_path}: {message}" if field_path else message)
        raise UserError(f"{source}: " + "; ".join(lines)) from error


def load_run_config(run: Path) -> TrainConfig:
    """The configuration a run folder was made with."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    return validate(read_yaml(run / "config.yaml"), source=str(run / "config.yaml"))


def to_yaml(config: TrainConfig) -> str:
    plain = TypeAdapter(TrainConfig).dump_python(config, mode="json")
    return yaml.safe_dump(plain, sort_keys=False)
