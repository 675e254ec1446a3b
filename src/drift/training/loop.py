"""The training loop. It never asks which method it runs."""

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drift.config import TrainConfig
from drift.errors import Interrupted, UserError
from drift.functional.noise import derive_seed
from drift.recipes import read_prompts
from drift.training.average import averaged, open_average
from drift.training.checkpoint import (
    STATE,
    Checkpoint,
    delete_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    skip,
)
from drift.training.cuts import cut_prompts
from drift.training.diagnostics import warnings
from drift.training.epoch import Run, train_epoch
from drift.training.folder import alone_in, begin, check_folder, check_parts, update
from drift.training.guards import breaches
from drift.training.interrupt import gently, held
from drift.training.live import Live, alarm, look, open_live, prune, recall, stops
from drift.training.needs import check_names
from drift.training.plan import changes, limit, plan, sizes
from drift.training.policy import load_policy, pick_device
from drift.training.preflight import prepare
from drift.training.scoring import open_encoder, open_reward
from drift.training.trackers import check_trackers, open_trackers
from drift.training.tracking import (
    LIVE,
    METRICS,
    append_metrics,
    course,
    finished_lines,
    keep_lines,
    keep_traceback,
    read_metrics,
)
from drift.training.update import Learner
from drift.types import PolicyModel


def draw_prompts(prompts: list[str], count: int, seed: int, epoch: int) -> list[str]:
    """The prompts of one epoch: walks through a fresh shuffle of the list before any repeats."""
    chosen = []
    for place in range((epoch - 1) * count, epoch * count):
        lap, index = divmod(place, len(prompts))
        generator = torch.Generator().manual_seed(derive_seed(seed, lap))
        chosen.append(prompts[int(torch.randperm(len(prompts), generator=generator)[index])])
    return chosen


GO_ON = "to go on, --resume with live.on_alarm=warn or a smaller live.alarm_share"


