"""A node's disk that is nearly full, that fills up, turns read-only and hangs while real clients pull: no pull fails, and
none costs its registry more than it would without Larder. On ext4 and on XFS.
"""

import hashlib
import os
import socket
import subprocess
import threading
import time

import image
from disk import MIB, OnDisk, Upstream
from programs import Containerd, Registry, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"
KINDS = ("ext4", "xfs")


class Halting(Upstream):
    """An upstream that sends half of a body, and the rest when it is told to."""

    def __init__(self):
        super().__init__()
        self.half_sent, self.go_on = threading.Event(), threading.Event()

    def send(self, out, body):
        half = len(body) // 2
        out.write(body[:half])
        out.flush()
        self.half_sent.set()
        self.go_on.wait(60)
        out.write(body[half:])


class FullDisk(OnDisk):
    """Each test has filesystems of its own under the store."""

    def fill(self, keep_free):
        """Writes a file until so many bytes are free, or as many as can be written."""
        stat = os.statvfs(self.at)
        size = max(stat.f_bavail * stat.f_frsize - keep_free, 0)
        with open(f"{self.at}/filler", "ab") as file:
            try:
                for _ in range(size // MIB + (1 if keep_free == 0 else 0)):
                    file.write(bytes(MIB))
                    file.flush()
            except OSError:
                pass
            os.fsync(file.fileno())

    # -- over min_free ----------------------------------------------------------------------------------------------------

    def cost(self, registry, pull):
        """Requests and bytes that a pull costs the registry."""
        registry.forget()
        pull()
        lines = registry.requests()
        # Combined log format: the bytes come after the status.
        return len(lines), sum(int(line.split('" ')[1].split()[1]) for line in lines)

    def test_over_min_free_a_pull_costs_no_more_than_without_larder(self):
        registry = Registry(self.world)
        image.push(self.world, registry, REPOSITORY, "v1")
        direct = self.world.directory("certs")
        os.makedirs(f"{direct}/reg.test")
        with open(f"{direct}/reg.test/hosts.toml", "w", encoding="utf-8") as file:
            file.write(f'server = "{registry.url}"\n[host."{registry.url}"]\n  capabilities = ["pull", "resolve"]\n')
        alone = Containerd(self.world, registry, certs=direct)
        requests, sent = self.cost(registry, lambda: alone.ctr_pull(NAME))
        self.assertGreater(sent, 3 * MIB)
        for kind in KINDS:
            with self.subTest(kind=kind):
                larder = self.on_new(kind, 402, min_free="50%", upstream=registry.url)
                self.fill(keep_free=150 * MIB)
                self.assertIn("min_free", larder.command("status"))
                clients = [Containerd(self.world, larder) for _ in range(3)]
                for client in clients[:2]:
                    seen = self.cost(registry, lambda client=client: client.ctr_pull(NAME))
                    self.assertLessEqual(seen[0], requests)
                    self.assertLessEqual(seen[1], sent)
                for client in clients:
                    client.ctr_remove(NAME)

                def at_once(clients=clients):
                    pulls = [threading.Thread(target=client.ctr_pull, args=(NAME,)) for client in clients]
                    for pull in pulls:
                        pull.start()
                    for pull in pulls:
                        pull.join()
                seen = self.cost(registry, at_once)
                self.assertLessEqual(seen[0], 3 * requests)
                self.assertLessEqual(seen[1], 3 * sent)
                for client in clients:
                    self.assertEqual(client.ctr_digest(NAME), alone.ctr_digest(NAME))
                stored = [file for file in os.listdir(f"{larder.store}/blobs/sha256")]
                self.assertEqual(stored, [], "nothing is stored beyond min_free")
                # Room again: the next pull is stored, and the one after it costs no content.
                os.remove(f"{self.at}/filler")
                clients[0].ctr_remove(NAME)
                clients[0].ctr_pull(NAME)
                self.becomes(larder, "larder_flights", 0)
                clients[1].ctr_remove(NAME)
                self.assertLess(self.cost(registry, lambda: clients[1].ctr_pull(NAME))[1], MIB)
                larder.stop()

    # -- in mid-flight -----------------------------------------------------------------------------------------------------

    def in_mid_flight(self, kind, happens):
        """Something happens to the disk while a blob is downloaded and three clients read it."""
        self.upstream = Halting()
        self.addCleanup(self.upstream.server.shutdown)
        larder = self.on_new(kind, 403)
        self.upstream.go_on.set()
        warm, cold = self.upstream.put(MIB), self.upstream.put(24 * MIB)
        self.is_pulled(larder, warm)
        self.becomes(larder, "larder_flights", 0)
        self.upstream.half_sent.clear()
        self.upstream.go_on.clear()
        codes = []
        pulls = [threading.Thread(target=lambda: codes.append(self.get(larder, cold))) for _ in range(3)]
        for pull in pulls:
            pull.start()
        self.assertTrue(self.upstream.half_sent.wait(60))
        happens()
        self.upstream.go_on.set()
        for pull in pulls:
            pull.join()
        self.assertEqual(set(codes), {0}, self.world.log(larder.name)[-2000:])
        for digest in (warm, cold):
            self.is_pulled(larder, digest)
        return larder

    def test_a_disk_that_fills_up_in_mid_flight_fails_no_pull(self):
        for kind in KINDS:
            with self.subTest(kind=kind):
                larder = self.in_mid_flight(kind, lambda: self.fill(keep_free=0))
                os.remove(f"{self.at}/filler")
                self.verified(larder)
                larder.stop()

    def test_a_disk_that_turns_read_only_in_mid_flight_fails_no_pull(self):
        larder = self.in_mid_flight("ext4", self.turn_read_only)
        self.assertEqual(self.metric(larder, "larder_store_caching"), 0.0)

    def test_a_filesystem_that_shuts_down_in_mid_flight_fails_no_pull(self):
        # What XFS does where ext4 turns read-only: every call fails from then on, reading too. What its client has been
        # sent cannot be read back and hashed any more.
        larder = self.in_mid_flight("xfs", self.shut_down)
        self.assertEqual(self.metric(larder, "larder_store_caching"), 0.0)

    def reads_steadily(self, larder, digest, size):
        """Whether a client that takes 4 MB/s gets the blob, complete and right. Its buffer is small, so that most
        of the blob is still to be sent when the filesystem shuts down."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB // 16)
        client.settimeout(60)
        host, port = larder.address.split(":")
        with client:
            client.connect((host, int(port)))
            path = f"/v2/team/app/blobs/{digest}?ns=reg.test"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {larder.address}\r\nConnection: close\r\n\r\n".encode())
            with client.makefile("rb", buffering=0) as answer:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += answer.read(1)
                body = bytearray()
                while part := answer.read(MIB // 16):
                    body += part
                    time.sleep(len(part) / 4e6)
        return len(body) == size and "sha256:" + hashlib.sha256(body).hexdigest() == digest

    def test_a_filesystem_that_shuts_down_while_stored_blobs_are_sent_fails_no_pull(self):
        # What was handed to a connection as a range of a file cannot be sent from there any more either.
        larder = self.on_new("xfs", 404)
        stored = self.upstream.put(24 * MIB)
        self.is_pulled(larder, stored)
        self.becomes(larder, "larder_flights", 0)
        wells = []
        pulls = [threading.Thread(target=lambda: wells.append(self.reads_steadily(larder, stored, 24 * MIB)))
                 for _ in range(3)]
        for pull in pulls:
            pull.start()
        time.sleep(1)
        self.assertEqual(wells, [], "they are under way")
        self.shut_down()
        for pull in pulls:
            pull.join()
        log = self.world.log(larder.name)
        self.assertEqual(wells, [True, True, True], log[-2000:])
        self.assertIn("what was about to be sent", log)

    # -- a disk that hangs -------------------------------------------------------------------------------------------------

    def freeze(self):
        """As for a snapshot: what writes waits until it is over; what is there can be read."""
        run("fsfreeze", "-f", self.at)
        self.addCleanup(self.thaw, self.at)

    def thaw(self, at):
        subprocess.run(["fsfreeze", "-u", at], capture_output=True, check=False)

    def is_stored_again(self, larder, digest):
        """Pulls a blob until it is in the store: after a failure of the disk nothing is stored for ten seconds."""
        path = f"{larder.store}/blobs/sha256/{digest[7:]}"

        def pulled():
            self.is_pulled(larder, digest)
            self.becomes(larder, "larder_flights", 0)
            return os.path.exists(path)
        self.world.wait_for(pulled, larder.name)
        self.assertEqual(os.listdir(f"{larder.store}/ingest"), [], "what was begun while it hung is gone")

    def test_a_filesystem_that_is_frozen_fails_no_pull(self):
        registry = Registry(self.world)
        image.push(self.world, registry, REPOSITORY, "v1")
        for kind in KINDS:
            with self.subTest(kind=kind):
                larder = self.on_new(kind, 405, upstream=registry.url)
                clients = [Containerd(self.world, larder) for _ in range(2)]
                self.freeze()
                for client, seconds in zip(clients, (12, 4)):
                    begun = time.monotonic()
                    client.ctr_pull(NAME)
                    self.assertLess(time.monotonic() - begun, seconds, "the second knows that it hangs")
                self.assertIn("the disk of the store hangs", self.world.log(larder.name))
                self.assertEqual(self.metric(larder, "larder_store_caching"), 0.0)
                self.assertIn("reg.test", larder.command("ls") + larder.command("explain", NAME))
                self.thaw(self.at)
                clients[0].ctr_remove(NAME)
                self.becomes(larder, "larder_flights", 0)

                def is_stored(client=clients[0], larder=larder):
                    client.ctr_pull(NAME)
                    client.ctr_remove(NAME)
                    return os.listdir(f"{larder.store}/blobs/sha256") != []
                self.world.wait_for(is_stored, larder.name)
                larder.stop()

    def test_a_filesystem_that_is_frozen_in_mid_flight_fails_no_pull(self):
        for kind in KINDS:
            with self.subTest(kind=kind):
                larder = self.in_mid_flight(kind, self.freeze)
                self.assertIn("the disk of the store hangs", self.world.log(larder.name))
                self.thaw(self.at)
                self.is_stored_again(larder, self.upstream.put(MIB))
                self.verified(larder)
                larder.stop()
