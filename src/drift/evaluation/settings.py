"""What an evaluation is of: the settings that decide its figures, checked before anything is drawn.

Some decide the pictures, the others (`JUDGING`) only what is measured on them: where just these
differ, the pictures that are there are judged again, and none is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from drift.config import OWN_FEATURES, TrainConfig
from drift.encoders import find_encoder
from drift.errors import UserError
from drift.menagerie.judge import animal_of
from drift.recipes import parse_override, read_fields
from drift.rewards import check_rewards

# `judge`: by the Menagerie's ground truth; `weights`: of all these judges; `fields`: what the file
# of prompts tells rewards of each, if it has any.
JUDGING = ("rewards", "encoders", "judge", "weights", "fields")


def parse_changes(overrides: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `evaluation` from `key=value` (or `evaluation.key=value`) texts and from options.

    An option has the name of its field, with dashes on the command line.
    """
    parsed = [parse_override(text.removeprefix("evaluation.")) for text in overrides]
    changes = {".".join(path): value for path, value in parsed}
    for field in options.keys() & changes.keys():
        option = field.replace("_", "-")
        raise UserError(f"evaluation.{field}: give --{option} or {field}=..., not both")
    return {**changes, **options}


def settings_of(config: TrainConfig, probed: bool) -> dict[str, Any]:
    """All that decides the figures besides weights; equal settings are not evaluated twice.

    `probed`: whether the Menagerie's probe is here, to judge prompts that name its animals.
    """
    asked = config.evaluation
    fields = _fields(config)
    told = {prompt: some for prompt, some in fields.items() if some}
    check_rewards(config.judging_rewards)
    check_encoders(config)
    return {
        "prompts": list(fields),
        "images_per_prompt": asked.images_per_prompt,
        "seed": asked.seed,
        **config.judging_sampler,
        "rewards": config.judging_rewards,
        "encoders": config.judging_encoders,
        "judge": probed and any(map(animal_of, fields)),
        **({"fields": told} if told else {}),
    }


def _fields(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The first `prompts_count` prompts of the list, or all of it, with the fields of each."""
    asked = config.evaluation
    name, count = asked.prompts or config.prompts, asked.prompts_count
    if not name:
        raise UserError("evaluation.prompts: a plain model needs prompts=FILE or a list's name")
    fields = read_fields(name, field="evaluation.prompts")
    if count > len(fields):
        raise UserError(f"evaluation.prompts_count: {count}, but '{name}' has {len(fields)}")
    return dict(list(fields.items())[: count or None])


def check_encoders(config: TrainConfig) -> None:
    """Refuse unknown encoders, and the one that was rewarded as the only judge of diversity.

    Two names of the same weights are one encoder.
    """
    own, names = config.encoder, config.judging_encoders
    judging = {_weights(name, config) for name in names}
    rewarded = config.method.shaping.weight > 0 and own != OWN_FEATURES
    if rewarded and judging == {_weights(own, config)}:
        raise UserError(
            f"evaluation.encoders: {own} was rewarded in training and may not judge diversity "
            f"alone; add another, as in --encoders {own},{config.encoder_beside}"
        )


def _weights(name: str, config: TrainConfig) -> str:
    return find_encoder(name, config.model.name).weights[0].repo
