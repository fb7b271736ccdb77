"""The table of systems: one paper, one file, one line here."""

from __future__ import annotations

from wellread.registry import Registry

__all__ = ["NEW_SYSTEM", "SYSTEMS"]

NEW_SYSTEM = "glimmer"
"""What a new model is where nobody says."""

SYSTEMS = Registry(
    "system",
    {
        "fid": "wellread.systems.fid:FiD",
        "memory_fid": "wellread.systems.memory_fid:MemoryFiD",
        "lumen": "wellread.systems.lumen:Lumen",
        "glimmer": "wellread.systems.glimmer:Glimmer",
        "reatt": "wellread.systems.reatt:ReAtt",
        "realm": "wellread.systems.realm:Realm",
        "retro": "wellread.systems.retro:Retro",
        "reveal": "wellread.systems.reveal:Reveal",
    },
)
