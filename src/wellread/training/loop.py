"""The training loop: the sum of a system's losses, made smaller step by step.

A step's work is a function of (seed, step) alone: its questions (data.py) and its random numbers are drawn
anew from them, so a resumed run repeats what an unbroken one would have done. Every loss is a mean over units
(target tokens, questions), and a piece counts by its share of the step's units: the number of pieces and of
processes changes nothing but rounding and what dropout draws.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from wellread.bars import progress_bar
from wellread.model import Model, save_model
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import to_device
from wellread.training.checkpoint import (
    RunLog,
    read_checkpoint,
    replace_folder,
    settle_folder,
    write_checkpoint,
)
from wellread.training.config import TrainingConfig
from wellread.training.during import Stop, checkpointing, stop_signals
from wellread.training.gradient_cache import joint_gradients, passed_on
from wellread.training.hooks import BatchSource, Evaluate, Live, Refresh
from wellread.training.optimizers import learning_rate, make_optimizer, trained_parameters
from wellread.training.processes import Processes
from wellread.types import TrainingBatch

__all__ = ["TrainReport", "train"]

LOWER_IS_BETTER = frozenset({"loss", "nll", "perplexity", "bits_per_byte"})


@dataclass(frozen=True, slots=True)
class TrainReport:
    """steps: done, over all starts of the run. best: the best value of the chosen metric, None without an
    evaluation. checkpoint: the model folder to use: out/best, else out/last. finished: False when stopped."""

    steps: int
    best: float | None
    checkpoint: Path
    finished: bool = True


UNIT_OF = defaultdict(lambda: "questions", nll="tokens", distillation="ranked")
"""name of a loss -> its unit (`System.units`)."""


def train(
    model: Model,
    batches: BatchSource,
    config: TrainingConfig,
    *,
    out: str | Path,
    evaluate: Evaluate | None = None,
    refresh: Refresh | None = None,
    live: Live | None = None,
    progress: bool = True,
    processes: Processes | None = None,
) -> TrainReport:
    """Train the model in place, or go on where the run in `out` stopped; the model keeps its device.

    SIGTERM and SIGINT finish the step, save, and return with finished=False. ValueError where a loss or a
    gradient is not finite, and where `evaluate` does not give the metric to choose by.
    """
    processes = processes or Processes()
    if config.batch_size < config.accumulate * processes.count:
        raise ValueError(
            f"batch_size={config.batch_size} but a step has {config.accumulate * processes.count} parts "
            f"(accumulate={config.accumulate} in {processes.count} processes); give every part a question."
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), checkpointing(model.system, config):
        run = _Run(
            model,
            batches,
            config,
            out=out,
            evaluate=evaluate,
            refresh=live or refresh,
            live=live,
            progress=progress,
            processes=processes,
        )
        try:
            with stop_signals() as stop:
                run.go(stop)
        finally:
            if live is not None:
                live.close()
        return run.finish()


@dataclass
class _Meter:
    """What happened since the last row of the log. timed: the steps of this start of the run, asked and answerable:
    their questions, where a system says which of them it can answer."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    norm: Tensor | float = 0.0
    steps: int = 0
    timed: int = 0
    asked: float = 0.0
    answerable: float = 0.0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, losses: Mapping[str, Tensor], norm: Tensor, units: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.norm = norm
        self.steps += 1
        self.timed += 1
        self.asked += units.get("asked", 0.0)
        self.answerable += units.get("answerable", 0.0)


