"""One training loop for every method, self-supervised or distilling.

Nothing random has state: the order of the data, the views and dropout are functions of (seed, step). So a run that is
killed and resumed ends with the same weights, on the CPU bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from lowdino_edge import console, parallel
from lowdino_edge.errors import UserError
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.methods.base import Method, spread
from lowdino_edge.models.backbone import Student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.run import Run
from lowdino_edge.settings import LoopConfig
from lowdino_edge.train import checkpoint
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.guard import CollapseWatch, Interrupts, avoid_onednn_fault
from lowdino_edge.train.logs import Logs, preview
from lowdino_edge.train.optim import clip_gradients, make_optimizer, set_rates
from lowdino_edge.train.schedule import make_schedule
from lowdino_edge.types import Int64, Progress

if TYPE_CHECKING:
    from lowdino_edge.data.pixels import Pixels

Evaluate = Callable[[Student], dict[str, float]]


class Trainer:
    """A method with its optimiser, schedule and data: everything that one step needs.

    Args:
        rows: of the pixels, the only ones that are trained on; None: all.

    Raises:
        UserError: a batch larger than the data, a precision that the device does not have.
    """

    def __init__(
        self, method: Method, pixels: Pixels, cfg: LoopConfig, *, seed: int, device: str, rows: Int64 | None = None
    ) -> None:
        self.bf16 = _use_bf16(cfg.precision, device)
        self.feed = Feed(pixels, cfg.batch_size, seed, device, cfg.accumulate, rows)
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.total_steps = max(1, round(cfg.epochs * self.steps_per_epoch))
        self.cfg, self.device = cfg, torch.device(device)
        # convolutions are faster with channels last, on the CPU as on the GPU
        self.method = method.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            avoid_onednn_fault(self.method)
            keep_freed_memory()
        self.method.train()
        self.plan = method.views()
        _compile(method, cfg.compile)
        self.optimizer = make_optimizer(method, cfg.optim)
        self.schedule = make_schedule(cfg.optim, self.total_steps, self.steps_per_epoch)

    def step(self, step: int, *, look: bool = True) -> dict[str, float]:
        """One update of the weights; returns everything that is logged, over all passes and processes.

        Args:
            look: measures the embeddings' spread too.

        Raises:
            UserError: the loss or the gradient is not finite; the weights have not been touched.
        """
        progress = Progress(step, self.total_steps, self.steps_per_epoch)
        lr, wd = self.schedule.lr(step), self.schedule.weight_decay(step)
        set_rates(self.optimizer, lr, wd)
        self.optimizer.zero_grad(set_to_none=True)
        seen = [self._pass(step, k, progress) for k in range(self.cfg.accumulate)]
        parallel.average_gradients(self.method.parameters())
        norm = clip_gradients(self.optimizer, self.cfg.optim.clip_grad)
        values = _averaged([{k: v for k, v in out.items() if k != "embeddings"} for out in seen])
        if not (math.isfinite(values["loss"]) and math.isfinite(float(norm))):
            what = "loss" if not math.isfinite(values["loss"]) else "gradient"
            raise UserError(
                f"the {what} is not a finite number at step {step}",
                "lower optim.lr or lengthen its warm-up; the last checkpoint is intact",
            )
        self.optimizer.step()
        self.method.after_step(progress)
        if look and "embeddings" in seen[-1]:
            values |= spread(parallel.gather(seen[-1]["embeddings"].detach()))
        return {**values, "lr": lr, "wd": wd, "grad_norm": float(norm)}

    def _pass(self, step: int, k: int, progress: Progress) -> dict[str, torch.Tensor]:
        """Forward and backward of one part of the step's batch."""
        batch = self.feed.batch(step, self.plan, k)
        with parallel.GlobalBatchNorm() if parallel.size() > 1 else nullcontext():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                out = self.method.step(batch, progress)
            (out["loss"] / self.cfg.accumulate).backward()
        return {name: value.detach() for name, value in out.items()}


