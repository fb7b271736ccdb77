"""How to install the packages that only some of wellread needs: its extras."""

from __future__ import annotations

__all__ = ["install_hint"]


def install_hint(extra: str = "") -> str:
    """The command that installs wellread with an extra, and where to run it: no package registry has wellread."""
    what = f"'.[{extra}]'" if extra else "."
    return f"pip install {what} (in the copy of wellread's repository)"
