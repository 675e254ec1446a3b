# diffusers ships annotations that contradict its code (mixed-in configuration): take it untyped.
from typing import Any

def __getattr__(name: str) -> Any: ...
