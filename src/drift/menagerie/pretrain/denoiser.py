"""Pre-train the Menagerie's UNet: an ordinary StableDiffusionPipeline folder."""

import copy
from dataclasses import dataclass, replace
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
from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.autoencoder import encode
from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.sets import training_set
from drift.menagerie.pretrain.together import processes
from drift.menagerie.probe import Probe, read

# Of each of two processes: torchrun --nproc-per-node 2 -m drift ...
SCHEDULE = Schedule(steps=7_000, batch_size=32, learning_rate=6e-3, average=0.998)
GUIDANCE = 3.0  # that the model is judged with, and learns to do without
GUIDED = replace(SCHEDULE, steps=4_000, learning_rate=1e-3)  # to do without guidance
UNCONDITIONAL, SIMPLE = 0.1, 0.15  # shares of empty captions and of captions with the animal alone
CAPTIONS = 6  # that each picture has


@dataclass
class Parts:
    """What the denoiser is trained with; all but the UNet are frozen."""

    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


def new_parts(vae: AutoencoderKL, tower: Path) -> Parts:
    """A fresh UNet, with tokenizer and text tower of the CLIP, or of the model, in a folder.

    A text encoder that starts from nothing hardly learns: for 160,000 pictures the UNet ignores it.
    """
    inside = (tower / "text_encoder").is_dir()
    encoder, words = (tower / "text_encoder", tower / "tokenizer") if inside else (tower, tower)
    text_encoder = CLIPTextModel.from_pretrained(encoder, dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(words)
    tokenizer.model_max_length = MAX_TOKENS
    unet = build_unet(vae.config["latent_channels"], text_encoder.config.hidden_size)
    return Parts(vae, tokenizer, text_encoder.eval().requires_grad_(False), unet)


def parts_of(model: Path) -> Parts:
    """Those of a model trained before, to train it further."""
    pipe = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    for frozen in (pipe.vae, pipe.text_encoder):
        frozen.eval().requires_grad_(False)
    unet = pipe.unet.train().to(memory_format=torch.channels_last)
    return Parts(pipe.vae, pipe.tokenizer, pipe.text_encoder, unet)


def build_unet(channels: int, width: int) -> UNet2DConditionModel:
    """For latents of so many channels and text embeddings so wide; 4.0 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=(2, 4),  # diffusers' name for the number of heads
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def stretched_betas(first: float = 0.00085, last: float = 0.012, rest: float = 0.005) -> Tensor:
    """SD's scaled-linear betas "1000", stretched until the share `rest` of the signal is left.

    As Lin et al. (arXiv 2305.08891) do it, only not quite to 0, where diffusers' DDIM step takes
    the root of a rounding error at eta = 1. SD leaves 7 %, and that decides half of the scenes:
    what no step decides, no policy gradient can move.
    """
    betas = torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0).sqrt()
    signal = rest + (signal - signal[-1]) * (signal[0] - rest) / (signal[0] - signal[-1])
    alphas = signal**2
    return 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])


def build_scheduler() -> DDIMScheduler:
    """v-prediction and trailing steps, which serve few sampling steps best.

    The last step goes to the clean latents, without noise. Ending on SD's faintest noise instead,
    it would be 10 times as certain as the step before, and drown the others' policy gradient.
    """
    return DDIMScheduler(
        trained_betas=stretched_betas().tolist(),
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without meaning for trailing steps; diffusers complains of 0
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def tokenize(tokenizer, prompts: list[str]) -> Tensor:
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    return padded.input_ids


def caption_ids(truth: Attributes, tokenizer, rng: np.random.Generator) -> Tensor:
    """Token ids [N, CAPTIONS + 2, L]: captions of each picture, its animal alone, and no words."""
    rows = range(len(truth))
    told = [[caption(truth, i, rng) for i in rows] for _ in range(CAPTIONS)]
    told.append([simple_prompt(ANIMALS[animal]) for animal in truth.animal])
    columns = [tokenize(tokenizer, captions) for captions in told]
    return torch.stack([*columns, tokenize(tokenizer, [""]).expand_as(columns[0])], 1).short()


def guided(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    t: Tensor,
    embeds: Tensor,
    nothing: Tensor,
    guidance_scale: float,
) -> Tensor:
    """What a UNet predicts with classifier-free guidance; `nothing` "1 L D" is no prompt's."""
    told = unet(noisy, t, embeds).sample
    untold = unet(noisy, t, nothing.expand_as(embeds)).sample
    return untold + guidance_scale * (told - untold)


def assembled(parts: Parts) -> StableDiffusionPipeline:
    """The parts as the pipeline that is shipped."""
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train(
    shop: Workshop,
    parts: Parts,
    schedule: Schedule = SCHEDULE,
    pictures: int = 48_000,
    guidance_scale: float = 1.0,
) -> StableDiffusionPipeline:
    """Train the UNet on the latents of captioned pictures.

    With a guidance scale it learns to predict at once what it now predicts with that guidance
    (Meng et al., 2023, arXiv 2210.03142, for one scale): half the cost of every picture.
    Under torchrun the pictures are shared out among the processes.
    """
    rank, count = processes()
    vae, unet = parts.vae.to(shop.device), parts.unet
    parts.text_encoder.to(shop.device)
    train_set, truth = training_set(shop, pictures, on_grid=True)
    train_set, truth = train_set[rank::count], truth[rank::count]
    latents = encode(vae, train_set).mul_(vae.config["scaling_factor"]).half()
    ids = caption_ids(truth, parts.tokenizer, np.random.default_rng(rank)).to(shop.device)
    signal = build_scheduler().alphas_cumprod.to(shop.device)
    if guidance_scale != 1:
        teacher = copy.deepcopy(unet).to(shop.device).requires_grad_(False)
        nothing = parts.text_encoder(ids[:1, -1].long()).last_hidden_state

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        share, size = rng.random(schedule.batch_size), schedule.batch_size
        chosen, told = rng.integers(len(latents), size=size), rng.integers(CAPTIONS, size=size)
        told[share < UNCONDITIONAL + SIMPLE] = CAPTIONS
        told[share < UNCONDITIONAL] = CAPTIONS + 1
        clean = latents[chosen].float().contiguous(memory_format=torch.channels_last)
        noise, t = torch.randn_like(clean), draw_times(size, rng).to(shop.device)
        a, b = (root[:, None, None, None] for root in (signal[t].sqrt(), (1 - signal[t]).sqrt()))
        noisy, velocity = a * clean + b * noise, a * noise - b * clean
        with torch.no_grad():
            embeds = parts.text_encoder(ids[chosen, told].long()).last_hidden_state
            if guidance_scale != 1:
                velocity = guided(teacher, noisy, t, embeds, nothing, guidance_scale)
        return F.mse_loss(unet(noisy, t, embeds).sample.float(), velocity.float())

    fit("denoiser" if guidance_scale == 1 else "guided", unet, loss_at, schedule, shop)
    unet.eval()
    return assembled(parts).to(CPU)


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
    guidance_scale: float = GUIDANCE,
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
