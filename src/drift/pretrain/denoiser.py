"""Pre-train the Menagerie's UNet: an ordinary StableDiffusionPipeline folder."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from drift.menagerie.animals import ANIMALS
from drift.menagerie.captions import MAX_TOKENS, caption, simple_prompt
from drift.menagerie.probe import Probe, read
from drift.pretrain.autoencoder import LATENT_CHANNELS, encode
from drift.pretrain.loop import TRAIN_SEED, Schedule, fit, picture_set, processes

# Of each process; the shipped model was trained by two: torchrun --nproc-per-node 2 -m drift ...
SCHEDULE = Schedule(steps=21_000, batch_size=32, learning_rate=2e-3, average=0.999)
UNCONDITIONAL, SIMPLE = 0.1, 0.15  # shares of empty captions and of captions with the animal alone
WIDTH = 128  # of the text embeddings


def load_text_encoder(folder: Path):
    """Tokenizer and frozen text tower of the CLIP in `folder`, as Stable Diffusion has them.

    A text encoder that starts from nothing hardly learns: for 160,000 pictures the UNet ignores it.
    """
    text = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer, text.eval().requires_grad_(False)


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4),  # diffusers' name for the number of heads
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def build_scheduler() -> DDIMScheduler:
    """SD's noise schedule; v-prediction and trailing steps, which serve few sampling steps best."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def tokenize(tokenizer, prompts: list[str]) -> Tensor:
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    return padded.input_ids


def train(
    work: Path, vae: AutoencoderKL, schedule: Schedule = SCHEDULE, pictures: int = 48_000
) -> StableDiffusionPipeline:
    """Train the UNet on the latents of captioned pictures, with the frozen text tower of `clip`.

    Under torchrun the pictures are shared out among the processes.
    """
    rank, count = processes()
    torch.manual_seed(0)
    tokenizer, text = load_text_encoder(work / "clip")
    unet, scheduler = build_unet(), build_scheduler()
    train_set, truth = picture_set(TRAIN_SEED, pictures, on_grid=True)
    train_set, truth = train_set[rank::count], truth[rank::count]
    latents = encode(vae, train_set).mul_(vae.config["scaling_factor"]).half()

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = rng.choice(len(latents), schedule.batch_size, replace=False)
        share = rng.random(len(chosen))
        captions = [
            ""
            if u < UNCONDITIONAL
            else simple_prompt(ANIMALS[truth.animal[i]])
            if u < UNCONDITIONAL + SIMPLE
            else caption(truth, i, rng)
            for i, u in zip(chosen, share, strict=True)
        ]
        clean = latents[chosen].float().contiguous(memory_format=torch.channels_last)
        noise, t = torch.randn_like(clean), draw_times(len(chosen), rng)
        noisy, velocity = (
            scheduler.add_noise(clean, noise, t),
            scheduler.get_velocity(clean, noise, t),
        )
        with torch.no_grad():
            embeds = text(tokenize(tokenizer, captions)).last_hidden_state
        return F.mse_loss(unet(noisy, t, embeds).sample, velocity)

    fit("denoiser", unet, loss_at, schedule, work=work)
    return assemble(vae, unet, text, tokenizer, scheduler)


def assemble(vae, unet, text_encoder, tokenizer, scheduler) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def draw_times(count: int, rng: np.random.Generator) -> Tensor:
    """A part uniform, the rest logit-normal (as SD3) about t = 0.35, where forms are decided."""
    middle = 1 / (1 + np.exp(0.6 - rng.standard_normal(count)))
    t = np.where(rng.random(count) < 0.3, rng.random(count), middle)
    return torch.from_numpy((t * 1000).astype(np.int64))


@torch.no_grad()
def sample_sheet(
    pipe: StableDiffusionPipeline, per_animal: int, steps: int, guidance_scale: float
) -> Tensor:
    """Images [45, n, 3, 64, 64] of "a <animal>", seed k for the k-th of each animal."""
    pipe.set_progress_bar_config(disable=True)
    sheets = []
    for animal in tqdm(ANIMALS, desc="sampling"):
        generators = [torch.Generator().manual_seed(k) for k in range(per_animal)]
        images = pipe(
            [simple_prompt(animal)] * per_animal,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            eta=1.0,
            generator=generators,
            output_type="pt",
        ).images
        sheets.append(images)
    return torch.stack(sheets)


def quality(
    pipe: StableDiffusionPipeline,
    probe: Probe,
    per_animal: int = 32,
    steps: int = 25,
    guidance_scale: float = 3.0,
) -> dict[str, float]:
    """Share of right animals, and how many styles (of 3) and scenes (of 8) an animal shows."""
    images = sample_sheet(pipe, per_animal, steps, guidance_scale)
    reading = read(probe, images.flatten(0, 1))
    wanted = torch.arange(len(ANIMALS)).repeat_interleave(per_animal)
    shown = {n: getattr(reading, n).argmax(1).view(-1, per_animal) for n in ("style", "scene")}
    counts = {n: [len(row.unique()) for row in rows] for n, rows in shown.items()}
    return {
        "named_animal": round(float((reading.animal.argmax(1) == wanted).float().mean()), 4),
        "right_animal": round(float(reading.is_animal(wanted).float().mean()), 4),
        "styles_per_animal": round(float(np.mean(counts["style"])), 2),
        "scenes_per_animal": round(float(np.mean(counts["scene"])), 2),
    }
