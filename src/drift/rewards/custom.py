"""A reward of your own by its import path: "my_module:my_reward".

    def my_reward(images, prompts):  # "N 3 H W" in [0, 1], N prompts -> N floats, larger is better
        return images[:, 0].mean((1, 2))

image i belongs to prompt i, and the images of several prompts may come together. A function that
must see all images of one prompt at once says so by an attribute, and gets that prompt:

    def unlike(images, prompt):  # "G 3 H W", one prompt -> G floats
        return (images - images.mean(0)).square().mean((1, 2, 3))
    unlike.per_group = True

With a third argument it gets what the prompts' file says besides, if that is a .jsonl: `metadata`,
one dict an image, or the one of the group's prompt.

    def counted(images, prompts, metadata):  # {"prompt": "two foxes", "count": 2}
        return [-abs(count_foxes(x) - m["count"]) for x, m in zip(images, metadata)]

The group is whatever is judged together: `sampling.pool_size` images in training,
`evaluation.images_per_prompt` in an evaluation. An object with `__call__` does as well as a
function. Modules are looked for where Python looks, and then in the current directory, which is
searched last so that a `types.py` in it shadows nothing.
"""

import importlib
import inspect
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.files.trust import is_known, remember
from drift.types import Fields, Reward

IMPORT_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


Scores = Any  # a tensor, an array or numbers: `checks.check_scores` sees to it
QUICK = 5.0  # seconds; a batch that took longer to fail is not tried again, prompt by prompt


@dataclass(frozen=True)
class OwnReward:
    """A function of one's own as a Reward; what it raises is told in one line.

    One that is `per_group` is called group by group by `scoring.score`.
    """

    name: str  # the import path
    function: Callable[..., Scores]  # of images, prompts (or one) and metadata (or one)
    fields: Fields
    per_group: bool = False

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Scores:
        if self.per_group and len(set(prompts)) != 1:
            raise ValueError(f"a per-group reward takes one prompt at a time, not {list(prompts)}")
        start = time.monotonic()
        try:
            return self._ask(images, prompts)
        except (UserError, torch.OutOfMemoryError):  # a smaller batch may fit
            raise
        except Exception as error:  # whatever a person's function does
            quick = time.monotonic() - start < QUICK
            culprits = self._find_culprits(images, prompts) if quick else set(prompts)
            raise UserError(_tell(self.name, error, culprits)) from error

    def _ask(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Scores:
        metadata = [dict(self.fields.get(prompt, {})) for prompt in prompts]
        if self.per_group:
            return self.function(images, prompts[0], metadata[0])
        return self.function(images, prompts, metadata)

    def _find_culprits(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> set[str]:
        """Of a batch that raised, the first prompt whose images do so alone; else all prompts."""
        several = dict.fromkeys(prompts)
        for prompt in several if len(several) > 1 else ():
            rows = [row for row, other in enumerate(prompts) if other == prompt]
            try:
                self._ask(images[rows], [prompt] * len(rows))
            except Exception:  # noqa: BLE001 - the error to tell is the batch's
                return {prompt}
        return set(several)


def _tell(name: str, error: Exception, culprits: set[str]) -> str:
    """One line: which reward, what, for which prompt, and where in its own file."""
    message = (str(error).splitlines() or [""])[0]
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    whom = f"'{min(culprits)}'" if culprits else "no prompt"
    if len(culprits) > 1:
        whom = f"{len(culprits)} prompts together, {whom} among them"
    module = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f", in {Path(f.filename).name} line {f.lineno}" for f in frames if f.filename == module]
    where = "".join(own[-1:])
    return f"reward: {name} raised {what} for {whom}{where} (--debug shows the traceback)"


def _with_metadata(function: Callable[..., Scores]) -> Callable[..., Scores]:
    """The function, to be called with metadata as a third argument, which it may not take.

    It takes it as its third positional argument without a default, or by the name `metadata`.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of an extension's function, which does not tell
        return lambda images, prompts, metadata: function(images, prompts)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p for p in parameters.values() if p.kind in positional and p.default is p.empty]
    if len(wanted) > 2:
        return function
    if "metadata" in parameters:
        return lambda images, prompts, metadata: function(images, prompts, metadata=metadata)
    return lambda images, prompts, metadata: function(images, prompts)


def code_of(name: str) -> list[Path] | None:
    """The files that importing the import path's module would run; None if it cannot be found.

    Its own is the last, the packages around it come before. Nothing is run to find them.
    """
    here = os.getcwd()
    if here not in sys.path:  # console scripts do not have it there
        sys.path.append(here)
    importlib.invalidate_caches()
    files, path, whole = list[Path](), None, ""
    for part in name.partition(":")[0].split("."):
        whole = f"{whole}.{part}".removeprefix(".")
        spec = _find_spec(whole, path)
        if spec and spec.origin:
            files += [Path(spec.origin)] if Path(spec.origin).is_file() else []
            path = list(spec.submodule_search_locations or ())
        else:  # a folder without __init__.py, of which nothing is run
            path = [f"{above}/{part}" for above in (sys.path if path is None else path)]
            path = [place for place in path if Path(place).is_dir()]
            if not path:
                return None
    return files


def _find_spec(module: str, path: list[str] | None) -> ModuleSpec | None:
    """As importlib does, but without importing the package around."""
    with suppress(KeyError):  # the parent of a package without __init__.py is not imported
        for finder in sys.meta_path:
            if found := finder.find_spec(module, path):
                return found
    return None


def module_exists(name: str) -> bool:
    """Whether the import path's module can be found; does not run it."""
    # A script's own functions are in "__main__", which cannot.
    return name.partition(":")[0] in sys.modules or code_of(name) is not None


def source_file(name: str) -> Path | None:
    """The file of the import path's module, if it has one."""
    loaded = sys.modules.get(name.partition(":")[0])
    files = [Path(getattr(loaded, "__file__", None) or "")] if loaded else code_of(name)
    return files[-1] if files and files[-1].is_file() else None


def refuse_strange(name: str, source: Path) -> None:
    """Refuse a function that only `source` names, unless its code is known here."""
    module, files = name.partition(":")[0], code_of(name)
    if module == "__main__" or files is None or is_known(module, files):
        return  # the program that runs already; or there is none, which is told elsewhere
    told = f"{source} names '{name}', which would run {files[-1] if files else module}"
    raise UserError(
        f"reward: {told}, code that has not run here before; if you trust it, give --allow-code"
    )


def load(name: str, device: str, fields: Fields) -> Reward:
    """The function or object at the import path; `device` is its own affair."""
    module_name, _, attribute = name.partition(":")
    files = code_of(name) or []
    if files and module_name not in sys.modules:
        remember(module_name, files)
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
    return OwnReward(
        name, _with_metadata(found), fields, per_group=bool(getattr(found, "per_group", False))
    )


def _refuse_unfit(name: str, found: Any) -> None:
    if isinstance(found, type):
        raise UserError(f"reward: '{name}' is a class: name an instance of it")
    if not callable(found):
        raise UserError(f"reward: '{name}' is not a function")
