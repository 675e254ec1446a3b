"""What a run is: frozen, strictly validated, written whole beside the results.

In: the fields of a recipe (`drift.recipes`) or of a run's config.yaml. Out: a `TrainConfig`, or one
line that names every field that is wrong. Start reading at `TrainConfig`, then `sections`.
"""

from dataclasses import field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from drift.config.sections import (
    BESIDE,
    BESIDE_SHIPPED,
    JUDGES,
    OWN_FEATURES,
    STRICT,
    EvaluateConfig,
    GuardsConfig,
    LiveConfig,
    ModelConfig,
    OptimizerConfig,
    RewardName,
    SamplingConfig,
    TrackerNames,
    WorkerConfig,
)
from drift.errors import UserError, refuse
from drift.methods.parts import Method
from drift.reward_names import with_components

__all__ = [
    "OWN_FEATURES",
    "EvaluateConfig",
    "GuardsConfig",
    "LiveConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "TrainConfig",
    "WorkerConfig",
    "load_run_config",
    "read_yaml",
    "to_yaml",
    "validate",
]


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
    live: LiveConfig = field(default_factory=LiveConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    trackers: TrackerNames = ()  # where metrics are shown as well, each an extra of the package
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
    def judging_sampler(self) -> dict[str, Any]:
        """How the pictures of an evaluation are drawn.

        Absent are the model's own size, no negative prompt, and a flow model's usual steps.
        """
        asked, sampling = self.evaluation, self.sampling
        sized = asked if asked.height else sampling
        told = asked.negative_prompt
        negative = sampling.negative_prompt if told is None else told
        wanted = {"height": sized.height, "width": sized.width, "negative_prompt": negative}
        flow = {"flow_form": self.model.flow_form, "flow_shift": self.model.flow_shift}
        usual = {"flow_form": "sde", "flow_shift": "auto"}.items()
        always = {name: getattr(asked, name) for name in ("steps", "guidance_scale", "eta")}
        others = {name: value for name, value in wanted.items() if value}
        return always | others | dict(flow.items() - usual)

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

    @property
    def live_encoder(self) -> str:
        """Of the alarm: the training's only if there is no other, for that is what is rewarded."""
        judges = self.judging_encoders
        others = [name for name in judges if name != self.encoder]
        return self.live.encoder or (others or judges)[0]


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
