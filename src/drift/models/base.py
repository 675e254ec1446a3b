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
from drift.models.texts import both, branches, joined, see, size_of_told
from drift.models.trained import Trained
from drift.types import Conditioned, Seen, TextEmbeds

TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # of a pipeline
REMEMBERED = 2**31  # bytes of encoded texts, on the CPU: 380 prompts of SD 3.5, 9,000 of SD 1.5
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
        offload: bool | str = False,
    ):
        """`pipe` is in `dtype` already; `read_base` reads its network again, to train all of it.

        `offload` keeps text encoders and autoencoder off the device while they are not asked.
        """
        self.pipe, self.device, self.dtype = pipe, torch.device(device), dtype
        if read_base is not None:
            self.read_base = read_base
        self.pipe.set_progress_bar_config(disable=True)
        parts = [p for p in self.pipe.components.values() if isinstance(p, nn.Module)]
        self.offloaded = offloads(offload, self.device, sum(map(size_of, parts)))
        self.known: dict[str, TextEmbeds] = {}  # by text, the longest unasked first; on the CPU
        for part in parts:
            away = self.offloaded and part is not self.network
            part.eval().requires_grad_(False).to("cpu" if away else self.device)
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

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned:
        """What the network is told of each prompt, and of `negative` for every row.

        Each text is encoded by itself, so that it is told the same in any company; and once, as
        long as there is room for what is remembered.
        """
        return branches(self._told(prompts), self._told([negative]))

    def _told(self, texts: Sequence[str]) -> TextEmbeds:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        with self._here(*(TEXTS if new else ())):
            for text in new:
                self.known[text] = self._encode_text([text]).each(Tensor.cpu)
        for text in dict.fromkeys(texts):  # the last asked
            self.known[text] = self.known.pop(text)
        rows = [self.known[text] for text in texts]
        room = max(REMEMBERED // size_of_told(rows[0]), 1)
        for text in list(self.known)[:-room]:
            del self.known[text]
        return joined(rows).each(lambda tensor: tensor.to(self.device))

    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
        """By the text encoders, which are on the device."""
        raise NotImplementedError

    @contextmanager
    def _here(self, *names: str) -> Iterator[None]:
        """Inside it, the parts of these names are on the device, of which they may be kept off."""
        named = (getattr(self.pipe, name, None) for name in names if self.offloaded)
        parts = [part for part in named if part is not None]
        try:
            for part in parts:
                part.to(self.device)
            yield
        finally:
            for part in parts:
                part.to("cpu")

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
        given = given.contiguous(memory_format=torch.channels_last)
        with self._here("vae"):
            decoded = self.pipe.vae.decode(given).sample
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


def pooled(activation: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
    """A hidden state's mean in each place of a small grid, in as many numbers at any size."""
    return F.adaptive_avg_pool2d(activation.float(), PLACES).flatten(1)


def offloads(wanted: bool | str, device: torch.device, size: int) -> bool:
    """Whether frozen parts are kept off the device; "auto": if all `size` bytes are half of it."""
    if device.type != "cuda":
        return False  # they would only be moved from the computer's memory to the same
    return wanted is True or (wanted == "auto" and 2 * size > torch.cuda.mem_get_info(device)[0])


def size_of(module: nn.Module) -> int:
    """Bytes of its weights."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