def fit(
    method: Method,
    pixels: Pixels,
    cfg: LoopConfig,
    run: Run,
    *,
    seed: int,
    device: str,
    resume: bool,
    stage: str,
    evaluate: Evaluate | None = None,
    card: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains `method` on `pixels`, logs to the run's metrics.jsonl, and writes run.student, the network that ships.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        stage: what the progress bar and the student's card call this.
        evaluate: measures the network that ships, every `cfg.knn_every` epochs and at the end.
        card: added to the student's card.

    Returns:
        steps, epochs, seconds (of this process), final_loss, and knn_last, knn_best where `evaluate` gives knn_top1.

    Raises:
        UserError: what `Trainer` raises, before any work; a damaged checkpoint; a loss that is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint has been written.
    """
    trainer = Trainer(method, pixels, cfg, seed=seed, device=device)
    total = trainer.total_steps
    identity = {"seed": seed, "total_steps": total, "batch_size": cfg.batch_size, "data": pixels.fingerprint}
    identity["teacher"] = (card or {}).get("teacher_fingerprint")
    start = parallel.leader_first(lambda: _restored(trainer, run, identity)) if resume else 0
    checkpoint.same_everywhere(method, trainer.optimizer)
    if start == 0:
        preview(run, pixels, trainer.feed.batch(0, trainer.plan))
    began = time.perf_counter()
    with (
        closing(Logs(run, cfg.logs, start)) as logs,
        Interrupts() as interrupts,
        console.bar(stage, total, start) as bar,
    ):
        watched = Watched(trainer, run, logs, identity, evaluate, start)
        for step in range(start, total):
            note = watched.step(step, stop=lambda: interrupts.asked)
            bar.advance(1, note)
    if not parallel.leads():
        return {}
    result = _summary(run, total, cfg, time.perf_counter() - began)
    facts = {"stage": stage, "method": method.id, "seed": seed, "knn_top1": result.get("knn_last")}
    facts |= {"entropy_ceiling": method.entropy_ceiling, **(card or {})}
    save_student(method.deployed(), run.student, {**facts, "epochs": cfg.epochs, "steps": total})
    return result


def _restored(trainer: Trainer, run: Run, identity: dict[str, Any]) -> int:
    """Steps that are done, their state loaded and what was logged beyond them taken back."""
    start = checkpoint.load(run.checkpoints, trainer.method, trainer.optimizer, identity)
    run.truncate_history(start)
    return start


class Watched:
    """Steps of a trainer with all that goes with them: the log, kNN, checkpoints, the look-out for collapse."""

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        logs: Logs,
        identity: dict[str, Any],
        evaluate: Evaluate | None,
        start: int,
    ) -> None:
        self.trainer, self.run, self.logs, self.identity, self.evaluate = trainer, run, logs, identity, evaluate
        cfg, spe, method = trainer.cfg, trainer.steps_per_epoch, trainer.method
        self.log_every, self.eval_every = max(1, min(10, spe // 4)), round(cfg.knn_every * spe)
        ceiling = None if method.frozen_teacher else method.entropy_ceiling
        self.watch = CollapseWatch(ceiling, trainer.schedule.warmup_steps, cfg.on_collapse)
        self._last_done, self._last_time, self._rate = start, time.perf_counter(), ""

    def step(self, step: int, stop: Callable[[], bool]) -> str:
        """One step; what the progress bar shows beside it.

        Raises:
            UserError: what `Trainer.step` raises, or a collapse that is to stop the run; a checkpoint of it is kept.
            KeyboardInterrupt: `stop` said so in any process; a checkpoint has been written.
        """
        done, total = step + 1, self.trainer.total_steps
        logged = done % self.log_every == 0 or done == total
        values = self.trainer.step(step, look=logged)
        if logged:
            self._log(done, values)
        if self.evaluate and (done == total or (self.eval_every and done % self.eval_every == 0)):
            self._measure(done, self.evaluate)
        asked = parallel.any_of(stop())
        if done == total or done % self.trainer.cfg.checkpoint_every == 0 or asked:
            self._save(done)
        if asked and done < total:
            raise KeyboardInterrupt
        if logged:
            try:
                self.watch.see(done, values)
            except UserError:
                self._save(done)  # its curves are worth keeping
                raise
        return f"loss {values['loss']:.4f}{self._rate}"

    def _epoch(self, done: int) -> float:
        return round(done / self.trainer.steps_per_epoch, 4)

    def _log(self, done: int, values: dict[str, float]) -> None:
        now = time.perf_counter()
        img_s = round((done - self._last_done) * self.trainer.cfg.batch_size / (now - self._last_time), 1)
        self.logs.row(step=done, epoch=self._epoch(done), img_s=img_s, **values)
        self._last_time, self._last_done, self._rate = now, done, f", {img_s:.0f} img/s"

    def _measure(self, done: int, evaluate: Evaluate) -> None:
        before = time.perf_counter()
        self.logs.row(step=done, epoch=self._epoch(done), **_measure(evaluate, self.trainer.method))
        self.logs.table()
        self._last_time += time.perf_counter() - before  # evaluation is no part of img_s

    def _save(self, done: int) -> None:
        if parallel.leads():
            self.run.history_to_disk()
            checkpoint.save(self.run.checkpoints, done, self.trainer.method, self.trainer.optimizer, self.identity)


def measure_speed(
    method: Method, pixels: Pixels, cfg: LoopConfig, *, device: str, seed: int, seconds: float = 3.0
) -> float:
    """Images a second of real training steps (`method` is changed by them), after two for warming up."""
    trainer = Trainer(method, pixels, cfg, seed=seed, device=device)
    trainer.step(0, look=False), trainer.step(1, look=False)
    began, n = time.perf_counter(), 0
    while n < 3 or parallel.any_of(time.perf_counter() - began < seconds):
        trainer.step(2 + n, look=False)
        n += 1
    return n * cfg.batch_size / (time.perf_counter() - began)


def _measure(evaluate: Evaluate, method: Method) -> dict[str, float]:
    student = method.deployed()
    student.eval()
    try:
        with torch.no_grad():
            return evaluate(student)
    finally:
        method.train()


def _summary(run: Run, total: int, cfg: LoopConfig, seconds: float) -> dict[str, Any]:
    """From metrics.jsonl, so that a resumed run tells of all of it."""
    rows = run.history()
    losses = [r["loss"] for r in rows if "loss" in r]
    knn = [r["knn_top1"] for r in rows if "knn_top1" in r]
    result = {
        "steps": total,
        "epochs": cfg.epochs,
        "seconds": round(seconds, 1),
        "final_loss": losses[-1] if losses else None,
    }
    return {**result, "knn_last": knn[-1], "knn_best": max(knn)} if knn else result


def _averaged(seen: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The mean of every logged scalar over passes and processes; what is on a device is read from it at once."""
    names = list(seen[0])
    there = [name for name in names if seen[0][name].device.type != "cpu"]
    rows = []
    for out in seen:
        read = torch.stack([out[name].float() for name in there]).tolist() if there else []
        found = dict(zip(there, read, strict=True))
        rows.append([found[name] if name in found else float(out[name]) for name in names])
    table = torch.tensor(rows, dtype=torch.float64)
    return dict(zip(names, parallel.mean(table.mean(0)).tolist(), strict=True))


def _compile(method: Method, wanted: bool) -> None:
    """torch.compile of the student, in place."""
    if not wanted:
        return
    if parallel.size() > 1:
        raise UserError("compile works in a single process only", "leave train.compile out, or torchrun")
    method.student.compile()


def _use_bf16(precision: str, device: str) -> bool:
    cuda = torch.device(device).type == "cuda"
    if precision == "bf16" and not cuda:
        raise UserError(f"precision bf16 needs CUDA, the device is {device}", "use --precision fp32 or auto")
    return cuda and precision != "fp32"
