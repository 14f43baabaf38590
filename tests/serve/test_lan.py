"""--lan over real TLS: the token, the cookie, the certificate, the QR code."""

from __future__ import annotations

import datetime
import http.client
import re
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from lowdino_edge.errors import UserError
from lowdino_edge.serve import app, lan, server


@pytest.fixture
def served(app_files: Any) -> Iterator[server.Server]:
    with server.Server(app.Site("r", app_files, {}, lan=True), port=0) as s:
        yield s


@pytest.fixture(autouse=True)
def on_a_network() -> str:
    try:
        return lan.address()
    except UserError:
        pytest.skip("this machine is on no network")


def phone(served: server.Server) -> tiny.Client:
    """A phone whose owner went past the warning."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return tiny.Client(served.port, lan.address(), context)


def token(served: server.Server) -> str:
    assert served.door is not None
    return served.door.token


def test_a_token_lets_one_device_in_once(served: server.Server, capfd: pytest.CaptureFixture[str]) -> None:
    ask, first = phone(served), token(served)
    for path in ("/", "/index.html", "/api/info", "/app.js", "/nothing"):
        answer = ask(path)
        assert answer.status == 403 and "not been let in" in answer.json()["error"], path
    assert ask("/?token=" + "x" * 43).status == 403 and ask("/?token=").status == 403
    assert ask(f"/app.js?token={first}").status == 403 and ask(f"/?token={first}", "HEAD").status == 403

    came = ask(f"/?token={first}")
    assert (came.status, came.headers["location"]) == (303, "/")
    name, value, *flags = re.split(r"[=;] ?", came.headers["set-cookie"], maxsplit=2)
    assert name.startswith("__Host-") and len(value) == 43
    assert {f.strip().lower() for f in flags[0].split(";")} == {"httponly", "path=/", "samesite=strict", "secure"}
    assert ask("/api/info", Cookie=f"{name}={value}").json()["lan"] is True
    assert ask("/", Cookie=f"other=1; {name}={value}").status == 200

    again = ask(f"/?token={first}")
    assert again.status == 403 and "used up" in again.json()["error"] and "set-cookie" not in again.headers
    for wrong in ("", value[:-1], value + "a", value.swapcase(), first):
        assert ask("/", Cookie=f"{name}={wrong}").status == 403
    assert token(served) != first and token(served) in capfd.readouterr().err  # another device has its own
    second = ask(f"/?token={token(served)}").headers["set-cookie"]
    assert value not in second and ask("/", Cookie=f"{name}={value}").status == 200


def test_a_device_that_is_in_needs_no_token(served: server.Server) -> None:
    ask = phone(served)
    cookie = ask(f"/?token={token(served)}").headers["set-cookie"].split(";")[0]
    unused = token(served)
    answer = ask("/?token=old", Cookie=cookie)
    assert answer.status == 303 and token(served) == unused


def test_posts_and_names_are_checked_as_on_loopback(served: server.Server) -> None:
    ask = phone(served)
    cookie = ask(f"/?token={token(served)}").headers["set-cookie"].split(";")[0]
    assert ask.post("/api/failures", b"{}", Cookie=cookie).status == 404  # there is no job
    assert ask.post("/api/failures", b"{}", Cookie=cookie, Origin="https://evil.example").status == 403
    assert ask("/", Cookie=cookie, host=f"127.0.0.1:{served.port}").status == 403
    assert ask("/", Cookie=cookie, host="evil.example").status == 403


def test_https_only_on_that_address_only(served: server.Server) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        tiny.Client(served.port, lan.address())("/")
    with pytest.raises(ConnectionRefusedError):
        tiny.Client(served.port)("/")


def test_the_certificate_is_for_this_address(served: server.Server, tmp_path: Path) -> None:
    from cryptography import x509

    pem = ssl.get_server_certificate((lan.address(), served.port))
    found = x509.load_pem_x509_certificate(pem.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [lan.address()]
    assert found.not_valid_after_utc - found.not_valid_before_utc <= datetime.timedelta(days=5)
    trusting = ssl.create_default_context(cadata=pem)  # and it is a valid one for who trusts it
    assert tiny.Client(served.port, lan.address(), trusting)("/").status == 403
    with pytest.raises(ssl.SSLCertVerificationError):
        tiny.Client(served.port, lan.address(), ssl.create_default_context())("/")


def test_the_key_does_not_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    load = ssl.SSLContext.load_cert_chain

    def look(context: ssl.SSLContext, file: Path) -> None:
        seen.append((file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777))
        load(context, file)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    lan.tls("192.0.2.7")
    assert seen == [(0o700, 0o600)] and not list(tmp_path.iterdir())


def test_announcement(served: server.Server, app_files: Any, capfd: pytest.CaptureFixture[str]) -> None:
    served.announce()
    said = capfd.readouterr().err
    assert f"https://{lan.address()}:{served.port}/?token={token(served)}" in said
    assert "no authority has signed" in said and "█" in said
    with server.Server(app.Site("r", app_files, {}), port=0) as near:
        near.announce()
        assert f"http://127.0.0.1:{near.port}/\n" in capfd.readouterr().err


def test_one_device_where_one_is_wanted(app_files: Any, capfd: pytest.CaptureFixture[str]) -> None:
    offered = app.Site("r", app_files, {}, lan=True)
    with server.Server(offered, port=0, landing="/?auto=1", several=False) as served:
        ask = phone(served)
        assert ask(f"/?token={token(served)}").headers["location"] == "/?auto=1"
    assert capfd.readouterr().err == ""
