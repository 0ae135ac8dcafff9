"""The one call of AWS' token service that a pod with an identity makes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ROLE = "arn:aws:iam::111122223333:role/tuft"
TOKEN = "a-token-of-the-cluster"

# The form of its answers (AWS' reference of AssumeRoleWithWebIdentity).
_ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><SessionToken></SessionToken>
<SecretAccessKey>{secret}</SecretAccessKey><Expiration>2100-01-01T00:00:00Z</Expiration>
<AccessKeyId>{access}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


@dataclass
class Sts:
    url: str
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def environment(self, folder: Path) -> dict[str, str]:
        """What EKS puts into a pod, and where the token service is."""
        file = folder / "token"
        file.write_text(TOKEN)
        return {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
            "AWS_ROLE_ARN": ROLE,
            "AWS_ENDPOINT_URL_STS": self.url,
        }


@contextmanager
def sts_server(access_key: str, secret_key: str) -> Iterator[Sts]:
    """Gives these keys to who has the token and asks for the role."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            sts.asked.append(query)
            known = query.get("WebIdentityToken") == [TOKEN] and query.get("RoleArn") == [ROLE]
            body = _ANSWER.format(secret=secret_key, access=access_key) if known else "<Error/>"
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sts = Sts(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield sts
    finally:
        server.shutdown()
        server.server_close()
