#!/usr/bin/env python3
"""Pulls an image from a Larder as containerd does: the manifest, then three blobs at a time; keeps nothing, checks all.

usage: puller.py HOST:PORT REGISTRY REPOSITORY TAG     Prints JSON: seconds, bytes and what went wrong.

A body that ends early is asked for again from where it ended, as containerd does.
"""

import concurrent.futures
import hashlib
import http.client
import json
import re
import sys
import time
import urllib.parse

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
# containerd's `max_concurrent_downloads`.
AT_ONCE = 3
TRIES = 5


def main():
    host, registry, repository, tag = sys.argv[1:]
    begun = time.monotonic()

    token = {}

    def ask(path, headers):
        connection = http.client.HTTPConnection(host, timeout=300)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def get(path, headers):
        path = f"/v2/{repository}/{path}?ns={registry}"
        answer = ask(path, {**headers, **token})
        if answer.status == 401 and not token:
            # Without a credential of its own, as a runtime does it: an anonymous token.
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
            answer.read()
            realm = urllib.parse.urlsplit(challenge["realm"])
            query = urllib.parse.urlencode({"service": challenge["service"], "scope": challenge["scope"]})
            given = json.loads(ask(f"{realm.path}?{'&'.join(filter(None, (realm.query, query)))}", {}).read())
            token["Authorization"] = f"Bearer {given['token']}"
            answer = ask(path, {**headers, **token})
        return answer

    def blob(described):
        content, got = hashlib.sha256(), 0
        for _ in range(TRIES):
            headers = {"Range": f"bytes={got}-"} if got else {}
            answer = get(f"blobs/{described['digest']}", headers)
            if answer.status != (206 if got else 200):
                return got, f"{described['digest']}: status {answer.status}: {answer.read(300)}"
            try:
                while chunk := answer.read(1 << 20):
                    content.update(chunk)
                    got += len(chunk)
            except http.client.IncompleteRead as short:
                content.update(short.partial)
                got += len(short.partial)
            if got >= described["size"]:
                break
        right = f"sha256:{content.hexdigest()}" == described["digest"]
        return got, None if right else f"{described['digest']}: {got} of {described['size']} bytes, wrong or short"

    wrong, total = [], 0
    answer = get(f"manifests/{tag}", {"Accept": ACCEPT})
    body = answer.read()
    warning = answer.headers.get("Warning")
    if answer.status == 200:
        manifest = json.loads(body)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for got, error in pool.map(blob, [manifest["config"], *manifest["layers"]]):
                total += got
                wrong += [error] if error else []
    else:
        wrong.append(f"manifest: status {answer.status}: {body[:300]}")
    print(json.dumps({"seconds": time.monotonic() - begun, "bytes": total, "wrong": wrong, "warning": warning}))


main()
