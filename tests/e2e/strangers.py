"""Registries that the operator did not name: over TLS, at a public address, in a network namespace of the test's own."""

import ctypes
import hashlib
import http.server
import os
import socket
import ssl
import threading
import time
import unittest

import image
from programs import PROGRAM, Containerd, Larder, Registry, World, answers, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"
STRANGERS = ("evil.example.com", "evil.example.net")
# An address that is public, which Larder insists on for names that a client chose.
ADDRESS = "93.184.216.34"
CLONE_NEWNET = 0x40000000
# Downloads of one registry that is not configured: a quarter of the places for the store, and of those past it.
SHARE_MAX = 128


class Stranger:
    """A registry that has the blobs it is given, and answers every other digest with a gigabyte that hardly comes."""

    def __init__(self, world):
        self.blobs, self.begun, self.ended = {}, 0, threading.Event()
        directory = world.directory("tls")
        names = ",".join(f"DNS:{name}" for name in STRANGERS)
        with open(f"{directory}/ext", "w", encoding="utf-8") as file:
            file.write(f"subjectAltName={names}\n")
        self.authority = f"{directory}/ca.pem"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=ca", "-keyout", f"{directory}/ca.key", "-out", self.authority)
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=evil",
            "-keyout", f"{directory}/key.pem", "-out", f"{directory}/csr.pem")
        run("openssl", "x509", "-req", "-in", f"{directory}/csr.pem", "-CA", self.authority, "-CAkey",
            f"{directory}/ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{directory}/ext", "-out",
            f"{directory}/cert.pem")
        stranger = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802 - the name that http.server calls
                digest = self.path.split("/")[-1]
                body = stranger.blobs.get(digest)
                self.send_response(200)
                self.send_header("Docker-Content-Digest", digest)
                self.send_header("Content-Length", str(1 << 30 if body is None else len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if body is not None:
                    self.wfile.write(body)
                    return
                # A slow download is tried over a second connection too; that is none of its own.
                stranger.begun += "Range" not in self.headers
                self.close_connection = True
                try:
                    while not stranger.ended.wait(0.5):
                        self.wfile.write(b"x" * 500)
                        self.wfile.flush()
                except OSError:
                    pass

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 1024

            def handle_error(self, *_):
                pass

        self.server = Server((ADDRESS, 443), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
        # Each handshake on the thread of its connection.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def end(self):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


class LarderAmongStrangers(Larder):
    """The daemon with names of strangers in its `/etc/hosts`, and their authority among those of the system."""

    def __init__(self, world, registries, stranger, more=""):
        self.hosts, self.authority = f"{world.directory('hosts')}/hosts", stranger.authority
        with open(self.hosts, "w", encoding="utf-8") as file:
            file.write("127.0.0.1 localhost\n" + "".join(f"{ADDRESS} {name}\n" for name in STRANGERS))
        super().__init__(world, registries, more)

    def start(self):
        self.process = self.world.start(
            self.name, "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', self.hosts, "env",
            f"SSL_CERT_FILE={self.authority}", PROGRAM, "serve", "--config", self.config)
        self.world.wait_for(lambda: answers(f"http://{self.admin}/readyz"), self.name)

    def downloads(self):
        """Blob downloads under way."""
        metrics = run("curl", "-sf", f"http://{self.admin}/metrics")
        return int(next(line.split()[1] for line in metrics.splitlines() if line.startswith("larder_flights ")))

    def begin(self, registry, digest):
        """Asks for a blob, and reads nothing."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(f"GET /v2/team/evil/blobs/{digest}?ns={registry} HTTP/1.1\r\nHost: {self.address}\r\n\r\n".encode())
        return client


class Strangers(unittest.TestCase):
    """What registries that are not configured cost those that are."""

    def setUp(self):
        name = f"larder-strangers-{os.getpid()}"
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        run("ip", "netns", "add", name)
        self.addCleanup(run, "ip", "netns", "del", name)
        with open(f"/run/netns/{name}", "rb") as inside:
            self.assertEqual(libc.setns(inside.fileno(), CLONE_NEWNET), 0, os.strerror(ctypes.get_errno()))

        def leave():
            libc.setns(before, CLONE_NEWNET)
            os.close(before)

        self.addCleanup(leave)
        run("ip", "link", "set", "lo", "up")
        run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
        self.world = World()
        self.addCleanup(self.world.end)
        self.stranger = Stranger(self.world)
        self.addCleanup(self.stranger.end)
        self.registry = Registry(self.world)
        self.pushed = image.push(self.world, self.registry, REPOSITORY, "v1")

    def test_many_slow_downloads_of_strangers_hold_up_no_pull_and_end_without_their_clients(self):
        larder = LarderAmongStrangers(self.world, {"reg.test": self.registry.url}, self.stranger)
        digests = ["sha256:" + hashlib.sha256(str(n).encode()).hexdigest() for n in range(300)]
        clients = [larder.begin(STRANGERS[0], digest) for digest in digests]
        self.world.wait_for(lambda: self.stranger.begun >= SHARE_MAX, larder.name)
        # One stranger has its share, another one still finds a place, and so does who is named.
        clients.append(larder.begin(STRANGERS[1], digests[0]))
        self.world.wait_for(lambda: self.stranger.begun > SHARE_MAX, larder.name)
        self.assertEqual(Containerd(self.world, larder).cri_pull(NAME), self.pushed["config amd64"])
        self.assertLessEqual(self.stranger.begun, SHARE_MAX + 1)
        self.assertLessEqual(larder.downloads(), SHARE_MAX + 1)
        for client in clients:
            client.close()
        until = time.monotonic() + 90
        while larder.downloads() > 0:
            self.assertLess(time.monotonic(), until, "slow downloads that no client waits for have to end")
            time.sleep(0.5)

    def test_a_stranger_pushes_nothing_of_others_out_of_the_store(self):
        store = '[store]\nmax_bytes = "40MiB"\nmin_free = "0%"\n'
        larder = LarderAmongStrangers(self.world, {"reg.test": self.registry.url}, self.stranger, store)
        self.assertEqual(Containerd(self.world, larder).cri_pull(NAME), self.pushed["config amd64"])
        for _ in range(80):
            content = os.urandom(1_000_000)
            digest = self.stranger.put(content)
            got = run("sh", "-c", f"curl -sf 'http://{larder.address}/v2/team/evil/blobs/{digest}?ns={STRANGERS[0]}' | sha256sum")
            self.assertEqual("sha256:" + got.split()[0], digest)
        self.registry.forget()
        self.assertEqual(Containerd(self.world, larder).cri_pull(NAME), self.pushed["config amd64"])
        blobs = [line for line in self.registry.requests() if "/blobs/" in line]
        self.assertEqual(blobs, [], "everything of the image was still in the store")
