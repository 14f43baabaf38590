"""Images for the commands that want files: a folder with duplicates, and shards on a server that drops connections."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

DROPS = 0.2  # of the answers break off somewhere


def picture(seed: int, side: int = 32) -> Image.Image:
    """Coarse blotches, so that a resized copy is a near-duplicate."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def pool(made: Path) -> None:
    """40 images, four of them twice and four more a little smaller."""
    for i in range(40):
        folder = made / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / f"{i:03d}.png")
        if i < 4:
            picture(i).save(folder / f"{i:03d}-again.png")
        elif i < 8:
            picture(i).resize((28, 28)).save(folder / f"{i:03d}-small.png")


def shards(made: Path) -> None:
    """Two shards of training images and two of test images."""
    made.mkdir()
    for split, first in (("train", 0), ("val", 100)):
        for k in range(2):
            with tarfile.open(made / f"{split}-{k:03d}.tar", "w") as tar:
                for i in range(first + 24 * k, first + 24 * (k + 1)):
                    raw = io.BytesIO()
                    picture(i, 24).save(raw, "PNG")
                    for name, content in ((f"{i:06d}.png", raw.getvalue()), (f"{i:06d}.cls", str(i % 3).encode())):
                        info = tarfile.TarInfo(name)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))


class Server:
    """Serves a folder of shards; some answers break off. Ranges are answered as files servers do."""

    def __init__(self, folder: Path) -> None:
        draw = random.Random(0)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = (folder / Path(self.path).name).read_bytes()
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{len(content)}"')
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                sent = content[start:]
                self.wfile.write(sent[: draw.randrange(len(sent))] if draw.random() < DROPS else sent)
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client was killed

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True, name=f"shards-{os.getpid()}").start()
