"""What policies over diffusers' flow models have in common."""

from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.functional.flow import FlowForm
from drift.models.base import DiffusersPolicy
from drift.models.schedules import FlowSchedule, Shift, flow_schedule


class FlowPolicy(DiffusersPolicy):
    """A PolicyModel whose network predicts a flow's velocity.

    `flow_shift` is how often the sigmas are shifted; "auto" as often as the family's own pipeline.
    """

    usual_shift: ClassVar[Shift]

    def __init__(
        self, *args: Any, flow_form: FlowForm = "sde", flow_shift: str = "auto", **settings: Any
    ):
        super().__init__(*args, **settings)
        if not isinstance(self.pipe.scheduler, FlowMatchEulerDiscreteScheduler):
            kind = type(self.pipe.scheduler).__name__
            raise UserError(
                f"model.name: its scheduler is {kind}; a flow model's steps are those of "
                "FlowMatchEulerDiscreteScheduler"
            )
        self.flow_form: FlowForm = flow_form
        self.flow_shift: Shift = self.usual_shift if flow_shift == "auto" else flow_shift  # pyright: ignore[reportAttributeAccessIssue]

    def schedule(self, steps: int, size: tuple[int, int] | None = None) -> FlowSchedule:
        form, shift = self.flow_form, self.flow_shift
        own = {"form": form, "shift": shift, "mu": self._mu(size)}
        return flow_schedule(self.pipe.scheduler, steps, self.device, **own)

    def _mu(self, size: tuple[int, int] | None) -> float | None:
        """The shift by a picture's size, of a scheduler that asks for one."""
        return None

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], all at once."""
        config = self.pipe.vae.config
        return self._decoded(latents / config.scaling_factor + config.shift_factor)
