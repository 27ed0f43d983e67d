"""A store on a filesystem whose server does not answer any more, as of NFS or of a device behind a network: no call to it
ends, of those that read too. Here the server is a program (bindfs) that is stopped and goes on later.
"""

import collections
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

from disk import MIB, OnDisk, Upstream
from programs import PROGRAM

# What a pull may wait: 5 s until it is known that the disk hangs, and what a busy machine adds.
ONCE = 15
KNOWN = 4


class Counting(Upstream):
    """An upstream that counts what it sends."""

    def __init__(self):
        super().__init__()
        self.sent = collections.Counter()
        # Seconds before each MiB.
        self.pause = 0

    def send(self, out, body):
        self.sent["requests"] += 1
        self.sent["bytes"] += len(body)
        for at in range(0, len(body), MIB):
            time.sleep(self.pause)
            out.write(body[at:at + MIB])


class DeadServer(OnDisk):
    """Each test has a filesystem with a server of its own under the store."""

    def setUp(self):
        super().setUp()
        self.upstream = Counting()
        self.addCleanup(self.upstream.server.shutdown)
        if not shutil.which("bindfs"):
            self.fail("bindfs is missing: run make tools")
        behind, self.at = self.world.directory("behind"), self.world.directory("disk")
        # Without a cache of its own, so that what is not in memory is asked for each time.
        self.server = subprocess.Popen(["bindfs", "-f", behind, self.at], stderr=subprocess.DEVNULL)
        self.addCleanup(self.server_ends)
        self.world.wait_for(lambda: os.path.ismount(self.at), "bindfs")

    def server_ends(self):
        self.server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", self.at], capture_output=True, check=False)
        self.server.kill()
        self.server.wait()

    def dies(self, forgets=True):
        # What is in the page cache could be sent all the same.
        if forgets:
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as caches:
                caches.write("3")
        self.server.send_signal(signal.SIGSTOP)

    def comes_back(self):
        self.server.send_signal(signal.SIGCONT)

    def within(self, seconds, work):
        begun = time.monotonic()
        done = work()
        self.assertLess(time.monotonic() - begun, seconds)
        return done

    def at_once(self, larder, digests):
        codes = []
        pulls = [threading.Thread(target=lambda digest=digest: codes.append(self.get(larder, digest)))
                 for digest in digests]
        for pull in pulls:
            pull.start()
        for pull in pulls:
            pull.join()
        self.assertEqual(set(codes), {0}, self.world.log(larder.name)[-2000:])

    def answer(self, larder, path):
        return urllib.request.urlopen(f"http://{larder.admin}{path}", timeout=8).read().decode()

    def test_a_store_whose_server_is_away_fails_no_pull(self):
        larder = self.daemon()
        stored = [self.upstream.put(size) for size in (1000, MIB, 8 * MIB)]
        for digest in stored:
            self.is_pulled(larder, digest)
        self.becomes(larder, "larder_flights", 0)
        self.becomes(larder, "larder_store_blobs", 3)
        cold = self.upstream.put(3 * MIB)
        self.dies()
        # More clients than the daemon has threads that serve, of blobs that it has open and of others.
        self.within(ONCE, lambda: self.at_once(larder, [*stored, cold] * 5))
        self.upstream.sent.clear()
        for digest in [*stored, cold]:
            self.within(KNOWN, lambda digest=digest: self.is_pulled(larder, digest))
        self.assertLessEqual(self.upstream.sent["requests"], 4)
        # Slow enough for ten clients to come before its first bytes do.
        self.upstream.sent.clear()
        self.upstream.pause = 1
        self.at_once(larder, [stored[2]] * 10)
        self.upstream.pause = 0
        self.assertLess(self.upstream.sent["bytes"], 3 * 8 * MIB, "they share a download")
        # A client that looks is told, and waits for nothing.
        self.assertEqual(self.metric(larder, "larder_store_disk_hanging"), 1.0)
        self.assertIn("hangs", self.within(KNOWN, lambda: self.answer(larder, "/readyz")))
        self.assertIn('"disk_hanging": true', self.within(KNOWN, lambda: self.answer(larder, "/v1/status")))
        self.assertIn("its disk hangs", self.within(KNOWN, lambda: larder.command("status")))
        self.comes_back()
        self.becomes(larder, "larder_store_disk_hanging", 0.0)
        self.upstream.sent.clear()

        def come_from_the_store():
            self.upstream.sent.clear()
            for digest in stored:
                self.is_pulled(larder, digest)
            return self.upstream.sent["requests"] == 0
        self.world.wait_for(come_from_the_store, larder.name)
        self.assertEqual(self.verified(larder), 3 if not self.is_stored(larder, cold) else 4)
        self.assertEqual(self.metric(larder, "larder_store_quarantined_total"), 0.0, "no sound blob is set aside")

    def is_stored(self, larder, digest):
        return os.path.exists(f"{larder.store}/blobs/sha256/{digest[7:]}")

    def test_a_server_that_dies_while_a_blob_is_downloaded_fails_no_pull(self):
        larder = self.daemon()
        self.is_pulled(larder, self.upstream.put(1000))
        digest, codes = self.upstream.put(24 * MIB), []
        limited = ("--limit-rate", "6M")
        pulls = [threading.Thread(target=lambda: codes.append(self.get(larder, digest, *limited))) for _ in range(3)]
        for pull in pulls:
            pull.start()
        time.sleep(1)
        self.assertEqual(codes, [], "they are under way")
        # The kernel would wait for pages that are about to be sent (docs/failure-modes.md).
        self.dies(forgets=False)
        for pull in pulls:
            pull.join()
        # One whose next bytes were in the socket's queue, as pages that are gone, may be cut off (18), and asks again.
        self.assertLessEqual(set(codes), {0, 18}, self.world.log(larder.name)[-2000:])
        self.assertIn(0, codes)
        self.within(ONCE, lambda: self.is_pulled(larder, digest))
        self.comes_back()

    def test_commands_end_while_the_server_is_away(self):
        larder = self.daemon()
        stored = self.upstream.put(MIB)
        self.is_pulled(larder, stored)
        self.becomes(larder, "larder_flights", 0)
        self.dies()
        self.within(ONCE, lambda: self.is_pulled(larder, stored))
        for command in (["gc"], ["rm", "reg.test/team/app:v1"], ["unpin", "reg.test/team/app:v1"],
                        ["revoke", "reg.test/team/app"], ["ls"]):
            words = [PROGRAM, "--config", larder.config, *command]
            # With an error or without: it ends.
            self.within(ONCE * 2 if command == ["gc"] else ONCE,
                        lambda words=words: subprocess.run(words, capture_output=True, timeout=60, check=False))
        self.comes_back()