class _Run:
    """One run: what `train` holds while it works."""

    def __init__(
        self,
        model: Model,
        batches: BatchSource,
        config: TrainingConfig,
        *,
        out: Path,
        evaluate: Evaluate | None,
        refresh: Refresh | None,
        live: Live | None,
        progress: bool,
        processes: Processes,
    ) -> None:
        self.model, self.batches, self.config, self.live = model, batches, config, live
        self.refresh, self.borders = refresh, set() if refresh is None else set(refresh.steps)
        self.out, self.evaluate, self.processes = out, evaluate, processes
        processes.share(model.system)
        self.weights = trained_parameters(model.system)
        self.optimizer = make_optimizer(model.system, config)
        self.step, self.saved, self.best = 0, 0, None
        self.finished = False
        self.meter = _Meter()
        if processes.main:
            settle_folder(out / "best")
        self._resume()
        processes.wait()
        self.log = RunLog(out, step=self.step, write=processes.main)
        self.bar = progress_bar(
            total=config.steps,
            initial=self.step,
            desc="train",
            unit="step",
            shown=progress and processes.main,
        )

    # -- the steps -----------------------------------------------------------------------------------------

    def go(self, stop: Stop) -> None:
        """Work until the last step, or until asked to stop."""
        self.model.system.train()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as ahead, self.bar:
            self._renew()
            waiting = self._ask(ahead, self.step)
            while self.step < self.config.steps:
                if waiting is None:
                    if self.live is None and self.saved < self.step:
                        self._save()  # a refresh throws away what earlier steps would need
                    self._renew()
                    waiting = self._ask(ahead, self.step)
                begun = time.perf_counter()
                parts = waiting.result()
                if self.live is not None:
                    self.live.now = self.step
                    parts = [self.live.complete(self.model, part) for part in parts]
                self.meter.waited += time.perf_counter() - begun
                waiting = self._ask(ahead, self.step + 1)
                asked = self._one_step(parts, stop.asked)
                self.step += 1
                self.bar.update()
                self._after_step()
                if asked:
                    break
        self.finished = self.step >= self.config.steps

    def _ask(self, ahead: ThreadPoolExecutor, step: int) -> Future | None:
        """Have the parts of a step that are this process's made while the one before is worked on.

        None after the last step, and where something is to be renewed first.
        """
        if step >= self.config.steps or step in self.borders:
            return None
        mine, count = self.config.accumulate, self.config.accumulate * self.processes.count
        parts = range(self.processes.rank * mine, (self.processes.rank + 1) * mine)
        return ahead.submit(lambda: [self.batches.batch(step, part, count) for part in parts])

    def _renew(self) -> None:
        """Renew what is due before this step, and take up what was renewed before earlier ones."""
        begun = time.perf_counter()
        if self.live is not None:
            self.live.now = self.step
        for step in sorted(border for border in self.borders if border <= self.step):
            self.model.system.eval()
            if step == self.step:  # else the weights were saved after it
                self.model.system.settle()
            self.refresh(self.model, step)
            self.model.system.train()
            self.borders.remove(step)
        self.meter.since += time.perf_counter() - begun

    def _one_step(self, parts: list[TrainingBatch], asked: bool) -> bool:
        """Change the weights once; whether any process was asked to stop."""
        own = [self.model.system.units(part) for part in parts]
        sums = [float(sum(part[name] for part in own)) for name in own[0]]
        *sums, stops = self.processes.sum(torch.tensor([*sums, float(asked)])).tolist()
        total = dict(zip(own[0], sums))
        parts = [to_device(part, self.model.device) for part in parts]
        joint, losses = self._joint(parts)
        for index, part in enumerate(parts):
            shares = {name: own[index][name] / max(count, 1) for name, count in total.items()}
            self._seed(index)
            for name, value in self._backward(part, shares, joint[index]).items():
                losses[name] = losses.get(name, 0.0) + value
        self._check_names(losses)
        self.processes.add_gradients(self.weights)
        limit = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_([w for w in self.weights if w.grad is not None], limit)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.add(losses, norm, total)
        return stops > 0

    def _joint(self, parts: list[TrainingBatch]) -> tuple[list[Mapping[str, Tensor] | None], dict[str, Tensor]]:
        """What every part has to pass on of losses over the whole step, and those losses; None where a part is
        the whole step."""
        if not self.model.system.compares_questions or len(parts) * self.processes.count == 1:
            return [None] * len(parts), {}
        return joint_gradients(
            self.model.system,
            parts,
            seed=self._seed,
            context=self._precision,
            weights={name: float(self.step >= start) for name, start in self.config.losses_from.items()},
            processes=self.processes,
        )

    def _backward(
        self, batch: TrainingBatch, shares: Mapping[str, float], joint: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Add one part's gradients; its share of every loss, detached."""
        with self._precision():
            if joint is None:
                losses, flow = self.model.system.losses(batch), 0.0
            else:
                part = self.model.system.represent(batch)
                losses, flow = part.losses, passed_on(part, joint)
        counts = self.config.losses_from
        losses = {name: value * (self.step >= counts.get(name, 0)) for name, value in losses.items()}
        losses = {name: value * shares[UNIT_OF[name]] for name, value in losses.items()}
        (sum(losses.values()) + flow).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _precision(self) -> torch.autocast:
        dtype, kind = precision_dtype(self.config.precision), self.model.device.type
        # The cache would keep weights cast without a gradient where a system reads once without one.
        return torch.autocast(kind, dtype=dtype, enabled=dtype is not None, cache_enabled=False)

    def _check_names(self, losses: Mapping[str, Tensor]) -> None:
        unknown = [name for name in self.config.losses_from if name not in losses]
        if unknown:
            raise ValueError(
                f"training.losses_from names {unknown[0]!r}, which {self.model.name} does not have; "
                f"its losses: {', '.join(losses)}."
            )

    def _seed(self, index: int) -> None:
        part = self.processes.rank * self.config.accumulate + index
        digest = hashlib.sha256(f"{self.config.seed} {self.step} {part}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "little"))

    # -- between the steps ---------------------------------------------------------------------------------

    def _after_step(self) -> None:
        config, last = self.config, self.step == self.config.steps
        if self.step % config.log_every == 0 or last:
            self._log()
        if self.evaluate and ((config.evaluate_every and self.step % config.evaluate_every == 0) or last):
            self._evaluate()
        if config.save_every and self.step % config.save_every == 0 and not last:
            self._save()

    def _log(self) -> None:
        meter, seconds = self.meter, time.perf_counter() - self.meter.since
        if meter.asked and not meter.answerable:
            raise ValueError(
                f"none of the last {meter.asked:.0f} questions can be answered from what was read. Masked ones need as "
                "many masks as their answers have tokens (`wellread questions masked --tokenizer MODEL`), and [frame] "
                "question_tokens and answer_tokens that do not cut them; others a passage that holds their answer."
            )
        means = {name: value / meter.steps for name, value in self._sums().items()}
        norm = float(meter.norm)
        questions = self.config.batch_size * meter.timed
        self.log.write(
            {
                "step": self.step,
                "loss": sum(means.values()),
                **means,
                **({"answerable": round(meter.answerable / meter.asked, 4)} if meter.asked else {}),
                "learning_rate": learning_rate(self.config, self.step - 1),
                "grad_norm": norm,
                "questions_per_second": round(questions / seconds, 3),
                "seconds": round(seconds, 3),
                "waited": round(meter.waited, 3),
                **self.model.system.facts(),
                **(self.live.facts(self.step) if self.live is not None else {}),
            }
        )
        self.bar.set_postfix({"loss": f"{sum(means.values()):.3f}", "q/s": f"{questions / seconds:.1f}"}, refresh=False)
        self.meter = _Meter()

    def _sums(self) -> dict[str, float]:
        """The losses since the last row, summed over steps and processes. ValueError where one is not finite."""
        names = list(self.meter.losses)
        values = self.processes.sum(torch.stack([self.meter.losses[name].float() for name in names])).tolist()
        found = dict(zip(names, values))
        shown = {**found, "grad_norm": float(self.meter.norm)}
        if not all(map(math.isfinite, shown.values())):
            raise ValueError(
                f"training went astray before step {self.step}: "
                f"{', '.join(f'{name}={value:.4g}' for name, value in shown.items())}. "
                "Lower training.learning_rate, lengthen training.warmup, or set a smaller training.clip."
            )
        return found

    def _evaluate(self) -> None:
        begun = time.perf_counter()
        self.model.system.eval()
        found = dict(self.evaluate(self.model))
        self.model.system.train()
        name = self.config.keep_best
        if name not in found:
            raise ValueError(f"training.keep_best={name!r} was not measured; use one of: {', '.join(found)}.")
        sign = -1 if name in LOWER_IS_BETTER else 1
        better = self.best is None or sign * found[name] > sign * self.best
        spent = time.perf_counter() - begun
        self.log.write({"step": self.step, "dev": found, "best": better, "seconds": round(spent, 3)})
        if better:
            self.best = found[name]
            self._write_model("best")
        self.meter.since += time.perf_counter() - begun

    # -- files ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        state = read_checkpoint(self.out)
        if state is None:
            return
        self.model.system.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.saved = self.step
        if self.processes.main:  # the sums of all processes; they must not be counted once more
            sums = {name: torch.tensor(value, device=self.model.device) for name, value in state["losses"].items()}
        else:
            sums = dict.fromkeys(state["losses"], torch.zeros((), device=self.model.device))
        told = {name: state.get(name, 0.0) for name in ("asked", "answerable")}
        self.meter = _Meter(losses=sums, steps=state["steps"], timed=0, **told)

    def _save(self) -> None:
        begun = time.perf_counter()
        sums = self._sums() if self.meter.steps else {}
        if self.processes.main:
            state = {"weights": self.model.system.state_dict(), "optimizer": self.optimizer.state_dict()}
            meter = {"losses": sums, **{name: getattr(self.meter, name) for name in ("steps", "asked", "answerable")}}
            write_checkpoint(self.out, {**state, **meter, "step": self.step, "best": self.best})
            if self.live is not None:
                self.live.saved(self.step)
        self.saved = self.step
        self.meter.since += time.perf_counter() - begun

    def _write_model(self, name: str) -> None:
        if self.processes.main:
            replace_folder(self.out / name, lambda folder: save_model(folder, self.model))

    def finish(self) -> TrainReport:
        """Save what was reached and say so."""
        if self.meter.steps:
            self._sums()  # weights that went astray are not written
        if self.saved < self.step or not (self.out / "last").is_dir():
            # Before the checkpoint, which says that the run needs nothing more.
            self._write_model("last")
        if self.saved < self.step:
            self._save()
        self.processes.wait()
        self.model.system.eval()
        best = self.out / "best"
        chosen = best if best.is_dir() else self.out / "last"
        return TrainReport(self.step, self.best, chosen, self.finished)
