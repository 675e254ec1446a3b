"""`python -m benchmarks epochs`: the paper's recipe on random weights, timed by stage.

Weights are written once as the folders that a user would have, and loaded by the same loaders.
Random rewards teach nothing: time, memory and the first update's clip fraction are what is asked.
"""

import json
import platform
import sys
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from benchmarks import published
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.policy import pick_device
from drift.training.tracking import read_metrics

GIB = 2**30
EPOCHS = 2
TINY = [
    "sampling.steps=4",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=6",
    "sampling.group_size=3",
    "optimizer.updates_per_epoch=2",
    "model.dtype=float32",
]


def write_weights(folder: Path, size: str, dtype: torch.dtype) -> dict[str, Path]:
    """Random weights under `folder`, unless they are there: model, reward and encoder."""
    paths = {part: folder / part for part in ("model", "reward", "encoder")}
    if (folder / "complete").exists():
        return paths
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = published.policy(size, folder / "words", dtype)
    pipe.save_pretrained(paths["model"])
    published.reward(size, pipe.tokenizer).save_pretrained(paths["reward"])
    pipe.tokenizer.save_pretrained(paths["reward"])
    paths["encoder"].mkdir(exist_ok=True)
    entries = []
    encoder = published.encoder(size)
    for k, arguments in enumerate(published.branches(size)):
        file = f"branch-{k}.safetensors"
        save_file(encoder.branches[k].vit.state_dict(), paths["encoder"] / file)
        entries.append(arguments | {"weights": file})
    (paths["encoder"] / "config.json").write_text(json.dumps({"branches": entries}))
    (folder / "complete").touch()
    return paths


def run(out: Path, size: str, device: str, overrides: list[str]) -> None:
    """Train, then print what it took."""
    dtype = torch.float16 if size == "full" else torch.float32
    paths = write_weights(out / f"weights-{size}", size, dtype)
    config = load_recipe(
        "sd15-pickscore",
        [
            f"model.name={paths['model']}",
            f"reward=pickscore:{paths['reward']}",
            f"encoder=dreamsim:{paths['encoder']}",
            f"output={out / time.strftime('run-%Y%m%d-%H%M%S')}",
            f"device={device}",
            f"epochs={EPOCHS}",
            f"checkpoint_every={EPOCHS}",
            *(TINY if size == "tiny" else []),
            *overrides,
        ],
    )
    on = pick_device(device)
    start = time.perf_counter()
    folder = train(config, progress=sys.stderr.isatty())
    total = time.perf_counter() - start
    name = torch.cuda.get_device_name(on) if on.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}")
    lines = read_metrics(folder)
    print(f"{total:.1f} s in all, loading and {lines[-1]['epoch']} epochs")
    for line in (line for line in lines if line["update"] == 1):
        epoch = line["epoch"]
        stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in line["seconds"].items())
        print(f"epoch {epoch}: seconds {stages}")
        gap = max(value for value in line["log_prob_gap"] if value is not None)
        print(
            f"epoch {epoch}: first update's clip fraction {line['first_clip_fraction']:.4f}, "
            f"largest |ratio - 1| {line['max_ratio_error']:.1e}, log-prob gap {gap:.1e}"
        )
    if on.type == "cuda":
        held, used = torch.cuda.max_memory_reserved(on), torch.cuda.max_memory_allocated(on)
        print(f"card: {used / GIB:.2f} GiB in tensors at the peak, {held / GIB:.2f} GiB reserved")
    print(f"process: {psutil.Process().memory_info().rss / GIB:.2f} GiB now")
