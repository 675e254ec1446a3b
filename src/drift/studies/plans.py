"""The paper's studies as data: which methods, on which rewards, in which world, at which budget.

Studies share runs: a run's folder depends on world, budget, reward, method and seed alone.
"""

from dataclasses import dataclass
from pathlib import Path

from drift.config import TrainConfig
from drift.errors import UserError
from drift.recipes import load_recipe


@dataclass(frozen=True)
class Study:
    """The methods compared; the first is what the others are baselines of."""

    shows: str
    methods: tuple[str, ...]
    rewards: int = 1  # how many of the world's


@dataclass(frozen=True)
class World:
    """A recipe, and by each budget what it changes; `rewards` in the paper's order."""

    recipe: str
    rewards: tuple[str, ...]
    budgets: dict[str, tuple[str, ...]]


BASELINES = ("ddpo", "grpo", "grpo-kl")

STUDIES = {
    "table1": Study("Table 1: DRIFT and its baselines, two rewards", ("drift", *BASELINES), 2),
    "sampling": Study(
        "Figures 4-6: reward-concentrated, contrasted and (ours) random sampling",
        ("drift", "drift-contrasted", "drift-random"),
    ),
    "noise": Study(
        "Figures 7-9: prompt noise in training, in both, at test, never",
        ("drift", "drift-noise-both", "drift-noise-test", "drift-noise-none"),
    ),
    "frontier": Study("Figure 10: frontiers, two rewards", ("drift", *BASELINES), 2),
    "collapse": Study("Figure 2: diversity over training", ("drift", "grpo")),
}

WORLDS = {
    "menagerie": World(
        "menagerie",
        ("pickscore-tiny", "hpsv2-tiny"),
        {
            "small": ("checkpoint_every=10",),
            "medium": ("epochs=200", "checkpoint_every=20"),  # 16,000 images
            "paper": (
                "epochs=200",
                "checkpoint_every=20",
                "sampling.prompts_per_epoch=16",
                "evaluation.images_per_prompt=40",
            ),
        },
    ),
}
WORLDS |= {  # that want a GPU and published weights; the paper's own is sd15
    name: World(
        f"{name}-pickscore",
        ("pickscore", "hpsv2"),
        {"small": ("epochs=20", "checkpoint_every=5"), "paper": ()},
    )
    for name in ("sd15", "sdxl", "sd35", "flux")
}


@dataclass(frozen=True)
class Planned:
    """A run of a study, and what makes it: `drift train RECIPE OVERRIDES`."""

    recipe: str
    overrides: tuple[str, ...]
    config: TrainConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def name(self) -> str:
        return f"{self.config.reward}-{self.folder.name}"


def plan_runs(
    name: str, world: str, budget: str, seeds: int, out: Path, overrides: list[str]
) -> list[Planned]:
    """All runs of a study, in the order in which they are best made: seed by seed."""
    for kind, value, known in (
        ("study", name, STUDIES),
        ("world", world, WORLDS),
        ("budget", budget, WORLDS[world].budgets if world in WORLDS else {}),
    ):
        if value not in known:
            raise UserError(f"{kind}: there is no '{value}'; known are {', '.join(known)}")
    if seeds < 1:
        raise UserError(f"seeds: at least 1, not {seeds}")
    study, where, runs = STUDIES[name], WORLDS[world], []
    first = load_recipe(where.recipe, list(overrides)).seed
    for seed in range(first, first + seeds):
        for reward in where.rewards[: study.rewards]:
            for method in study.methods:
                own = (
                    *where.budgets[budget],
                    *overrides,
                    f"method={method}",
                    f"reward={reward}",
                    f"seed={seed}",
                    f"output={out / f'{world}-{budget}' / reward / f'{method}-seed{seed}'}",
                )
                runs.append(Planned(where.recipe, own, load_recipe(where.recipe, list(own))))
    return runs
