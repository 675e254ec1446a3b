# Most of transformers is loaded lazily and its modules' attributes read as "Tensor | Module".
from typing import Any

def __getattr__(name: str) -> Any: ...
