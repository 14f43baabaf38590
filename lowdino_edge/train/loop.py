"""One training loop for every method, self-supervised or distilling.

Nothing random has state: the order of the data, the views and dropout are functions of (seed, step). So a run that is
killed and resumed ends with the same weights, on the CPU bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lowdino_edge import console
from lowdino_edge.errors import UserError
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.methods.base import Method
from lowdino_edge.models.backbone import Student, save_student
from lowdino_edge.run import Run
from lowdino_edge.settings import LoopConfig
from lowdino_edge.train import checkpoint
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.guard import CollapseWatch, Interrupts, avoid_onednn_fault
from lowdino_edge.train.optim import clip_gradients, make_optimizer, set_rates
from lowdino_edge.train.schedule import make_schedule
from lowdino_edge.types import Progress

if TYPE_CHECKING:
    from lowdino_edge.data.pixels import Pixels

Evaluate = Callable[[Student], dict[str, float]]


class Trainer:
    """A method with its optimiser, schedule and data: everything that one step needs.

    Raises:
        UserError: a batch larger than the data, a precision that the device does not have.
    """

    def __init__(self, method: Method, pixels: Pixels, cfg: LoopConfig, *, seed: int, device: str) -> None:
        self.bf16 = _use_bf16(cfg.precision, device)
        self.feed = Feed(pixels, cfg.batch_size, seed, device)
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
        self.optimizer = make_optimizer(method, cfg.optim)
        self.schedule = make_schedule(cfg.optim, self.total_steps, self.steps_per_epoch)

    def step(self, step: int) -> dict[str, float]:
        """One update of the weights; returns everything that is logged.

        Raises:
            UserError: the loss or the gradient is not finite; the weights have not been touched.
        """
        progress = Progress(step, self.total_steps, self.steps_per_epoch)
        lr, wd = self.schedule.lr(step), self.schedule.weight_decay(step)
        set_rates(self.optimizer, lr, wd)
        batch = self.feed.batch(step, self.plan)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.method.step(batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        out["loss"].backward()
        norm = clip_gradients(self.optimizer, self.cfg.optim.clip_grad)
        values = {k: float(v.detach()) for k, v in out.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(float(norm))):
            what = "loss" if not math.isfinite(values["loss"]) else "gradient"
            raise UserError(
                f"the {what} is not a finite number at step {step}",
                "lower optim.lr or lengthen its warm-up; the last checkpoint is intact",
            )
        self.optimizer.step()
        self.method.after_step(progress)
        return {**values, "lr": lr, "wd": wd, "grad_norm": float(norm)}


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
    total, spe = trainer.total_steps, trainer.steps_per_epoch
    identity = {"seed": seed, "total_steps": total, "batch_size": cfg.batch_size, "data": pixels.fingerprint}
    identity["teacher"] = (card or {}).get("teacher_fingerprint")
    start = checkpoint.load(run.checkpoints, method, trainer.optimizer, identity) if resume else 0
    if resume:
        run.truncate_history(start)
    log_every, eval_every = max(1, min(10, spe // 4)), round(cfg.knn_every * spe)
    watch = CollapseWatch(method.entropy_ceiling, trainer.schedule.warmup_steps)
    began = last_time = time.perf_counter()
    last_done, rate = start, ""
    with Interrupts() as interrupts, console.bar(stage, total, start) as bar:
        for step in range(start, total):
            values = trainer.step(step)
            done = step + 1
            epoch = round(done / spe, 4)
            if done % log_every == 0 or done == total:
                now = time.perf_counter()
                img_s = round((done - last_done) * cfg.batch_size / (now - last_time), 1)
                run.log(step=done, epoch=epoch, img_s=img_s, **values)
                watch.see(done, values)
                last_time, last_done, rate = now, done, f", {img_s:.0f} img/s"
            bar.advance(1, f"loss {values['loss']:.4f}{rate}")
            if evaluate and (done == total or (eval_every and done % eval_every == 0)):
                before = time.perf_counter()
                run.log(step=done, epoch=epoch, **_measure(evaluate, method))
                last_time += time.perf_counter() - before  # evaluation is no part of img_s
            if done == total or done % cfg.checkpoint_every == 0 or interrupts.asked:
                checkpoint.save(run.checkpoints, done, method, trainer.optimizer, identity)
            if interrupts.asked and done < total:
                raise KeyboardInterrupt
    result = _summary(run, total, cfg, time.perf_counter() - began)
    name = type(method).__name__.lower()
    facts = {"stage": stage, "method": name, "seed": seed, "knn_top1": result.get("knn_last")}
    facts |= {"entropy_ceiling": method.entropy_ceiling, **(card or {})}
    save_student(method.deployed(), run.student, {**facts, "epochs": cfg.epochs, "steps": total})
    return result


def measure_speed(
    method: Method, pixels: Pixels, cfg: LoopConfig, *, device: str, seed: int, seconds: float = 3.0
) -> float:
    """Images a second of real training steps (`method` is changed by them), after two for warming up."""
    trainer = Trainer(method, pixels, cfg, seed=seed, device=device)
    trainer.step(0), trainer.step(1)
    began, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - began < seconds:
        trainer.step(2 + n)
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


def _use_bf16(precision: str, device: str) -> bool:
    cuda = torch.device(device).type == "cuda"
    if precision == "bf16" and not cuda:
        raise UserError(f"precision bf16 needs CUDA, the device is {device}", "use --precision fp32 or auto")
    return cuda and precision != "fp32"
