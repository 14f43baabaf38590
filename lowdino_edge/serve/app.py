"""The endpoints: the built app, the models of a run, a benchmark. Suffixes: N images, H, W pixels, C channels."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lowdino_edge import __version__, console
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.serve.guard import refusal
from lowdino_edge.serve.site import Asset
from lowdino_edge.serve.wire import (
    FAILURE_BYTES,
    Failure,
    Head,
    Images,
    Refused,
    Task,
    read_failure,
    read_head,
    read_result,
)  # fmt: skip
from lowdino_edge.types import UInt8

_CHUNK = 64  # images
_PIECE = 1 << 16  # bytes
_BODY_S = 120.0  # a body that takes longer is given up
_BYTES = "application/octet-stream"
_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Site:
    """What one server offers.

    Attributes:
        models: name -> artifact, its bytes checked by `Artifact.read`.
        task: the benchmark, or None.
        knn_top1: name -> accuracy, as far as it was measured.
    """

    run: str
    files: Mapping[str, Asset]
    models: Mapping[str, Artifact]
    task: Task | None = None
    lan: bool = False
    knn_top1: Mapping[str, float] = field(default_factory=dict)


def build(site: Site) -> Starlette:
    """The app without its guard."""
    endpoints = _Endpoints(site)
    routes = [
        Route("/api/info", endpoints.info),
        Route("/api/job", endpoints.job),
        Route("/api/job/{side}.u8", endpoints.images),
        Route("/api/results", endpoints.results, methods=["POST"]),
        Route("/api/failures", endpoints.failures, methods=["POST"]),
        Route("/models/{name}/{file}", endpoints.model),
        Route("/{path:path}", endpoints.file),
    ]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys((Refused, HTTPException, Exception), _told))
    app.router.redirect_slashes = False
    return app


def slug(name: str) -> str:
    """A model's name as a part of a URL: those of several runs hold a slash."""
    return re.sub(r"[^A-Za-z0-9_@+.-]", "-", name).lstrip(".-") or "model"


class _Endpoints:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.by_slug = {slug(name): a for name, a in site.models.items()}
        self._images: Images | None = None
        self._opening = asyncio.Lock()

    async def file(self, request: Request) -> Response:
        asset = self.site.files.get(request.scope["path"])
        if asset is None:
            raise _no_file()
        headers = {"etag": asset.etag, "cache-control": asset.cache}
        if asset.compressible:
            headers["vary"] = "accept-encoding"
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        content = asset.content
        if asset.compressible and _takes_gzip(request):
            content = await run_in_threadpool(asset.gzipped)
            headers["content-encoding"] = "gzip"
        return _Paced(content, media_type=asset.media_type, headers=headers)

    async def info(self, request: Request) -> Response:
        models = [
            {
                "name": name, "target": a.target, "scheme": a.scheme, "bytes": a.bytes, "card": a.card,
                "url": f"/models/{slug(name)}/{a.file.name}", "golden_url": f"/models/{slug(name)}/golden.json",
                "knn_top1": self.site.knn_top1.get(name),
            }
            for name, a in self.site.models.items()
        ]  # fmt: skip
        said = {"run": self.site.run, "version": __version__, "lan": self.site.lan, "models": models}
        return JSONResponse(said, headers=_NO_STORE)

    async def model(self, request: Request) -> Response:
        name, file = request.path_params["name"], request.path_params["file"]
        artifact = self.by_slug.get(name)
        if artifact is None or file not in ("golden.json", artifact.file.name):
            raise _no_file()
        golden = file == "golden.json"
        content = await run_in_threadpool(_golden if golden else _checked, artifact)
        return _Paced(content, media_type="application/json" if golden else _BYTES, headers=_NO_STORE)

    async def job(self, request: Request) -> Response:
        task = self._task()
        return JSONResponse(task.describe(await self._opened(task)), headers=_NO_STORE)

    async def images(self, request: Request) -> Response:
        images = await self._opened(self._task())
        sides = {"bank": images.bank_u8_NCHW, "query": images.query_u8_NCHW}
        if request.path_params["side"] not in sides:
            raise _no_file()
        u8_NCHW = sides[request.path_params["side"]]
        if u8_NCHW is None:
            return Response(b"", media_type=_BYTES, headers=_NO_STORE)
        headers = {"content-length": str(u8_NCHW.size), **_NO_STORE}
        return StreamingResponse(_nhwc(u8_NCHW), media_type=_BYTES, headers=headers)

    async def results(self, request: Request) -> Response:
        """A result that cannot be used counts as a failure of that model, so that nobody waits for it."""
        task = self._task()
        images = await self._opened(task)
        widest = max(self.site.models[m].embed_dim for m in task.models)
        body = await _body(request, _BYTES, task.limit(images, widest))
        head, rest = read_head(body)
        self._check_named(task, head)
        try:
            result = read_result(head, rest, images, self.site.models[head.model].embed_dim)
            row = await run_in_threadpool(task.on_result, result)
        except Refused as e:
            said = Failure(job=head.job, model=head.model, backend=head.backend, message=e.error, last=head.last)
            await run_in_threadpool(task.on_failure, said)
            raise
        return JSONResponse({"row": row}, headers=_NO_STORE)

    async def failures(self, request: Request) -> Response:
        task = self._task()
        failure = read_failure(await _body(request, "application/json", FAILURE_BYTES))
        self._check_named(task, failure)
        await run_in_threadpool(task.on_failure, failure)
        return JSONResponse({}, headers=_NO_STORE)

    def _task(self) -> Task:
        if self.site.task is None:
            raise Refused(404, "there is no benchmark here", "start `lowdino serve` with a run")
        return self.site.task

    async def _opened(self, task: Task) -> Images:
        async with self._opening:
            if self._images is None:
                self._images = await run_in_threadpool(task.images)
            return self._images

    def _check_named(self, task: Task, said: Head | Failure) -> None:
        if said.job != task.id:
            raise Refused(409, f"'{said.job[:40]}' is not the benchmark of this server", "reload the page")
        if said.model not in task.models or said.backend not in task.backends:
            asked = f"'{said.model[:100]}' on {said.backend}"
            raise Refused(404, f"{asked} is no part of the benchmark", f"choose from: {', '.join(task.models)}")


