"""What the page and the server say to each other about a benchmark. Everything from the page is checked here.

A result is `uint32 length | JSON | float32 bank embeddings | float32 query embeddings`, all little-endian.
Suffixes: M images of the bank, N queries, D embedding width.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lowdino_edge.console import plain
from lowdino_edge.types import Float, UInt8

FAILURE_BYTES = 16 * 1024

Backend = Literal["wasm", "webgpu"]


Text = Annotated[str, AfterValidator(plain)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]  # 0: browsers coarsen their clocks


class _Strict(BaseModel):
    """JSON types as they are: no number from a string, no NaN. Keys that a newer page adds are let pass."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class DeviceInfo(_Strict):
    user_agent: Text
    platform: Text
    model: Text | None = None
    cores: Count | None = None
    memory_gb: Annotated[float, Field(ge=0)] | None = None
    gpu: Text | None = None


class Head(_Strict):
    """The JSON of POST /api/results."""

    job: Text
    model: Text
    backend: Backend
    samples_ms: Annotated[list[Milliseconds], Field(min_length=1)]
    warmup: Count
    load_ms: Annotated[float, Field(ge=0)]
    threads: Count
    runtime: Text
    device: DeviceInfo
    n_bank: Count
    n_query: Count
    embed_dim: Count
    last: bool


class Failure(_Strict):
    """The JSON of POST /api/failures."""

    job: Text
    model: Text
    backend: Backend
    message: Text
    last: bool


@dataclass(frozen=True)
class Result:
    """One model as a page measured it. The embeddings are None where the job has no such images."""

    head: Head
    z_bank_MD: Float | None
    z_query_ND: Float | None


@dataclass(frozen=True)
class Images:
    """What a page embeds; None where there is nothing to embed."""

    bank_u8_NCHW: UInt8 | None = None
    query_u8_NCHW: UInt8 | None = None

    @property
    def n_bank(self) -> int:
        return 0 if self.bank_u8_NCHW is None else len(self.bank_u8_NCHW)

    @property
    def n_query(self) -> int:
        return 0 if self.query_u8_NCHW is None else len(self.query_u8_NCHW)


@dataclass(frozen=True)
class Task:
    """A benchmark for pages to run.

    Attributes:
        models: names of those served.
        images: asked once, in a thread, when a page first asks for the job.
        on_result: takes a result and returns its row; called in threads. May raise `UserError`.
        on_failure: a model that a page could not measure.
    """

    models: Sequence[str]
    image_size: int
    runs: int
    warmup: int
    burst: int
    backends: Sequence[Backend]
    auto: bool
    images: Callable[[], Images]
    on_result: Callable[[Result], Mapping[str, Any]]
    on_failure: Callable[[Failure], None]
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def describe(self, images: Images) -> dict[str, Any]:
        """The JSON of GET /api/job."""
        return {
            "id": self.id, "models": list(self.models), "runs": self.runs, "warmup": self.warmup, "burst": self.burst,
            "image_size": self.image_size, "n_bank": images.n_bank, "n_query": images.n_query,
            "bank_url": "/api/job/bank.u8", "query_url": "/api/job/query.u8",
            "backends": list(self.backends), "auto": self.auto,
        }  # fmt: skip

    def limit(self, images: Images, embed_dim: int) -> int:
        """The most bytes that a result can have: JSON with a number a run, and the embeddings."""
        return 4 + 32 * 1024 + 32 * self.runs + 4 * embed_dim * (images.n_bank + images.n_query)


class Refused(Exception):
    """A request that is not answered: its status, what is wrong and how to mend it."""

    def __init__(self, status: int, error: str, hint: str) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint


def read_failure(body: bytes) -> Failure:
    return _parse(Failure, body)


def read_head(body: bytes) -> tuple[Head, bytes]:
    """The JSON of a result and the bytes after it."""
    size = int.from_bytes(body[:4], "little")
    if len(body) < 4 or size > len(body) - 4:
        raise Refused(400, f"a result of {len(body)} bytes cannot hold {size} bytes of JSON", _SHAPE)
    return _parse(Head, body[4 : 4 + size]), body[4 + size :]


def read_result(head: Head, rest: bytes, images: Images, embed_dim: int) -> Result:
    """The embeddings of a result, as many as the job has images."""
    given, wanted = (head.n_bank, head.n_query, head.embed_dim), (images.n_bank, images.n_query, embed_dim)
    if given != wanted:
        raise Refused(422, f"embeddings (bank, queries, width) are {given}, the job wants {wanted}", _AGAIN)
    if len(rest) != 4 * embed_dim * (images.n_bank + images.n_query):
        raise Refused(422, f"{len(rest)} bytes of embeddings are not {sum(given[:2])} x {embed_dim} float32", _SHAPE)
    z_ND = np.frombuffer(rest, dtype="<f4").astype(np.float32).reshape(-1, embed_dim)
    if not np.isfinite(z_ND).all():
        raise Refused(422, "the embeddings hold NaN or infinity", f"{head.backend} gets this model wrong there")
    bank, query = z_ND[: images.n_bank], z_ND[images.n_bank :]
    return Result(head, bank if len(bank) else None, query if len(query) else None)


_SHAPE = "send uint32 length, JSON, float32 embeddings, little-endian"
_AGAIN = "reload the page and run the benchmark again"


_T = TypeVar("_T", bound=BaseModel)


def _parse(kind: type[_T], body: bytes) -> _T:
    try:
        return kind.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"]) or "the JSON"
        raise Refused(422, f"bad value for {where}", first["msg"]) from None
