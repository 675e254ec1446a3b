"""All that a comparison finds, computed once; page, tables and drawn figures show it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from drift.menagerie.judge import taste_name
from drift.report.arms import Arm, Compared
from drift.report.gains import (
    Difference,
    Gain,
    Scale,
    all_gains,
    differences,
    hypervolumes,
    pareto_set,
    scale_of,
)
from drift.report.verdict import judging_encoder, judging_reward, rewarded_encoders, verdict
from drift.reward_names import parse
from drift.training.costs import Cost, cost


@dataclass(frozen=True)
class Spent:
    """What a run took up to its last judged checkpoint."""

    run: Compared
    counted: Cost
    seconds: float | None  # on the run's own machine


@dataclass(frozen=True)
class Comparison:
    """Arms, those first that are no baselines, and what their evaluations say together."""

    arms: Sequence[Arm]
    baselines: Sequence[Arm]  # the last of `arms`; none: no gains are asked for
    scale: Scale
    encoder: str  # decides
    measures: Sequence[str]  # figures of diversity and coverage, the deciding ones first
    truths: Sequence[str]  # figures that only the embedded world has
    gains: Sequence[Gain] = field(default_factory=list)
    differences: Sequence[Difference] = field(default_factory=list)

    @property
    def ours(self) -> Sequence[Arm]:
        return self.arms[: len(self.arms) - len(self.baselines)]

    @cached_property
    def verdict(self) -> tuple[str, list[str]]:
        """The headline, and the sentences that belong to it."""
        return verdict(self.arms)

    @property
    def prompts(self) -> list[str]:
        return self.arms[0].settings["prompts"]

    @property
    def rewarded(self) -> set[str]:
        """Encoders whose diversity some run was rewarded for."""
        return rewarded_encoders(self.arms)

    @property
    def base(self) -> Compared:
        """A run whose step 0 is the base model; all the runs' are the same."""
        return self.arms[0].runs[0]

    @property
    def spent(self) -> list[Spent]:
        return [
            Spent(run, cost(run.config, run.last), (run.spent or {}).get("seconds"))
            for arm in self.arms
            for run in arm.runs
        ]

    def hypervolume(self, arm: Arm):
        """Of each seed's frontier, by the deciding encoder's diversity."""
        return hypervolumes(arm, self.scale, f"diversity/{self.encoder}")

    def on_frontier(self) -> list[tuple[str, int]]:
        """The (arm, step)s that no other dominates, by the deciding encoder's diversity."""
        return pareto_set(self.arms, self.scale, f"diversity/{self.encoder}")


def _measures(arms: Sequence[Arm], encoder: str) -> list[str]:
    """Section 6: diversity by every encoder; recall, precision and Vendi by the deciding one."""
    names, paid = arms[0].settings["encoders"], rewarded_encoders(arms)
    ordered = sorted(names, key=lambda name: (name != encoder, name in paid))
    wanted = [f"diversity/{name}" for name in ordered]
    wanted += [f"{kind}/{encoder}" for kind in ("recall", "precision", "vendi", "vendi_all")]
    known = arms[0].runs[0].evaluations[arms[0].last]["figures"]
    return [name for name in wanted if name in known]


def _truths(arms: Sequence[Arm], reward: str) -> list[str]:
    known = arms[0].runs[0].evaluations[0]["figures"]
    gold = [f"gold/{name}" for name in filter(None, map(taste_name, parse(reward)))]
    return [name for name in ("coverage", "right_animal", *gold) if name in known]


def comparison(ours: Sequence[Arm], baselines: Sequence[Arm] = ()) -> Comparison:
    """Everything; gains and differences only over `baselines`."""
    arms = [*ours, *baselines]
    reward, encoder = judging_reward(arms), judging_encoder(arms)
    scale, measures, truths = (
        scale_of(arms, reward),
        _measures(arms, encoder),
        _truths(arms, reward),
    )
    gained = [*measures, *(name for name in truths if name == "coverage")]
    tested = [f"reward/{reward}", *measures, *truths]
    return Comparison(
        arms,
        baselines,
        scale,
        encoder,
        measures,
        truths,
        gains=all_gains(ours, baselines, scale, gained, f"diversity/{encoder}"),
        differences=differences(ours, baselines, tested),
    )