class _Paced(Response):
    """Sent a piece at a time, each when the one before is on its way.

    uvicorn takes an answer that it was given whole for sent, and soon closes the connection: over TLS that cuts off a
    phone that takes longer than half a minute to fetch a large model.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for i in range(0, len(self.body), _PIECE):
            piece = bytes(self.body[i : i + _PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _body(request: Request, media_type: str, limit: int) -> bytes:
    """The whole body, given up as soon as it is longer than `limit` bytes."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise Refused(415, "this is not the expected kind of content", f"send {media_type}")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > limit:
        raise Refused(413, f"the body is longer than {limit} bytes", "send one result")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise Refused(413, f"the body is longer than {limit} bytes", "send one result")
    except (TimeoutError, ClientDisconnect):
        raise Refused(408, "the body did not arrive", "send it again") from None
    return bytes(body)


def _takes_gzip(request: Request) -> bool:
    named = request.headers.get("accept-encoding", "").lower().replace(" ", "").split(",")
    return any(n.partition(";")[0] == "gzip" and not re.search(r";q=0(\.0*)?$", n) for n in named)


def _checked(artifact: Artifact) -> bytes:
    content = artifact.file.read_bytes()
    if hashlib.sha256(content).hexdigest() != artifact.card["sha256"]:
        raise UserError(
            f"'{artifact.file.name}' was changed after the export", "export it again, then start serve anew"
        )
    return content


def _golden(artifact: Artifact) -> bytes:
    arrays = artifact.golden()
    n, size = len(arrays["input"]), int(arrays["input"].shape[-1])
    coded = {k: base64.b64encode(z.astype("<f4").tobytes()).decode() for k, z in arrays.items()}
    return json.dumps({"n": n, "size": size, "embed_dim": artifact.embed_dim, **coded}).encode()


def _nhwc(u8_NCHW: UInt8) -> Iterator[bytes]:
    """A piece at a time: the images may lie in a file that is larger than memory."""
    for i in range(0, len(u8_NCHW), _CHUNK):
        yield np.ascontiguousarray(u8_NCHW[i : i + _CHUNK].transpose(0, 2, 3, 1)).tobytes()


def _no_file() -> Refused:
    return Refused(404, "no such file", "open / instead")


async def _told(request: Request, e: Exception) -> Response:
    """Every error as {error, hint}; those of this side (a changed model, a full disk, a fault) are printed too."""
    if isinstance(e, Refused):
        return refusal(e)
    if isinstance(e, HTTPException):  # Starlette's own
        return refusal(Refused(e.status_code, f"{request.method} is not answered at this address", "open / instead"))
    if isinstance(e, UserError):
        console.warn(e.message)
        return refusal(Refused(500, e.message, e.hint))
    console.warn(f"{type(e).__name__}: {e}")  # may name files of this machine, which a phone need not know
    return refusal(Refused(500, f"the server met a fault ({type(e).__name__})", "see what it printed on its terminal"))
