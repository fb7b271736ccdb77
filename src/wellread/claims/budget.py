"""One budget for claims of every kind: what they lack, what they would train, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wellread.claims.claim import Claim
from wellread.claims.plan import Planner, Settings
from wellread.claims.run import run_claim
from wellread.claims.text_claim import TextClaim
from wellread.claims.text_run import TextRuns, TextSettings, run_text_claim
from wellread.model import is_model

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """settings: of claims about readers of questions; those about language models take theirs from it."""

    settings: Settings

    @cached_property
    def planner(self) -> Planner:
        """Opened only for claims that need its base."""
        return Planner(self.settings)

    @cached_property
    def texts(self) -> TextRuns:
        """For claims about language models."""
        names = ("seeds", "steps", "limit", "out", "work", "changes")
        return TextRuns(TextSettings(**{name: getattr(self.settings, name) for name in names}))

    def missing(self, claim: Claim | TextClaim) -> list[Path]:
        """What a claim needs that is not there: first of all the reader it starts from, which planning reads."""
        if not isinstance(claim, TextClaim) and not is_model(self.settings.base):
            return [self.settings.base]
        return (self.texts if isinstance(claim, TextClaim) else self.planner).missing(claim)

    def run(
        self,
        claim: Claim | TextClaim,
        *,
        command: str,
        again: bool,
        progress: bool,
        say: Callable[[str], None],
    ) -> Mapping[str, Any]:
        """The row of a claim. Raises `run.Stopped`."""
        how = {"command": command, "again": again, "progress": progress, "say": say}
        if isinstance(claim, TextClaim):
            return run_text_claim(self.texts, claim, **how)
        return run_claim(self.planner, claim, **how)
