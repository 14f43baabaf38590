"""A board that speaks board.py's language and answers nonsense: a program, and what it sends in place of HERE."""

from __future__ import annotations

EVIL = """
import io, json, os, sys, tarfile
def say(**v): os.write(1, json.dumps(v).encode() + b"\\n")
def pack(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, content in files.items():
            i = tarfile.TarInfo(name)
            if isinstance(content, str):
                i.type, i.linkname = tarfile.SYMTYPE, content
                t.addfile(i)
            else:
                i.size = len(content)
                t.addfile(i, io.BytesIO(content))
    return out.getvalue()
say(lowdino=dict(python="3", machine="x", modules=["numpy", "onnxruntime"], tmp="/tmp", free=10**12))
stream = sys.stdin.buffer
while True:
    words = stream.readline().split()
    if words[:1] == [b"tar"]:
        break
stream.read(int(words[1]))
say(folder="/")
HERE
say(done=True)
stream.readline()
say(left=False)
"""
GOOD = '"result.json": json.dumps({"info": {}, "models": []}).encode()'
SENDS = {
    "traversal": 'data = pack(**{"../../evil": b"x"}); say(tar=len(data)); os.write(1, data)',
    "absolute": 'data = pack(**{"/tmp/lowdino-evil": b"x"}); say(tar=len(data)); os.write(1, data)',
    "link": 'data = pack(**{"result.json": "/etc/passwd"}); say(tar=len(data)); os.write(1, data)',
    "too large": "say(tar=10**15)",
    "negative": "say(tar=-1)",
    "no number": 'say(tar="many")',
    "no tar": 'say(tar=10); os.write(1, b"0123456789")',
    "larger than asked": 'data = pack(**{"z0_query.f32": bytes(10**6)}); say(tar=len(data)); os.write(1, data)',
    "no rows": f"data = pack(**{{{GOOD}}}); say(tar=len(data)); os.write(1, data)",
    "nothing": "pass",
    "deep": 'data = pack(**{"result.json": b"[" * 10**6}); say(tar=len(data)); os.write(1, data)',
    "progress": 'say(progress=[1], done="x", total=None)',
    "noise": 'os.write(1, b"\\xff\\x00" * 5000 + b"\\n")',
}
