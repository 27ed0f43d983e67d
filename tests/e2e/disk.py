"""A disk that is full, has no inodes left, turns read-only, fails a system call, or loses its power; a daemon that is
killed. Real filesystems on tmpfs and loop devices; the system calls are made to fail by strace.

Short by default; E2E_LONG=N makes the loops N times as long, and a store of 2,000 blobs one of N times as many, a million
at most (`make test-long`).
"""

import fcntl
import glob
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from programs import PROGRAM, Larder, World, run

LONG = int(os.environ.get("E2E_LONG", "1"))
MIB = 1024 * 1024


class Upstream:
    """A registry of blobs alone, with ranges."""

    def __init__(self):
        self.blobs, outer = {}, self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = outer.blobs.get(self.path.rsplit("/", 1)[-1])
                if body is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                self.send_response(206 if "Range" in self.headers else 200)
                if "Range" in self.headers:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if self.command == "GET":
                    try:
                        outer.send(self.wfile, body[start:])
                    except OSError:
                        pass
                return None

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A daemon that is killed resets its connections; that is expected.
        self.server.handle_error = lambda *_: None
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def send(self, out, body):
        out.write(body)

    def put(self, size):
        body = random.randbytes(size)
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.blobs[digest] = body
        return digest


class OnDisk(unittest.TestCase):
    """Each test has a filesystem of its own under the store."""

    def setUp(self):
        self.world, self.upstream = World(), Upstream()
        self.addCleanup(self.world.end)
        self.addCleanup(self.upstream.server.shutdown)

    def on(self, *mount):
        """A daemon whose store is on a filesystem that is mounted with these arguments."""
        self.at = self.world.directory("disk")
        run("mount", *mount, self.at)
        return self.daemon()

    def on_new(self, kind, mib, **settings):
        """A daemon whose store is on a new filesystem of this kind and size."""
        if not shutil.which(f"mkfs.{kind}"):
            self.fail(f"mkfs.{kind} is missing: run make tools")
        disk = f"{self.world.root}/{kind}.{mib}.img"
        with open(disk, "wb") as file:
            file.truncate(mib * MIB)
        run(f"mkfs.{kind}", "-q", disk)
        self.at = self.world.directory("disk")
        run("mount", "-o", "loop,errors=remount-ro" if kind == "ext4" else "loop", disk, self.at)
        self.disk = disk
        return self.daemon(**settings)

    def power_is_cut(self, larder):
        """Nothing reaches the disk from now on; then the machine starts again."""
        self.shut_down()
        larder.kill()
        run("umount", self.at)
        run("mount", "-o", "loop", self.disk, self.at)

    def turn_read_only(self):
        """As ext4 does when it finds its own data wrong."""
        device = os.path.basename(run("findmnt", "-no", "SOURCE", self.at))
        with open(f"/sys/fs/ext4/{device}/trigger_fs_error", "w", encoding="ascii") as trigger:
            trigger.write("a test")

    def shut_down(self):
        """FS_IOC_SHUTDOWN, without flushing the journal."""
        directory = os.open(self.at, os.O_RDONLY)
        fcntl.ioctl(directory, 0x8004587D, struct.pack("I", 2))
        os.close(directory)

    def daemon(self, min_free="0%", upstream=None, max_bytes="100%"):
        # By default rights are proved anew after five minutes, and long runs take longer.
        larder = Larder(self.world, {"reg.test": upstream or self.upstream.url},
                        f'[store]\npath = "{self.at}/store"\nmin_free = "{min_free}"\nmax_bytes = "{max_bytes}"\n'
                        '[access]\ngrant_ttl = "1d"\n')
        larder.store = f"{self.at}/store"
        return larder

    def get(self, larder, digest, *options):
        """Pulls the blob and checks it; returns curl's exit code if the body is not complete."""
        path = f"http://{larder.address}/v2/team/app/blobs/{digest}?ns=reg.test"
        done = subprocess.run(["curl", "-sf", "--max-time", "60", *options, path], capture_output=True, check=False)
        if done.returncode == 0:
            self.assertEqual("sha256:" + hashlib.sha256(done.stdout).hexdigest(), digest, "a complete body is right")
        return done.returncode

    def is_pulled(self, larder, digest):
        self.assertEqual(self.get(larder, digest), 0, self.world.log(larder.name)[-2000:])

    def metric(self, larder, name):
        page = run("curl", "-sf", f"http://{larder.admin}/metrics")
        return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " ")), 0.0)

    def becomes(self, larder, name, value):
        for _ in range(300):
            if self.metric(larder, name) == value:
                return
            time.sleep(0.1)
        self.fail(f"{name} is {self.metric(larder, name)} and not {value}")

    def verified(self, larder):
        found = json.loads(larder.command("verify", "--json"))
        self.assertEqual(found["damaged"], [])
        return found["sound"]

    def upstream_is_not_asked_for(self, larder, digests):
        kept, self.upstream.blobs = self.upstream.blobs, {}
        for digest in digests:
            self.is_pulled(larder, digest)
        self.upstream.blobs = kept


