"""The programs of the end-to-end tests, each started in directories of its own and stopped at the end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import cri

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WAIT = 60
PROGRAM = os.environ.get("LARDER", os.path.join(ROOT, "target/debug/larder"))


def run(*command, stdin=None):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout + (done.stderr if command[0] == "promtool" else "")).strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    """Whether a server answers at this URL with a success."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


class World:
    """A directory and the processes in it."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="larder-e2e-")
        self.processes, self.count = [], 0

    def directory(self, name):
        self.count += 1
        path = os.path.join(self.root, f"{name}{self.count}")
        os.makedirs(path)
        return path

    def start(self, name, *command):
        with open(os.path.join(self.root, f"{name}.log"), "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def log(self, name):
        with open(os.path.join(self.root, f"{name}.log"), encoding="utf-8", errors="replace") as log:
            return log.read()

    def wait_for(self, is_ready, name):
        until = time.monotonic() + WAIT
        while not is_ready():
            if time.monotonic() > until:
                raise AssertionError(f"{name} is not ready:\n{self.log(name)}")
            time.sleep(0.02)

    def wait_for_port(self, port, name):
        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0
        self.wait_for(listens, name)

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        with open("/proc/mounts", encoding="utf-8") as mounts:
            inside = [line.split()[1] for line in mounts if self.root in line.split()[1]]
        for mount in reversed(inside):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.root, ignore_errors=True)


class Registry:
    """Debian's docker-registry; `auth` is the section of its configuration with that name."""

    def __init__(self, world, auth=""):
        self.world, self.port = world, free_port()
        self.address, self.url = f"127.0.0.1:{self.port}", f"http://127.0.0.1:{self.port}"
        directory = world.directory("registry")
        self.name = os.path.basename(directory)
        self.config = config = os.path.join(directory, "config.yml")
        with open(config, "w", encoding="utf-8") as file:
            file.write("version: 0.1\nlog: {accesslog: {disabled: false}, level: warn}\n"
                       f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
                       f"http: {{addr: {self.address}}}\n{auth}")
        self.process = world.start(self.name, "docker-registry", "serve", config)
        world.wait_for_port(self.port, self.name)
        self.forgotten = 0

    def all_requests(self):
        """Access log lines of reads, from after the image was pushed."""
        lines = [line for line in self.world.log(self.name).splitlines() if '"GET /v2/' in line or '"HEAD /v2/' in line]
        return [line for line in lines if "larder/" in line or "containerd/" in line]

    def requests(self):
        return self.all_requests()[self.forgotten:]

    def forget(self):
        self.forgotten = len(self.all_requests())

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=15)


class Larder:
    """The daemon that cargo built."""

    def __init__(self, world, registries, more="", default="reg.test"):
        self.world = world
        self.port, self.admin_port = free_port(), free_port()
        self.address, self.admin = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.admin_port}"
        directory = world.directory("larder")
        self.name, self.store = os.path.basename(directory), os.path.join(directory, "store")
        self.config = os.path.join(directory, "larder.toml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nlisten = ["{self.address}"]\nstate = "{directory}"\ndefault_registry = "{default}"\n'
                       f'[admin]\nlisten = "{self.admin}"\nsocket = "{directory}/larder.sock"\n')
            for host, url in registries.items():
                file.write(f'[[registry]]\nhost = "{host}"\nendpoints = ["{url}"]\n')
            file.write(more)
            if "[store]" not in more:
                # The machine that runs the tests may be nearly full.
                file.write('\n[store]\nmin_free = "0%"\n')
        self.start()

    def start(self):
        self.process = self.world.start(self.name, PROGRAM, "serve", "--config", self.config)
        # The port is bound before the store is opened and the control socket is there.
        self.world.wait_for(lambda: answers(f"http://{self.admin}/readyz"), self.name)

    def stop(self):
        self.process.terminate()
        if self.process.wait(timeout=40) != 0:
            raise AssertionError(self.world.log(self.name))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.stop()
        self.start()

    def command(self, *words):
        """One of the daemon's own commands; returns what it printed."""
        return run(PROGRAM, "--config", self.config, *words)