def open_optimizer(model: PolicyModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    settings = config.optimizer
    try:
        return torch.optim.AdamW(
            model.trainable_parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            eps=settings.epsilon,
        )
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error


def start(config: TrainConfig, resume: bool) -> Run:
    """Load every part, restore the newest valid checkpoint; then alone is the folder written to."""
    check_folder(config, resume)  # again: from here on nobody else can change it
    check_trackers(config.trackers)
    check_names(config)
    device = str(pick_device(config.device))
    reward, model = open_reward(config, device), load_policy(config)
    encoder = open_encoder(config, device)
    live = open_live(config, device, encoder)
    prepare(model, config)
    optimizer = open_optimizer(model, config)
    scaler = torch.amp.GradScaler(model.device.type, enabled=config.model.dtype == "float16")
    average = open_average(model.trainable_parameters(), config.optimizer.ema)
    learner = Learner(optimizer, scaler, config.optimizer.micro_batch_size, average)
    folder = Path(config.output)
    run = Run(config, folder, model, learner, reward, encoder, live, method_state={}, finished=0)
    lines = {}
    if resume:
        check_parts(config)
        lines = _restore(run)
    encoders = live.encoders.values() if live else [encoder]
    run.config = plan(run.config, model, reward, *encoders)
    run.learner.micro_batch_size = run.config.optimizer.micro_batch_size
    for line in changes(config, run.config):
        tqdm.write(line)
    if not resume:
        begin(config)
        return run
    for name, kept in lines.items():
        keep_lines(folder, name, kept)
    update(config)
    prune(folder, live, last=run.finished)
    return run


def _restore(run: Run) -> dict[str, list[bytes]]:
    """Load the newest valid checkpoint, if there is one; returns the lines until then, by file."""
    newest, known = newest_checkpoint(run.folder, skip), {}
    if newest:
        learner = run.learner
        state = load_checkpoint(newest, run.model, learner.optimizer, learner.average)
        _put_state(run, state, newest.folder / STATE)
        run.finished = run.saved = newest.epoch
        run.passing = newest if state.get("passing") else None
        known = state.get("course", {})
    lines = {
        name: finished_lines(run.folder, run.finished, name, known.get(name))
        for name in (METRICS, LIVE)
    }
    if run.live:
        recall(run.live, run.folder, lines[LIVE])
    return lines


def _put_state(run: Run, state: dict[str, Any], file: Path) -> None:
    """What a checkpoint keeps beside weights and moments."""
    learner = run.learner
    try:
        # Before shaping and regulariser had state, "method" was the advantage's.
        run.method_state = state.get("slots") or {"advantage": state["method"]}
        learner.skipped = state["skipped"]
        learner.scaler.load_state_dict(state["scaler"])
        run.config = limit(run.config, state.get("batch_sizes", {}))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"checkpoint: {file} is not as a run writes it ({type(error).__name__}: {error}); "
            "move its folder away to go on from the one before"
        ) from error


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint keeps beside weights and moments; all else follows from the counters."""
    return {
        "slots": run.method_state,
        "scaler": run.learner.scaler.state_dict(),
        "skipped": run.learner.skipped,
        "course": course(run.folder),
        "batch_sizes": sizes(run.config)
        | {"optimizer.micro_batch_size": run.learner.micro_batch_size},
    }


def save(run: Run, *, passing: bool = False) -> None:
    """Write a checkpoint; those that it makes needless go when it is safely on disk."""
    learner, epoch = run.learner, run.finished
    state, average = state_of(run) | {"passing": passing}, learner.average
    saved = save_checkpoint(run.folder, epoch, run.model, learner.optimizer, state, average)
    if run.passing:
        delete_checkpoints(run.folder, [run.passing])
    run.passing = Checkpoint(saved, epoch) if passing else None
    run.saved = epoch
    prune(run.folder, run.live, last=epoch)


def save_interrupted(run: Run, stop: Interrupted) -> Interrupted:
    """Keep what was finished since the last checkpoint, and say so."""
    if run.finished > run.saved:
        save(run, passing=True)
    kept = f"epoch {run.finished} is saved" if run.finished else "no epoch was finished"
    return Interrupted(stop.number, f"{kept}; go on with --resume")


def look_at(run: Run, epoch: int) -> dict[str, Any]:
    """A look at what a checkpoint would hold now; once begun it is finished."""
    assert run.live is not None
    with held(), averaged(run.learner.average, run.model.trainable_parameters()):
        return look(run.live, run.folder, run.model, run.reward, run.config, epoch)


def postfix(line: dict[str, Any], live: Live | None) -> dict[str, str]:
    """What a progress bar shows of an epoch, and of the last look."""
    shown = {"reward": f"{line['reward_mean']:.3f}"}
    if line["diversity"] is not None:
        shown["diversity"] = f"{line['diversity']:.3f}"
    if live:
        seen = live.looks[-1]
        shown["live"] = f"{seen['reward']:.3f} at {seen['share'][live.settings['encoder']]:.0%}"
    return shown


def due(config: TrainConfig, epoch: int) -> bool:
    """Whether a checkpoint is saved after this epoch."""
    return epoch % config.checkpoint_every == 0 or epoch == config.epochs


def refuse_breaches(run: Run, broken: dict[str, str]) -> None:
    """End a run that a guard stops, before what it has become is saved."""
    if broken and run.config.guards.on_breach == "stop":
        last = f"that of epoch {run.saved}" if run.saved else "none yet"
        raise UserError(
            f"epoch {run.finished}: {'; '.join(broken.values())}; it is not saved, the last "
            f"checkpoint is {last}; to go on, --resume with guards.on_breach=warn or other limits"
        )


def go_on(run: Run, prompts: list[str], progress: bool) -> None:
    """The epochs that are left, up to the last or to an alarm that stops."""
    config = run.config
    for line in cut_prompts(run.model, prompts):
        tqdm.write(line)
    bar = tqdm(
        range(run.finished + 1, config.epochs + 1),
        desc=config.method_name,
        initial=run.finished,
        total=config.epochs,
        disable=not progress,
        unit="epoch",
    )
    history, told = read_metrics(run.folder), set[str]()
    with open_trackers(config, run.folder) as track:
        if run.live and not run.live.looks:
            track(LIVE, [look_at(run, epoch=0)])
        for epoch in bar:
            drawn = draw_prompts(prompts, config.sampling.prompts_per_epoch, config.seed, epoch)
            lines = train_epoch(run, drawn, epoch)
            append_metrics(run.folder, lines)
            track(METRICS, lines)
            history += lines
            broken = breaches(history, config.guards)
            refuse_breaches(run, broken)
            if run.live and (due(config, epoch) or epoch % config.live.every == 0):
                track(LIVE, [look_at(run, epoch)])
            for name, warning in (warnings(history) | alarm(run.live) | broken).items():
                if name not in told:
                    tqdm.write(f"epoch {epoch}: {warning}")
                told.add(name)
            bar.set_postfix(postfix(lines[-1], run.live))
            if due(config, epoch) or stops(run.live):
                save(run)
            if stops(run.live):
                tqdm.write(f"stopped after epoch {epoch}; {GO_ON}")
                break


def train(config: TrainConfig, *, resume: bool = False, progress: bool = True) -> Path:
    """Run (or finish) a training; returns the run folder."""
    if config.threads:
        torch.set_num_threads(config.threads)
    prompts = read_prompts(config.prompts)
    check_folder(config, resume)
    with alone_in(config):
        run = start(config, resume)
        if run.finished >= config.epochs:
            tqdm.write(f"{run.folder} is finished: {run.finished} epochs")
        elif stops(run.live):
            why = alarm(run.live)["collapse"]
            tqdm.write(f"{run.folder} was stopped after epoch {run.finished}: {why}; {GO_ON}")
        else:
            with keep_traceback(run.folder), gently():
                try:
                    go_on(run, prompts, progress)
                except Interrupted as stop:
                    raise save_interrupted(run, stop) from None
    return run.folder
