"""A token server for docker-registry: accounts, what each may read, and who asked for what.

The tokens are JSON Web Tokens as docker-registry wants them (distribution, "Token Authentication Implementation"),
signed by openssl with a key and certificate of its own.
"""

import base64
import json
import os
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

from programs import run


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """`accounts` maps a user name to (password, list of repositories or "*"); anonymous callers may read `public`."""

    def __init__(self, world, accounts, public):
        self.accounts, self.public, self.seen = accounts, public, []
        directory = world.directory("tokens")
        self.key, self.cert = os.path.join(directory, "key.pem"), os.path.join(directory, "cert.pem")
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens",
            "-keyout", self.key, "-out", self.cert)
        with open(self.cert, encoding="ascii") as file:
            self.x5c = "".join(line.strip() for line in file if "CERTIFICATE" not in line)
        self.start(0)

    def start(self, port=None):
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port if port is None else port), self.handler())
        self.port = self.server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def auth(self):
        """The `auth` section of docker-registry's configuration."""
        return (f"auth: {{token: {{realm: 'http://{self.address}/token', service: registry, issuer: tokens, "
                f"rootcertbundle: {self.cert}}}}}\n")

    def handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = parse_qs(urlparse(self.path).query)
                user, given = None, self.headers.get("Authorization", "")
                if given.startswith("Basic "):
                    user, password = base64.b64decode(given[6:]).decode().split(":", 1)
                    if outer.accounts.get(user, (None,))[0] != password:
                        outer.seen.append((user, "refused"))
                        return self.answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
                scopes = [s for part in query.get("scope", []) for s in part.split()]
                outer.seen.append((user, " ".join(scopes)))
                return self.answer(200, {"token": outer.token(user, scopes), "expires_in": 300})

            def do_POST(self):
                # Clients then ask by GET.
                self.answer(405, {"errors": [{"code": "UNSUPPORTED"}]})

            def answer(self, status, document):
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def token(self, user, scopes):
        allowed = self.accounts.get(user, (None, []))[1]
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            if allowed == "*":
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
            elif name in allowed or name in self.public:
                access.append({"type": kind, "name": name, "actions": ["pull"]})
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self.x5c]}
        claims = {"iss": "tokens", "sub": user or "", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": os.urandom(8).hex(), "access": access}
        signed = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed.encode(),
                                   capture_output=True, check=True).stdout
        return f"{signed}.{b64(signature)}"
