"""What policies over diffusers' pipelines have in common, whatever their family."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn

from drift.errors import UserError
from drift.functional.dynamics import guide
from drift.models.adapters import Adapter, fuse, fuse_into, read_adapter
from drift.models.pipelines import cast
from drift.models.trained import Trained
from drift.types import Conditioned, Seen, TextEmbeds

PLACES = 4  # a side of the grid that captured features are pooled to; docs/encoders.md measures it


class DiffusersPolicy(Trained):
    """A frozen pipeline of which one network is trained.

    In half precision the frozen parts are stored so, and the network computes under autocast; what
    is trained stays float32, and so do latents, guidance and predictions. Nothing here has dropout,
    and the network stays in eval mode with gradients on.
    """

    multiple: ClassVar[int] = 1  # of latents a side
    most_tokens: ClassVar[int] = 256  # of a T5, as SD 3's pipeline cuts; CLIP takes 77 by itself
    unguided: str = ""  # why it can be drawn without guidance only, if so

    def __init__(
        self,
        pipe: DiffusionPipeline,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        read_base: Callable[[], ModelMixin] | None = None,
    ):
        """`pipe` is in `dtype` already; `read_base` reads its network again, to train all of it."""
        self.pipe, self.device, self.dtype = pipe, torch.device(device), dtype
        if read_base is not None:
            self.read_base = read_base
        self.pipe.set_progress_bar_config(disable=True)
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        self.pipe.to(self.device)
        self.network.to(memory_format=torch.channels_last)
        self.pipe.vae.to(memory_format=torch.channels_last)
        if gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
        self.captured: list[Any] | None = None

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """(channels, h, w) of a picture of `size` (height, width), or of the model's own."""
        factor = self.pipe.vae_scale_factor
        if size is None:
            return self.channels, self.side, self.side
        wanted = factor * self.multiple
        for field, pixels in zip(("height", "width"), size, strict=True):
            if pixels < wanted or pixels % wanted:
                raise UserError(
                    f"{field}: {pixels} is no multiple of {wanted}, as this model needs"
                )
        return self.channels, size[0] // factor, size[1] // factor

    @property
    def channels(self) -> int:
        """Of latents."""
        return self.network.config.in_channels

    @property
    def side(self) -> int:
        """Of latents, of a picture of the model's own size."""
        return self.network.config.sample_size

    @property
    def is_told_guidance(self) -> bool:
        """Whether the guidance scale is an input of the network, in place of a second branch."""
        return False

    def check_guidance(self, guidance_scale: float) -> None:
        """Refuse a scale that the model was not made for."""
        if self.unguided and guidance_scale != 1:
            raise UserError(
                f"guidance_scale: {guidance_scale:g} is refused: {self.unguided}; set it to 1"
            )

    def remarks(self, guidance_scale: float) -> list[str]:
        """What a run should be told of the model, a line each."""
        return []

    def see(self, prompts: Sequence[str]) -> list[Seen]:
        """Of several text encoders, by the one that each prompt loses least to; of equals the last.

        Behind SD 3's two CLIPs, which take 77 tokens, stands a T5, which tells capitals apart.
        """
        named = (f"tokenizer{end}" for end in ("", "_2", "_3"))
        tokenizers = [t for name in named if (t := getattr(self.pipe, name, None)) is not None]
        by = [see(t, prompts, self.most_tokens) for t in reversed(tokenizers)]
        return [min(each, key=lambda seen: seen.lost) for each in zip(*by, strict=True)]

    def predict(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, "B"] | Float[Tensor, "B"],
        conditioned: Conditioned,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]:
        """What the network predicts, guided; a guidance scale of 1 skips the unconditional pass."""
        self.check_guidance(guidance_scale)
        guided = guidance_scale != 1.0 and not self.is_told_guidance
        x, t, told = latents, timesteps, conditioned.prompt
        if guided:
            x, t, told = torch.cat([x, x]), torch.cat([t, t]), both(conditioned)
        x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            predicted = self._compute(x, t, told, guidance_scale).float()
        if self.captured is not None:  # one entry a call; under guidance the prompt's rows are last
            places = self._picture(self.captured[-1], latents.shape[-2:])
            self.captured[-1] = pooled(places[-len(latents) :])
        if not guided:
            return predicted
        uncond, cond = predicted.chunk(2)
        return guide(uncond, cond, guidance_scale)

    @contextmanager
    def capture_features(self) -> Iterator[list[Tensor]]:
        """Inside it, `predict` lists the output of the network's middle, on a grid of places.

        "B 16·C" float32, 20,480 numbers in SD 1.5, 24,576 in SD 3.5 medium. One place would forget
        where things are.
        """
        seen: list[Any] = []
        hook = self._middle().register_forward_hook(lambda *call: seen.append(call[-1]))
        self.captured = seen
        try:
            yield seen
        finally:
            hook.remove()
            self.captured = None

    def _compute(self, x: Tensor, t: Tensor, told: TextEmbeds, guidance_scale: float) -> Tensor:
        """What the network makes of both branches' rows, or of the prompts' alone."""
        raise NotImplementedError

    def _middle(self) -> nn.Module:
        """The module whose output is the policy's own feature."""
        raise NotImplementedError

    def _picture(self, output: Any, sides: Sequence[int]) -> Float[Tensor, "B C h w"]:
        """That output by the picture's places; `sides` are those of the latents."""
        raise NotImplementedError

    def _autocast(self) -> torch.autocast:
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if half else None, enabled=half)

    def _decoded(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of the autoencoder's own latents, all at once."""
        given = latents.to(self.device, self.pipe.vae.dtype)
        decoded = self.pipe.vae.decode(given.contiguous(memory_format=torch.channels_last)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1).contiguous()


Policy = TypeVar("Policy", bound=DiffusersPolicy)


def begin(
    policy: type[Policy],
    read_pipe: Callable[[torch.dtype], DiffusionPipeline],
    read_base: Callable[[], ModelMixin],
    *,
    dtype: torch.dtype,
    adapter: Path | None = None,
    fused: bool = False,
    **settings: Any,
) -> Policy:
    """A policy over a pipeline; an `adapter` is `fused` into it, or lies on it to go on in.

    `read_base` reads the network alone, in float32. In float32 is fused too, so that nothing is
    rounded twice: all of the model is then read so first.
    """
    pipe = read_pipe(torch.float32 if fused else dtype)
    start = read_adapter(adapter, pipe) if adapter else None
    again = read_base
    if start and fused:
        fuse(start, pipe)
        for network in pipe.components.values():
            if isinstance(network, nn.Module):
                cast(network, dtype)
        again = partial(_fused, start, read_base)
    model = policy(pipe, dtype=dtype, read_base=again, **settings)
    if start and not fused:
        model.begin_with(start)
    return model


def _fused(start: Adapter, read_base: Callable[[], ModelMixin]) -> ModelMixin:
    return fuse_into(start, read_base())


def see(tokenizer: Any, prompts: Sequence[str], most: int) -> list[Seen]:
    """What comes through a transformers tokenizer of each prompt, and what it cuts off.

    It takes as many tokens as it says itself, and no more than `most`.
    """
    texts, most = list(prompts), min(tokenizer.model_max_length, most)
    read = tokenizer(texts, truncation=True, max_length=most).input_ids
    full = [k for k, ids in enumerate(read) if len(ids) >= most]
    seen = [Seen(tuple(ids), 0) for ids in read]
    whole = tokenizer([texts[k] for k in full], verbose=False).input_ids if full else []
    for k, ids in zip(full, whole, strict=True):
        seen[k] = Seen(seen[k].tokens, len(ids) - len(read[k]))
    return seen


def pooled(activation: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
    """A hidden state's mean in each place of a small grid, in as many numbers at any size."""
    return F.adaptive_avg_pool2d(activation.float(), PLACES).flatten(1)


def branches(prompt: TextEmbeds, negative: TextEmbeds) -> Conditioned:
    """Both of guidance; the one row of `negative` is every prompt's."""
    return Conditioned(prompt, negative.each(lambda e: e.expand(len(prompt), *e.shape[1:])))


def both(conditioned: Conditioned) -> TextEmbeds:
    """The unconditional rows, then the prompts'."""
    negative, prompt = conditioned.negative, conditioned.prompt
    extra = {name: torch.cat([negative.extra[name], e]) for name, e in prompt.extra.items()}
    return TextEmbeds(torch.cat([negative.tokens, prompt.tokens]), extra)
