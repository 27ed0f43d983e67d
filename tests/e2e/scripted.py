"""Servers in front of docker-registry that answer some requests in another way."""

import http.server
import threading
import urllib.error
import urllib.request


class Forwarding:
    """Passes every request on to a registry. What inherits from it changes answers."""

    def __init__(self, registry):
        self.registry = registry
        forwarding = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802 - the name that http.server calls
                forwarding.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        self.send(request, *self.ask(request))

    def ask(self, request, method=None):
        """The registry's answer to a request: status, headers and body."""
        headers = {name: request.headers[name] for name in ("Accept", "Range") if name in request.headers}
        asked = urllib.request.Request(self.registry.url + request.path, method=method or request.command,
                                       headers=headers)
        try:
            answer = urllib.request.urlopen(asked, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = bytearray(answer.read())
        names = ("Content-Type", "Docker-Content-Digest", "Content-Range", "Content-Length")
        return answer.status, {name: answer.headers[name] for name in names if answer.headers[name]}, body

    @staticmethod
    def send(request, status, headers, body=b""):
        """Sends an answer; one whose `Content-Length` is None has none, and ends with its connection."""
        headers = {"Content-Length": str(len(body)), **headers}
        if headers["Content-Length"] is None:
            request.close_connection = True
        request.send_response(status)
        for name, value in headers.items():
            if value is not None:
                request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def end(self):
        self.server.shutdown()
        self.server.server_close()


class DamagingMirror(Forwarding):
    """A mirror of a registry that sends every blob of at least so many bytes with one wrong byte in the middle."""

    def __init__(self, registry, bytes_min):
        self.bytes_min, self.damaged = bytes_min, 0
        super().__init__(registry)

    def answer(self, request):
        status, headers, body = self.ask(request)
        if "/blobs/" in request.path and len(body) >= self.bytes_min:
            body[len(body) // 2] ^= 1
            self.damaged += 1
        self.send(request, status, headers, body)


class ObjectStore(Forwarding):
    """What holds the blobs of a registry, and answers `HEAD` as `head` says: a status, or 200 with a length."""

    def __init__(self, registry, head):
        self.head, self.heads = head, 0
        super().__init__(registry)

    def answer(self, request):
        if request.command == "HEAD":
            self.heads += 1
            status, length = self.head
            return self.send(request, status, {"Content-Length": length, "Content-Type": "application/xml"})
        status, headers, body = self.ask(request)
        # An object store knows no digests.
        headers.pop("Docker-Content-Digest", None)
        return self.send(request, status, headers, body)


class Redirecting(Forwarding):
    """A registry that sends everybody who asks for a blob to its object store, and refuses `HEAD` of manifests if
    `refused` is a status."""

    def __init__(self, registry, store, refused):
        self.store, self.refused = store, refused
        super().__init__(registry)

    def answer(self, request):
        if "/blobs/" in request.path:
            return self.send(request, 307, {"Location": self.store.url + request.path})
        if request.command == "HEAD" and self.refused and "/manifests/" in request.path:
            return self.send(request, self.refused, {})
        return super().answer(request)
