"""What is to be judged: models and checkpoints, and all that tells their pictures from others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.config import TrainConfig
from drift.errors import UserError
from drift.evaluation import stored
from drift.evaluation.jobs import Job
from drift.evaluation.settings import JUDGING, settings_of
from drift.files.checksums import joint, joint_checksum
from drift.files.hub import SHIPPED
from drift.files.records import settings_difference
from drift.menagerie.probe import Probe, load_probe
from drift.methods.parts.conditioning import CleanPrompt
from drift.models import adapter_files, is_model, locate_adapter, locate_model, model_files
from drift.rewards import refuse_strange_code
from drift.training import runs
from drift.training.checkpoint import Checkpoint
from drift.training.needs import record_judges

PROBE = SHIPPED / "probe"  # reads the Menagerie's ground truth off pictures


@dataclass(frozen=True)
class Target:
    """A run, or a plain model with the folder that its evaluation goes to."""

    run: Path
    config: TrainConfig
    chosen: list[Checkpoint]
    wanted: dict[str, Any]  # settings, model and adapter, by which a complete evaluation is known


def open_probe() -> Probe:
    """What tells the ground truth of the Menagerie's pictures."""
    return load_probe(PROBE)


def open_targets(
    targets: Sequence[Path],
    changes: dict[str, Any],
    checkpoints: str,
    out: Path | None,
    *,
    allow_code: bool = False,
) -> list[Target]:
    """What is to be judged, all by the same settings; or an error before anything is drawn."""
    if not targets:
        raise UserError("evaluate: name at least one run or model")
    opened: list[Target] = []
    hashes: dict[Path, str] = {}
    for path in targets:
        config, is_run = runs.open_target(path, changes), runs.is_run(path)
        if is_run and not allow_code and "rewards" not in changes:
            refuse_strange_code(config.judging_rewards, path)
        run = path if is_run else out or Path("runs") / (path.stem if path.is_file() else path.name)
        if run.resolve() in [other.run.resolve() for other in opened]:
            raise UserError(f"evaluate: two of these would be evaluated in {run}")
        if not is_model(locate_model(config.model.name)):
            raise UserError(
                f"evaluate: '{config.model.name}' is neither a run folder, with a config.yaml, "
                "nor a diffusers model, with a model_index.json, nor a file"
            )
        settings = settings_of(config, probed=PROBE.is_dir())
        settings["weights"] = record_judges(config, hashes)
        if settings["judge"]:
            settings["weights"]["ground truth"] = joint_checksum(PROBE.iterdir())
        different = opened and settings_difference(opened[0].wanted["settings"], settings)
        if different:
            raise UserError(
                f"evaluate: {targets[0]} and {path} would not be judged alike: {different}; "
                "give one value for all, by an option or KEY=VALUE"
            )
        chosen = runs.choose_checkpoints(run, checkpoints) if is_run else []
        known = _base_of(config, hashes)
        wanted = {"settings": settings, "model": known, "adapter": None}
        opened.append(Target(run, config, chosen, wanted))
    return opened


def _base_of(config: TrainConfig, hashes: dict[Path, str]) -> dict[str, str]:
    """Name and SHA-256 of what a run begins with: a model, and a LoRA if there is one."""
    model = config.model
    files = list(model_files(locate_model(model.name)).values())
    known = {"name": model.name, "sha256": joint_checksum(files, hashes)}
    if model.adapter:
        lora = joint_checksum(adapter_files(locate_adapter(model.adapter)).values(), hashes)
        begun = [("model", known["sha256"]), ("adapter", lora)]
        known = {"name": f"{model.name} + {model.adapter}", "sha256": joint(begun)}
    if model.prediction_type != "auto":
        begun = [("model", known["sha256"]), ("prediction_type", model.prediction_type)]
        known["sha256"] = joint(begun)
    return known


def keep_others(targets: Sequence[Target], name: str) -> None:
    """Refuse to draw anew what lies under this name with other settings, at whatever step."""
    for target in targets:
        for step, found in stored.list_evaluations(target.run, name, tqdm.write).items():
            different = stored.first_difference(found, target.wanted, JUDGING, "{} then, {} now")
            if different:
                folder = stored.evaluation_folder(target.run, step, name)
                raise UserError(
                    f"evaluate: the pictures in {folder} are of other {different}; "
                    "keep both by another --name, or give --replace"
                )


def plan_jobs(targets: Sequence[Target], name: str = stored.DEFAULT) -> list[Job]:
    """Every base model once, where its evaluation is or is nearest to be, then its checkpoints."""
    alike: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        key = target.wanted["model"]["sha256"], target.config.model.dtype
        alike.setdefault(key, []).append(target)
    jobs: list[Job] = []
    for same in alike.values():
        bases = []
        for t in same:
            folder = stored.evaluation_folder(t.run, 0, name)
            bases.append(Job(folder, t.config, None, t.wanted, base=folder))
        home = max(bases, key=lambda job: 2 * job.complete + job.drawn)  # the first, if equal
        copies = tuple(job.folder for job in bases if job is not home)
        jobs.append(replace(home, copies=copies))
        for t in same:
            for checkpoint in t.chosen:
                folder = stored.evaluation_folder(t.run, checkpoint.epoch, name)
                wanted = t.wanted | {"adapter": _adapter(t.config, checkpoint)}
                jobs.append(Job(folder, t.config, checkpoint, wanted, base=home.folder))
    return jobs


def _adapter(config: TrainConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a checkpoint's pictures from the base model's."""
    conditioning = config.method.conditioning.at_test()
    told = {"epoch": checkpoint.epoch, "sha256": joint_checksum([checkpoint.weights])}
    return told if conditioning == CleanPrompt() else told | {"conditioning": asdict(conditioning)}
