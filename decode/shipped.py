"""What comes with the package: the folder of choices, and the names that its yamls build."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
# In a checkout configs/ lies beside the package, in a wheel inside it.
CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"


@cache
def shipped_names() -> frozenset[str]:
    """Every dotted path that a yaml of the package gives as `_target_`."""
    texts = (path.read_text(encoding="utf-8") for path in CONFIGS.rglob("*.yaml"))
    return frozenset(name for text in texts for name in _names(text))


def _names(text: str) -> list[str]:
    plain = re.sub(r"(^|\s)#.*", r"\1", text)
    return re.findall(r"_target_:\s*(decode\.[\w.]+)", plain)
