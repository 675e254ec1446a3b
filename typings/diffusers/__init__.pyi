# diffusers ships annotations that contradict its code (mixed-in config, lazy modules): take it untyped.
from typing import Any

def __getattr__(name: str) -> Any: ...