class Containerd:
    """Debian's containerd with its CRI, pulling through Larder; `upstreams` are what it may fall back to, and
    `certs` a directory of hosts.toml files that `larder setup` or the test wrote."""

    def __init__(self, world, larder, upstreams=None, certs=None):
        directory = world.directory("containerd")
        self.socket, self.world = os.path.join(directory, "c.sock"), world
        given, certs = certs, certs or os.path.join(directory, "certs.d")
        # Without an upstream to fall back to, Larder is the last host too: nothing can bypass it.
        hosts = [("_default", f'server = "http://{larder.address}"\n')] if not upstreams else [(h, f'server = "{u}"\n') for h, u in upstreams.items()]
        for host, server in [] if given else hosts:
            os.makedirs(os.path.join(certs, host))
            with open(os.path.join(certs, host, "hosts.toml"), "w", encoding="utf-8") as file:
                file.write(f'{server}[host."http://{larder.address}"]\n  capabilities = ["pull", "resolve"]\n'
                           '  dial_timeout = "1s"\n')
        config = os.path.join(directory, "config.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
                       f'[grpc]\n  address = "{self.socket}"\n'
                       '[plugins."io.containerd.grpc.v1.cri"]\n  stream_server_port = "0"\n'
                       '  [plugins."io.containerd.grpc.v1.cri".containerd]\n    snapshotter = "native"\n'
                       f'  [plugins."io.containerd.grpc.v1.cri".registry]\n    config_path = "{certs}"\n')
        self.certs, name = certs, os.path.basename(directory)
        world.start(name, "containerd", "--config", config)
        self.ctr = ("ctr", "--address", self.socket)
        version = [*self.ctr, "version"]
        world.wait_for(lambda: subprocess.run(version, capture_output=True, check=False).returncode == 0, name)

    def cri_pull(self, name, account=None):
        """`PullImage`, as kubelet calls it for a pod, with the pod's pull secret if any; returns the image's
        identifier."""
        return cri.pull_image(self.socket, name, account)

    def start_cri_pull(self, name):
        def pull():
            try:
                self.cri_pull(name)
            except Exception:  # noqa: BLE001 - whatever becomes of it, the next pull counts
                pass
        thread = threading.Thread(target=pull)
        thread.start()
        return thread

    def ctr_pull(self, name, *more):
        run(*self.ctr, "images", "pull", "--snapshotter", "native", "--hosts-dir", self.certs, *more, name)

    def ctr_remove(self, name):
        """Removes the image and its content."""
        run(*self.ctr, "images", "rm", "--sync", name)

    def ctr_digest(self, name):
        listed = run(*self.ctr, "images", "ls", f"name=={name}")
        return next(word for word in listed.split() if word.startswith("sha256:"))

    def ctr_run(self, name, *command):
        return run(*self.ctr, "run", "--rm", "--snapshotter", "native", name, f"run{time.monotonic_ns()}", *command)


class Docker:
    """Debian's Docker with a directory as its `/etc/docker`, in a mount namespace of its own and without a network, so
    that it does not change the machine's Docker."""

    def __init__(self, world, etc):
        directory = world.directory("docker")
        self.name, self.socket = os.path.basename(directory), f"unix://{directory}/docker.sock"
        self.no_login = world.directory("no-login")
        world.start(self.name, "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/docker && exec dockerd "$@"', etc,
                    "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid",
                    "--host", self.socket, "--iptables=false", "--ip6tables=false", "--bridge=none",
                    "--storage-driver=vfs")
        # `docker info` exits with 0 while no daemon answers; `version` does not.
        version = ["docker", "--host", self.socket, "version"]
        world.wait_for(lambda: subprocess.run(version, capture_output=True, check=False).returncode == 0, self.name)

    def __call__(self, *words):
        return run("docker", "--host", self.socket, *words)

    def pull(self, name, login=None):
        """Pulls an image with the login in the directory `login`, if any, and returns its identifier."""
        self("--config", login or self.no_login, "pull", "--quiet", name)
        return self("image", "inspect", "--format", "{{.Id}}", name)
