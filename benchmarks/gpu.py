"""`python -m benchmarks gpu`: what a card makes of the paper's epoch, most telling row first.

Random weights in the published shapes are made on the device; nothing is written but the report,
after every row. Timed is a sixteenth of the epoch's rollout (one prompt's pool, all its steps),
with its decoding and scoring, and TRAINED of its 128 kept samples; each time is multiplied by what
is left out. That is fair: an epoch is many equal batches. Random weights say nothing of learning,
and only the order of magnitude of the ratio's error. On a processor the same runs in small.
"""

import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from benchmarks.bench import Bench, Report, Row, open_bench
from benchmarks.epochs import TINY
from drift.config import TrainConfig
from drift.functional.advantages import group_advantages
from drift.models.stable_diffusion import StableDiffusion
from drift.recipes import load_recipe, read_prompts
from drift.training.memory import peak_memory
from drift.training.plan import stages
from drift.training.policy import pick_device, use_tf32
from drift.training.preflight import ratio_errors
from drift.training.rollout import decode, pool_seeds, sample_pool
from drift.training.scoring import AT_ONCE, features_of, score
from drift.training.update import Learner, Signal, trained_pairs, trial_gradient, update_policy
from drift.types import Rollout

TRAINED = 4  # samples of one timed update
GEMM = {"full": 8192, "tiny": 256}
MICRO_BATCHES = {"full": (2, 8, 32), "tiny": (2, 4)}
ROLLOUT_BATCHES = {"full": (16, 64), "tiny": (2, 6)}


# --- rows ---


def machine(device: torch.device) -> Row:
    told: Row = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    if device.type != "cuda":
        return told | {"name": f"{platform.machine()} CPU", "threads": torch.get_num_threads()}
    drivers = Path("/proc/driver/nvidia/version")
    properties = torch.cuda.get_device_properties(device)
    return told | {
        "name": properties.name,
        "bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": drivers.read_text().splitlines()[0] if drivers.exists() else "unknown",
    }


def matrix_peak(bench: Bench) -> Row:
    """FLOP/s of a square product by type; TF32 is float32 with it switched on."""
    n = GEMM[bench.size]
    for name in ("bfloat16", "float16", "tf32", "float32"):
        use_tf32(name == "tf32")
        dtype = getattr(torch, "float32" if name == "tf32" else name)
        a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
        bench.timed(lambda a=a, b=b: a @ b, 3)
        repeats = 10 if name in ("tf32", "float32") else 50
        bench.peak[name] = 2 * n**3 / bench.timed(lambda a=a, b=b: a @ b, repeats)
    return dict(bench.peak)


def unet_flops(bench: Bench) -> Row:
    """Forward FLOPs of one row, counted without computing anything."""
    with tempfile.TemporaryDirectory() as words, torch.device("meta"):
        unet = published.policy(bench.size, Path(words), torch.float32).unet
        config = unet.config
        x = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
        tokens = torch.zeros(1, 77, config.cross_attention_dim)
        with FlopCounterMode(display=False) as count, torch.no_grad():
            unet(x, torch.zeros(1), tokens)
    bench.flops = float(count.get_total_flops())
    return {"forward_of_a_row": bench.flops}


def stage_memory(bench: Bench, dtype: str) -> Row:
    """Bytes over the weights at the worst moment of each stage, with the recipe's sizes."""
    model, config = bench.load(dtype)
    sizes = {}
    for stage in stages(config, model, bench.reward, bench.encoder):
        section, name = stage.field.split(".")
        rows = min(getattr(getattr(config, section), name) or stage.rows, stage.rows)
        stage.work(1)  # what a first call takes for good
        sizes[stage.field] = {
            "rows": rows,
            "bytes": peak_memory(lambda s=stage, n=rows: s.work(n), bench.device),
        }
    return sizes


def epoch(bench: Bench, dtype: str) -> Row:
    """The paper's epoch, extrapolated from one prompt's pool and one update on TRAINED samples."""
    model, config = bench.load(dtype)
    prompts, sampling = read_prompts(config.prompts)[:1], config.sampling
    for stage in stages(config, model, bench.reward, bench.encoder):
        stage.work(1)  # warm
    on_card = bench.device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats(bench.device)
    found: list[Any] = []
    sampled = bench.timed(
        lambda: found.append(sample_pool(model, prompts, pool_seeds(config, 1), config))
    )
    drawn: Rollout = found[0]
    broken = int((~drawn.images.isfinite()).sum())  # a random decoder may overflow in half
    pool = replace(drawn, images=drawn.images.nan_to_num())
    last = pool.latents[0, :, -1].to(bench.device)
    decoded = bench.timed(lambda: decode(model, last, sampling.decode_batch_size))
    at_once = sampling.scoring_batch_size or AT_ONCE
    rewarded = bench.timed(lambda: score(bench.reward, pool.images, prompts, at_once))
    rewards = score(bench.reward, pool.images, prompts, at_once)
    trained = min(TRAINED, sampling.group_size)
    group = pool.keep(torch.arange(sampling.group_size)[None])
    embedded = bench.timed(lambda: features_of(bench.encoder, group, at_once))
    bench.kept = kept = pool.keep(torch.arange(trained)[None])
    ratio = float(ratio_errors(model, kept, config).max())
    signal = Signal(group_advantages(rewards[:, :trained]))
    updated = bench.timed(lambda: found.extend(one_update(model, kept, signal, config)))
    stats, pairs = found[1], int(kept.plan.train.sum()) * trained
    whole = load_recipe("sd15-pickscore", TINY if bench.size == "tiny" else [])
    more, again = whole.images_sampled / config.images_sampled, whole.images_kept / trained
    seconds = {
        "denoising": (sampled - decoded) * more,
        "decoding": decoded * more,
        "reward": rewarded * more,
        "encoder": embedded * more,
        "update": updated * again,
    }
    rows = 2 * config.images_sampled * sampling.steps  # two of guidance
    return {
        "seconds": seconds,
        "seconds_of_an_epoch": sum(seconds.values()),
        "measured": {"rollout": sampled, "samples": config.images_sampled, "update": updated},
        "denoising_share_of_peak": bench.share(rows, sampled - decoded, dtype),
        "update_share_of_peak": bench.share(3 * 2 * pairs, updated, dtype),
        "preflight_ratio_error": ratio,
        "first_clip_fraction": stats.clip_fraction,
        "max_ratio_error": stats.max_ratio_error,
        "log_prob_gap": stats.log_prob_gap,
        "skipped": stats.skipped,
        "broken_pixels": broken,
        "peak_bytes": torch.cuda.max_memory_allocated(bench.device) if on_card else None,
    }


