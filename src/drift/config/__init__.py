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

from drift.config.reading import parse_value, read_yaml
from drift.config.sections import (
    BESIDE,
    BESIDE_SHIPPED,
    JUDGES,
    OWN_FEATURES,
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
from drift.ranges import STRICT, Count, Name, Seed, Text, Threads
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
    "parse_value",
    "read_yaml",
    "to_yaml",
    "validate",
]


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A training run, whole."""

    prompts: Name  # a text file, one prompt a line, or the name of a shipped list
    method: Method
    reward: RewardName  # a name, a URL, module:function, or a sum: "pickscore + 0.1*aesthetic"
    # Measures, and under DRIFT rewards, diversity; "" for none, "policy" for its own features.
    encoder: Name = "dreamsim-tiny"
    output: Name = "runs/run"
    seed: Seed = 42  # Table 2
    epochs: Count = 100
    checkpoint_every: Count = 10  # epochs
    device: Name = "auto"  # auto: the first CUDA device, if there is one, else the CPU
    threads: Threads = 0  # CPU threads; 0 leaves it to torch
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    reward_worker: WorkerConfig = field(default_factory=WorkerConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    trackers: TrackerNames = ()  # where metrics are shown as well, each an extra of the package
    method_name: Text = ""  # what `method` was built from; for people, not read by the code

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
        refuse(not self.output, "output: name a folder")

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


def validate(raw: dict, *, source: str) -> TrainConfig:
    """Build a TrainConfig; every error at once, one line, named by field."""
    try:
        return TypeAdapter(TrainConfig).validate_python(raw)
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(map(_tell, error.errors()))) from error


# How pydantic's kinds of errors of numbers are told; the others as it tells them itself.
BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
}


def _tell(problem: Any) -> str:
    """One of pydantic's errors: the field, its value, and the rule that it breaks."""
    path, rule = ".".join(map(str, problem["loc"])), BOUNDS.get(problem["type"])
    told = problem["msg"].removeprefix("Value error, ")
    if rule:
        bounds = {name: _plain(bound) for name, bound in problem.get("ctx", {}).items()}
        told = f"{_plain(problem['input'])} is refused: {rule.format(**bounds)}"
    return f"{path}: {told}" if path else told


def _plain(value: Any) -> str:
    """A number as a person writes it, and not over 40 characters; 1.0 is 1."""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def load_run_config(run: Path) -> TrainConfig:
    """The configuration a run folder was made with."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    return validate(read_yaml(run / "config.yaml"), source=str(run / "config.yaml"))


def to_yaml(config: TrainConfig) -> str:
    plain = TypeAdapter(TrainConfig).dump_python(config, mode="json")
    return yaml.safe_dump(plain, sort_keys=False)
