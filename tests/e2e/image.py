"""A multi-arch image of a static busybox, as an OCI layout, pushed by skopeo."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile

from programs import run

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def push(world, registry, repository, tag, account=None, pad=3_000_000):
    """Pushes for linux/amd64 and linux/arm64, as `account` if given, each with a layer of `pad` bytes and a program's;
    returns the digests by name."""
    layout = world.directory("layout")
    blobs = os.path.join(layout, "blobs", "sha256")
    os.makedirs(blobs)

    def blob(content, media_type, **more):
        digest = hashlib.sha256(content).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    pushed, manifests = {}, []
    for arch in ("amd64", "arm64"):
        with open(shutil.which("busybox"), "rb") as program:
            # Both run the same program: only the digests have to differ here.
            tar = layer({"bin/busybox": program.read(), "etc/arch": arch.encode(), "pad": os.urandom(pad)})
        config = {"os": "linux", "architecture": arch, "config": {"Cmd": ["/bin/busybox"]},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]}}
        config = blob(json.dumps(config).encode(), CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                    "layers": [blob(gzip.compress(tar, 1), LAYER)]}
        manifest = blob(json.dumps(manifest).encode(), MANIFEST, platform={"os": "linux", "architecture": arch})
        manifests.append(manifest)
        pushed[f"config {arch}"] = config["digest"]
        pushed[f"manifest {arch}"] = manifest["digest"]
    index = blob(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode(), INDEX)
    pushed["index"] = index["digest"]
    index["annotations"] = {"org.opencontainers.image.ref.name": tag}
    for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                          ("index.json", {"schemaVersion": 2, "manifests": [index]})):
        with open(os.path.join(layout, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    creds = ["--dest-creds", ":".join(account)] if account else []
    run("skopeo", "copy", "--quiet", "--all", "--dest-tls-verify=false", *creds, f"oci:{layout}:{tag}",
        f"docker://{registry.address}/{repository}:{tag}")
    return pushed


def layer(files):
    """A tar with these files, executable."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