def one_update(
    model: StableDiffusion, kept: Rollout, signal: Signal, config: TrainConfig
) -> list[Any]:
    """Of all that is kept, with the run's optimizer and scaler, on a copy of the LoRA."""
    before = [p.detach().clone() for p in model.trainable_parameters()]
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=config.optimizer.learning_rate)
    scaler = torch.amp.GradScaler(model.device.type, enabled=config.model.dtype == "float16")
    learner = Learner(optimizer, scaler, config.optimizer.micro_batch_size)
    stats = update_policy(model, learner, kept, signal, config, epoch=1)
    with torch.no_grad():
        for parameter, old in zip(model.trainable_parameters(), before, strict=True):
            parameter.copy_(old)
    return stats


def micro_batches(bench: Bench, dtype: str, checkpointing: bool) -> Row:
    """Seconds of a pair's gradient, and bytes, by how many are in a micro-batch."""
    model, config = bench.load(dtype)
    assert bench.kept is not None, "the epoch's row of this dtype comes first"
    kept, unet, rows = bench.kept, model.pipe.unet, {}
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    samples = kept.seeds.shape[1]
    pairs = trained_pairs(kept, torch.arange(samples))
    signal = Signal(torch.ones(1, samples))
    for size in MICRO_BATCHES[bench.size]:

        def work(part: Tensor = pairs[:size]) -> object:
            return trial_gradient(model, kept, signal, config, part)

        try:
            used = peak_memory(work, bench.device)
            seconds = bench.timed(work, max(2, (32 if bench.size == "full" else 4) // size))
        except torch.OutOfMemoryError:
            rows[str(size)] = "does not fit"
            torch.cuda.empty_cache()
            continue
        share = bench.share(3 * 2 * size, seconds, dtype)
        rows[str(size)] = {"seconds_a_pair": seconds / size, "bytes": used, "share_of_peak": share}
    unet.disable_gradient_checkpointing()
    return rows


def rollout_batches(bench: Bench, dtype: str) -> Row:
    """Seconds of a denoising step of one image, by how many are denoised at once."""
    model, config = bench.load(dtype)
    first, rows = stages(config, model, bench.reward, bench.encoder)[0], {}
    for size in ROLLOUT_BATCHES[bench.size]:
        first.work(size)
        seconds = bench.timed(lambda n=size: first.work(n), 3)
        share = bench.share(2 * size, seconds, dtype)
        rows[str(size)] = {"seconds_an_image": seconds / size, "share_of_peak": share}
    return rows


def compiled(bench: Bench, dtype: str) -> Row:
    """The same under torch.compile; its first call is the compiling."""
    model, config = bench.load(dtype)
    backend = "inductor" if bench.size == "full" else "eager"  # which compiles for 2 minutes here
    model.pipe.unet.compile(backend=backend)
    first = stages(config, model, bench.reward, bench.encoder)[0]
    size = ROLLOUT_BATCHES[bench.size][0]
    compiling = bench.timed(lambda: first.work(size))
    seconds = bench.timed(lambda: first.work(size), 3)
    share = bench.share(2 * size, seconds, dtype)
    return {"compiling": compiling, "seconds_an_image": seconds / size, "share_of_peak": share}


def run(out: Path | None, size: str, minutes: float, device: str = "auto") -> Report:
    """All rows that the time allows; `size` is "auto", "full" or "tiny"."""
    on = pick_device(device)
    size = ("full" if on.type == "cuda" else "tiny") if size == "auto" else size
    report, full = Report(out, time.monotonic() + 60 * minutes), size == "full"
    report.add("machine", 0, lambda: machine(on))
    bench = open_bench(size, on)
    for name, need, work in [
        ("matrix peak", 20, lambda: matrix_peak(bench)),
        ("unet flops", 20, lambda: unet_flops(bench)),
        ("epoch float16", 90, lambda: epoch(bench, "float16")),
        ("micro-batches float16", 40, lambda: micro_batches(bench, "float16", False)),
        ("memory float16", 20, lambda: stage_memory(bench, "float16")),
        ("micro-batches float16 checkpointed", 40, lambda: micro_batches(bench, "float16", True)),
        ("rollout float16", 20, lambda: rollout_batches(bench, "float16")),
        ("epoch bfloat16", 90, lambda: epoch(bench, "bfloat16")),
        ("micro-batches bfloat16", 40, lambda: micro_batches(bench, "bfloat16", False)),
        ("epoch float32", 150, lambda: epoch(bench, "float32")),
        ("compiled float16", 150, lambda: compiled(bench, "float16")),
    ]:
        report.add(name, need if full else 1, work)
    return report
