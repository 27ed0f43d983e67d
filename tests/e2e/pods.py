"""Pods of this node by kubelet's own socket, and what the runtime has by containerd's: the clients of Larder against a gRPC
library and a runtime that are not the tests' own."""

import concurrent.futures
import os
import re
import threading
import unittest

import grpc

import image
from cri import field
from programs import Containerd, Larder, Registry, World, run


def pod(uid, *containers):
    """v1.Pod as kubelet sends it: a container of each image, with its pull policy."""
    metadata = field(1, f"pod-{uid}".encode()) + field(3, b"shop") + field(5, uid.encode())
    spec = b"".join(field(2, field(1, f"c{at}".encode()) + field(2, name.encode()) + field(14, policy.encode()))
                    for at, (name, policy) in enumerate(containers))
    return field(1, metadata) + field(2, spec)


class PodsApi:
    """kubelet's `v1alpha1.Pods` on a socket: lists what there is, and tells what comes."""

    def __init__(self, socket):
        self.pods, self.changed = {}, threading.Condition()
        self.watches, self.ended = 0, False
        same = {"request_deserializer": lambda message: message, "response_serializer": lambda message: message}
        handlers = {"ListPods": grpc.unary_unary_rpc_method_handler(self.list, **same),
                    "WatchPods": grpc.unary_stream_rpc_method_handler(self.watch, **same)}
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1alpha1.Pods", handlers),))
        self.server.add_insecure_port(f"unix:{socket}")
        self.server.start()

    def list(self, _request, _context):
        with self.changed:
            return b"".join(field(1, one) for one in self.pods.values())

    def watch(self, _request, context):
        told = {}
        while context.is_active() and not self.ended:
            with self.changed:
                news = {uid: one for uid, one in self.pods.items() if told.get(uid) != one}
                if not news:
                    self.changed.wait(0.1)
            for uid, one in news.items():
                # ADDED is the default, which protobuf leaves out.
                yield field(2, one)
                told[uid] = one

    def bind(self, uid, *containers):
        with self.changed:
            self.pods[uid] = pod(uid, *containers)
            self.changed.notify_all()

    def stop(self):
        self.ended = True
        self.server.stop(None)


class PodsOfTheNode(unittest.TestCase):
    """The tests run in order."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)

    def metric(self, larder, line):
        page = run("curl", "-sf", f"http://{larder.admin}/metrics")
        found = re.search(rf"(?m)^{re.escape(line)} (\S+)$", page)
        return float(found[1]) if found else 0.0

    def test_what_kubelet_tells_of_is_fetched_unless_containerd_has_it(self):
        world = self.world
        registry = Registry(world)
        for name in ("team/here", "team/cold"):
            image.push(world, registry, name, "v1")
        larder = Larder(world, {"reg.test": registry.url})
        containerd = Containerd(world, larder)
        containerd.cri_pull("reg.test/team/here:v1")
        socket = os.path.join(world.directory("kubelet"), "pods-api.sock")
        with open(larder.config, "a", encoding="utf-8") as file:
            file.write(f'\n[kubernetes]\npods_api = "{socket}"\nruntime_socket = "{containerd.socket}"\n')
        larder.restart()
        # kubelet comes later than Larder, as at a boot.
        kubelet = PodsApi(socket)
        self.addCleanup(kubelet.stop)
        connected = 'larder_kubernetes_source_connected{source="pods_api"}'
        world.wait_for(lambda: self.metric(larder, connected) == 1, larder.name)
        kubelet.bind("a", ("reg.test/team/here:v1", "IfNotPresent"), ("reg.test/team/cold:v1", "IfNotPresent"))
        results = 'larder_kubernetes_fetches_total{{result="{}"}}'.format
        world.wait_for(lambda: self.metric(larder, results("fetched")) == 1, larder.name)
        world.wait_for(lambda: self.metric(larder, results("in_runtime")) == 1, larder.name)
        # What was fetched is pulled although the registry is away.
        registry.stop()
        containerd.cri_pull("reg.test/team/cold:v1")
