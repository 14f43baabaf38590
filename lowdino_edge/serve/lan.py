"""What serving on a network needs: this machine's address there, a certificate for it, a QR code."""

from __future__ import annotations

import datetime
import io
import ipaddress
import os
import socket
import ssl

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.files import remove_folder, temporary_folder

_DAYS = 3  # of the certificate; serving ends sooner
_ELSEWHERE = "203.0.113.1"  # reserved for documentation: an address that is on no network


def address() -> str:
    """This machine's IPv4 address on the network it reaches others by. Connecting a UDP socket sends nothing.

    Raises:
        UserError: it is on no network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect((_ELSEWHERE, 9))
            found = str(s.getsockname()[0])
        except OSError:
            found = ""
    if not found or ipaddress.ip_address(found).is_loopback or ipaddress.ip_address(found).is_unspecified:
        raise UserError("this machine is on no network", "join the phone's Wi-Fi, or leave --lan out")
    return found


def tls(host: str) -> ssl.SSLContext:
    """A TLS context with a new self-signed certificate for the address `host`; its key is on disk only meanwhile."""
    folder = temporary_folder("tls")  # mode 0700
    try:
        key, certificate = _self_signed(host)
        both = folder / "both.pem"
        with os.fdopen(os.open(both, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(key + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return context
    finally:
        remove_folder(folder)


def _self_signed(host: str) -> tuple[bytes, bytes]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise missing_extra("cryptography", "serve") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lowdino serve")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)  # a phone's clock may be late
        .not_valid_after(now + _DAYS * day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(pem, *plain), certificate.public_bytes(pem)


def qr(text: str) -> str:
    """A QR code in half-block characters, for the terminal."""
    try:
        import segno
    except ImportError:
        raise missing_extra("segno", "serve") from None
    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, border=2, compact=True)
    return out.getvalue()
