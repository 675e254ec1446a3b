"""A reward of your own by its import path: "my_module:my_reward".

    def my_reward(images, prompts):  # "N 3 H W" in [0, 1], N prompts -> N floats, larger is better
        return images[:, 0].mean((1, 2))

image i belongs to prompt i, and the images of several prompts may come together. A function that
must see all images of one prompt at once says so by an attribute, and gets that prompt:

    def unlike(images, prompt):  # "G 3 H W", one prompt -> G floats
        return (images - images.mean(0)).square().mean((1, 2, 3))
    unlike.per_group = True

The group is whatever is judged together: `sampling.pool_size` images in training,
`evaluation.images_per_prompt` in an evaluation. An object with `__call__` does as well as a
function. Modules are looked for where Python looks, and then in the current directory, which is
searched last so that a `types.py` in it shadows nothing.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.types import Reward

IMPORT_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


@dataclass(frozen=True)
class PerGroup:
    """A function of one prompt's images as a Reward, which `scoring.score` calls group by group."""

    function: Callable[[Float[Tensor, "G 3 H W"], str], Float[Tensor, "G"]]
    per_group = True

    def __call__(
        self, images: Float[Tensor, "G 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "G"]:
        if len(set(prompts)) != 1:
            raise ValueError(f"a per-group reward takes one prompt at a time, not {list(prompts)}")
        return self.function(images, prompts[0])


def module_exists(name: str) -> bool:
    """Whether the import path's module can be found; does not run it (but the package around)."""
    here = os.getcwd()
    if here not in sys.path:  # console scripts do not have it there
        sys.path.append(here)
    importlib.invalidate_caches()
    module = name.partition(":")[0]
    try:  # a script's own functions are in "__main__", which has no spec
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def source_file(name: str) -> Path | None:
    """The file of the import path's module, if it has one."""
    if not module_exists(name):
        return None
    module = name.partition(":")[0]
    loaded = sys.modules.get(module)
    spec = None if loaded else importlib.util.find_spec(module)
    file = Path(getattr(loaded, "__file__", None) or (spec and spec.origin) or "")
    return file if file.is_file() else None


def load(name: str, device: str = "cpu") -> Reward:
    """The function or object at the import path; `device` is its own affair."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a person's module does
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"reward: importing {module_name} failed: {told}") from error
    found: Any = getattr(module, attribute, None)
    if found is None:
        raise UserError(
            f"reward: {getattr(module, '__file__', None) or module_name} has no '{attribute}'"
        )
    _refuse_unfit(name, found)
    return PerGroup(found) if getattr(found, "per_group", False) else found


def _refuse_unfit(name: str, found: Any) -> None:
    if isinstance(found, type):
        raise UserError(f"reward: '{name}' is a class: name an instance of it")
    if not callable(found):
        raise UserError(f"reward: '{name}' is not a function")