class Disk(OnDisk):
    """What the disk does to a store."""

    # -- a disk that stores nothing more --------------------------------------------------------------------------------

    def test_a_full_disk_fails_no_pull(self):
        larder = self.on("-t", "tmpfs", "-o", "size=16m", "tmpfs")
        small, large = self.upstream.put(2 * MIB), self.upstream.put(8 * MIB)
        self.is_pulled(larder, small)
        self.becomes(larder, "larder_flights", 0)
        with open(f"{self.at}/filler", "wb") as file:
            file.write(bytes(10 * MIB))
        # The free space that the filesystem reports is used up before the blob is written.
        filler = open(f"{self.at}/late", "wb")
        self.addCleanup(filler.close)
        self.is_pulled(larder, large)
        self.is_pulled(larder, small)
        os.remove(f"{self.at}/filler")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.is_pulled(larder, large)
            self.becomes(larder, "larder_flights", 0)
            if os.path.exists(f"{larder.store}/blobs/sha256/{large[7:]}"):
                break
            time.sleep(0.5)
        self.assertTrue(os.path.exists(f"{larder.store}/blobs/sha256/{large[7:]}"), "caching goes on by itself")
        self.verified(larder)

    def test_a_disk_that_fills_up_within_a_blob_fails_no_pull(self):
        # The kernel counts inodes and pages of the tree too, so that the last bytes do not fit.
        larder = self.on("-t", "tmpfs", "-o", "size=8m", "tmpfs")
        os.makedirs(f"{larder.store}/index", exist_ok=True)
        for size in (8 * MIB - 300_000, 8 * MIB - 200_000, 8 * MIB - 100_000):
            self.is_pulled(larder, self.upstream.put(size))
        self.is_pulled(larder, self.upstream.put(12 * MIB))
        self.becomes(larder, "larder_flights", 0)
        self.assertEqual(os.listdir(f"{larder.store}/ingest"), [])

    def test_without_inodes_no_pull_fails(self):
        larder = self.on("-t", "tmpfs", "-o", "size=64m,nr_inodes=60", "tmpfs")
        for _ in range(60):
            self.is_pulled(larder, self.upstream.put(1000))
        self.assertEqual(self.metric(larder, "larder_store_caching"), 1.0, "it is full, and nothing failed")
        self.becomes(larder, "larder_store_capacity_bytes", 0.0)
        self.assertGreater(os.statvfs(self.at).f_favail, 0, "the last inodes are left to others")
        self.assertIn("inodes", larder.command("status"))
        self.verified(larder)

    def test_files_of_others_that_take_the_inodes_make_the_store_give_way(self):
        larder = self.on("-t", "tmpfs", "-o", "size=64m,nr_inodes=400", "tmpfs")
        for _ in range(30):
            self.is_pulled(larder, self.upstream.put(1000))
        self.becomes(larder, "larder_store_blobs", 30)
        others = f"{self.at}/others"
        os.mkdir(others)
        for number in range(os.statvfs(self.at).f_favail - 4):
            with open(f"{others}/{number}", "wb"):
                pass
        # 24 are 6 %: each blob gives two back.
        self.world.wait_for(lambda: os.statvfs(self.at).f_favail >= 24, larder.name)
        self.assertGreater(self.metric(larder, "larder_store_blobs"), 5, "no more than what is needed")
        self.is_pulled(larder, self.upstream.put(1000))
        shutil.rmtree(others)
        digest = self.upstream.put(1000)
        self.is_pulled(larder, digest)
        self.becomes(larder, "larder_flights", 0)
        self.upstream_is_not_asked_for(larder, {digest})

    def test_a_disk_that_turns_read_only_serves_what_it_has_and_the_rest_passes_through(self):
        larder = self.on_new("ext4", 64)
        warm, cold = self.upstream.put(MIB), self.upstream.put(MIB)
        self.is_pulled(larder, warm)
        self.becomes(larder, "larder_flights", 0)
        self.turn_read_only()
        with self.assertRaises(OSError):
            open(f"{self.at}/probe", "wb")
        for _ in range(3):
            self.is_pulled(larder, cold)
            self.is_pulled(larder, warm)
        self.assertEqual(self.metric(larder, "larder_store_caching"), 0.0)
        for ending in (larder.kill, larder.stop):
            ending()
            larder.start()
            self.assertIn("read-only", self.world.log(larder.name))
            self.upstream_is_not_asked_for(larder, {warm})
            self.is_pulled(larder, cold)

    def test_system_calls_that_fail_fail_no_pull_and_leave_nothing_half_done(self):
        for call, error in (("fdatasync", "EIO"), ("fsync", "EIO"), ("rename", "ENOSPC"), ("rename", "EXDEV")):
            with self.subTest(call=call, error=error):
                larder = self.on("-t", "tmpfs", "-o", "size=64m", "tmpfs")
                self.is_pulled(larder, self.upstream.put(1000))
                self.becomes(larder, "larder_flights", 0)
                trace = self.world.start("strace", "strace", "-f", "-qq", "-o", f"{self.world.root}/trace", "-e", f"trace={call}",
                                         "-e", f"inject={call}:error={error}:when=1..3", "-p", str(larder.process.pid))
                self.world.wait_for(lambda: self.is_traced(larder.process.pid), "strace")
                digests = [self.upstream.put(300_000) for _ in range(4)]
                for digest in digests:
                    self.is_pulled(larder, digest)
                # Blobs are stored after they were sent.
                self.becomes(larder, "larder_flights", 0)
                trace.terminate()
                trace.wait(timeout=15)
                with open(f"{self.world.root}/trace", encoding="utf-8") as file:
                    self.assertIn("INJECTED", file.read(), "it did fail")
                # A blob has its name before its directory is synced.
                said = "a power cut may lose it" if call == "fsync" else "could not be stored"
                self.assertIn(said, self.world.log(larder.name))
                self.verified(larder)
                larder.kill()
                larder.start()
                self.verified(larder)
                for digest in digests:
                    self.is_pulled(larder, digest)
                larder.stop()

    @staticmethod
    def is_traced(pid):
        for status in glob.glob(f"/proc/{pid}/task/*/status"):
            try:
                with open(status, encoding="utf-8") as file:
                    if "TracerPid:\t0\n" in file.read():
                        return False
            except OSError:
                continue  # A thread that has ended.
        return True

    # -- killed, and without power ---------------------------------------------------------------------------------------

    def test_killed_in_the_middle_of_pulls_it_starts_again_and_nothing_is_wrong(self):
        larder = self.on("-t", "tmpfs", "-o", "size=256m", "tmpfs")
        digests = [self.upstream.put(random.randint(1, 3 * MIB)) for _ in range(20)]
        for _ in range(15 * LONG):
            pulls = [threading.Thread(target=self.get, args=(larder, d)) for d in random.sample(digests, 8)]
            for pull in pulls:
                pull.start()
            time.sleep(random.uniform(0, 0.15))
            larder.kill()
            for pull in pulls:
                pull.join()
            larder.start()
            self.assertEqual(os.listdir(f"{larder.store}/ingest"), [])
            self.verified(larder)
        for digest in digests:
            self.is_pulled(larder, digest)

    def test_after_a_power_cut_what_was_stored_is_there_and_nothing_else(self):
        for kind in ("ext4", "xfs"):
            with self.subTest(kind=kind):
                self.power_cut(kind)

    def power_cut(self, kind):
        # Large enough for every blob, so that none is evicted.
        larder, stored = self.on_new(kind, 400 + 40 * LONG), set()
        for _ in range(3 * LONG):
            for _ in range(6):
                digest = self.upstream.put(random.randint(1, MIB))
                self.is_pulled(larder, digest)
                stored.add(digest)
            # A blob is durable once the daemon has no download under way.
            self.becomes(larder, "larder_flights", 0)
            pulls = [threading.Thread(target=self.get, args=(larder, self.upstream.put(2 * MIB))) for _ in range(4)]
            for pull in pulls:
                pull.start()
            time.sleep(random.uniform(0, 0.1))
            self.power_is_cut(larder)
            for pull in pulls:
                pull.join()
            larder.start()
            self.verified(larder)
            self.upstream_is_not_asked_for(larder, stored)
        larder.stop()

    def test_a_power_cut_right_after_a_start_does_not_bring_back_the_marker_of_the_clean_stop(self):
        for kind in ("ext4", "xfs"):
            with self.subTest(kind=kind):
                larder = self.on_new(kind, 401)
                self.is_pulled(larder, self.upstream.put(1000))
                larder.stop()
                marker = f"{larder.store}/index/clean"
                self.assertTrue(os.path.exists(marker), "the stop was clean")
                run("sync", "-f", self.at)
                larder.start()
                self.power_is_cut(larder)
                self.assertFalse(os.path.exists(marker), "it would vouch for rows that have changed since")

    def test_a_store_of_very_many_blobs_at_its_budget_serves_and_counts_through_kills(self):
        count, size = min(2000 * LONG, 1_000_000), 1024
        # ext4 has an inode for each 16 KiB; the file below it takes no more of the disk than what is written.
        larder = self.on_new("ext4", 200 + count * 20 // 1024, max_bytes=str(count * size))
        larder.stop()
        for number in range(count):
            body = number.to_bytes(8, "big") * (size // 8)
            with open(f"{larder.store}/blobs/sha256/{hashlib.sha256(body).hexdigest()}", "wb") as file:
                file.write(body)
        larder.start()
        # While nothing is asked for, a tenth is evicted ahead of need.
        self.becomes(larder, "larder_store_blobs", count * 9 // 10)
        for number in range(3 * LONG):
            # Each is a quarter of the smallest store: hundreds of blobs go for it.
            digests = [self.upstream.put(random.randint(1, 500_000)) for _ in range(4)]
            pulls = [threading.Thread(target=self.is_pulled, args=(larder, digest)) for digest in digests]
            for pull in pulls:
                pull.start()
            for pull in pulls:
                pull.join()
            for digest in digests:
                del self.upstream.blobs[digest]
            (larder.kill if number % 2 else larder.stop)()
            larder.start()
        self.becomes(larder, "larder_flights", 0)
        self.assertLess(self.metric(larder, "larder_store_bytes"), count * size + 1)
        self.becomes(larder, "larder_store_blobs", len(os.listdir(f"{larder.store}/blobs/sha256")))

    def test_verify_finds_damage_and_repairs_it(self):
        larder = self.on("-t", "tmpfs", "-o", "size=64m", "tmpfs")
        digest = self.upstream.put(MIB)
        self.is_pulled(larder, digest)
        self.becomes(larder, "larder_flights", 0)
        with open(f"{larder.store}/blobs/sha256/{digest[7:]}", "r+b") as file:
            file.seek(500_000)
            file.write(b"damage")
        found = subprocess.run([PROGRAM, "--config", larder.config, "verify"], capture_output=True, text=True, check=False)
        self.assertEqual(found.returncode, 1)
        self.assertIn(digest, found.stdout)
        self.assertIn("1 set aside", larder.command("verify", "--repair"))
        self.is_pulled(larder, digest)
        self.becomes(larder, "larder_flights", 0)
        self.assertEqual(self.verified(larder), 1)
