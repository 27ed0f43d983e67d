#!/usr/bin/env python3
"""Breaks Larder in the ways that mutations.txt names, one after the other, and sees whether the simulated world notices.

usage: mutants.py [SEEDS [WORD]]   SEEDS (1-60) where a mutation names none that show it; only those whose name has WORD

The scratch worktree begins with the dependencies that are built here already.
"""

import os
import pathlib
import subprocess
import sys
import time

HOME = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = HOME / "target/mutants"


def mutations():
    found = {}
    for line in (HOME / "tests/sim/mutations.txt").read_text().splitlines():
        key, _, value = line.partition(": ")
        if line.startswith("#") or not line.strip():
            if found.get("with") is not None:
                yield found
                found = {}
        else:
            found[key] = value
    if found.get("with") is not None:
        yield found


def program():
    built = subprocess.run(
        ["cargo", "test", "--locked", "--no-run", "--test", "sim"], cwd=SCRATCH, capture_output=True, text=True,
        env={**os.environ, "CARGO_TARGET_DIR": str(SCRATCH / "target")})
    if built.returncode:
        return None, built.stderr[-1500:]
    line = [line for line in built.stderr.splitlines() if "Executable" in line][-1]
    return SCRATCH / line.split("(")[1].rstrip(")"), ""


def main():
    seeds = sys.argv[1] if len(sys.argv) > 1 else "1-60"
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    if not SCRATCH.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=HOME, check=True)
        subprocess.run(["git", "worktree", "add", "--detach", str(SCRATCH), "HEAD"], cwd=HOME, check=True)
        (SCRATCH / "target/debug").mkdir(parents=True)
        for part in ("deps", "build", ".fingerprint"):
            if (built := HOME / "target/debug" / part).exists():
                subprocess.run(["cp", "-a", "--reflink=auto", built, SCRATCH / "target/debug"], check=False)
    subprocess.run(["git", "checkout", "--quiet", "--force", "--detach",
                    subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOME, capture_output=True, text=True,
                                   check=True).stdout.strip()], cwd=SCRATCH, check=True)
    missed = []
    for mutation in mutations():
        if word not in mutation["name"]:
            continue
        file = SCRATCH / mutation["file"]
        text = file.read_text() if file.exists() else ""
        if text.count(mutation["find"]) != 1:
            print(f"ROTTEN  {mutation['name']}: {text.count(mutation['find'])} places in {mutation['file']}", flush=True)
            missed.append(mutation["name"])
            continue
        begun = time.monotonic()
        file.write_text(text.replace(mutation["find"], mutation["with"]))
        path, why = program()
        if path is None:
            print(f"BROKEN  {mutation['name']}: {why}", flush=True)
            missed.append(mutation["name"])
        else:
            ran = subprocess.run([path, "hunt", mutation.get("seeds", seeds)], cwd=SCRATCH, capture_output=True, text=True)
            lines = ran.stdout.strip().splitlines()
            last = lines[-1] if lines else ran.stderr[-300:]
            print(f"{'seen  ' if ran.returncode else 'MISSED'}  {mutation['name']}: {last} ({time.monotonic() - begun:.0f} s)",
                  flush=True)
            if not ran.returncode:
                missed.append(mutation["name"])
        file.write_text(text)
    if missed:
        sys.exit(f"{len(missed)} not seen: {', '.join(missed)}")


main()
