#!/usr/bin/env python3
"""Breaks Larder in the ways that mutations.txt names and sees whether the simulated world notices each.

usage: mutants.py [SEEDS [WORD]]   SEEDS (1-60) where a mutation names none that show it; only those whose name has WORD

All are built into one program, in a scratch worktree that begins with the dependencies that are built here already; a
variable of the environment turns on one at a time. With none of them on, nothing may be seen.
"""

import os
import pathlib
import subprocess
import sys
import time

HOME = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = HOME / "target/mutants"
TURNED_ON = "SIM_MUTANT"
SWITCH = """
/// Whether this mutation is the one that is turned on.
#[doc(hidden)]
#[allow(clippy::disallowed_methods)]
pub(crate) fn is_mutant(number: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let on = || std::env::var("%s").ok().and_then(|on| on.parse().ok()).unwrap_or(0);
    *ON.get_or_init(on) == number
}
""" % TURNED_ON


def mutations():
    found, all_of_them = {}, []
    for line in (HOME / "tests/sim/mutations.txt").read_text().splitlines() + [""]:
        key, _, value = line.partition(": ")
        if line.strip() and not line.startswith("#"):
            found[key] = value.replace("\\n", "\n")
        elif found:
            all_of_them.append(found)
            found = {}
    return all_of_them


def scratch():
    if not SCRATCH.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=HOME, check=True)
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", SCRATCH, "HEAD"], cwd=HOME, check=True)
        (SCRATCH / "target/debug").mkdir(parents=True)
        for part in ("deps", "build", ".fingerprint"):
            if (built := HOME / "target/debug" / part).exists():
                subprocess.run(["cp", "-a", "--reflink=auto", built, SCRATCH / "target/debug"], check=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOME, capture_output=True, text=True, check=True)
    subprocess.run(["git", "checkout", "--quiet", "--force", "--detach", head.stdout.strip()], cwd=SCRATCH, check=True)


def apply(all_of_them):
    """Writes every mutation into the scratch worktree; returns the names of those that fit nowhere."""
    rotten = []
    for number, mutation in enumerate(all_of_them, 1):
        file = SCRATCH / mutation["file"]
        text = file.read_text() if file.exists() else ""
        if text.count(mutation["find"]) != 1:
            print(f"ROTTEN  {mutation['name']}: {text.count(mutation['find'])} places in {mutation['file']}", flush=True)
            rotten.append(mutation["name"])
            continue
        switched = mutation["with"].replace("MUTANT", f"crate::is_mutant({number})")
        file.write_text(text.replace(mutation["find"], switched))
    library = SCRATCH / "src/lib.rs"
    library.write_text(library.read_text() + SWITCH)
    return rotten


def program():
    built = subprocess.run(
        ["cargo", "test", "--locked", "--no-run", "--test", "sim"], cwd=SCRATCH, capture_output=True, text=True,
        env={**os.environ, "CARGO_TARGET_DIR": str(SCRATCH / "target")})
    if built.returncode:
        sys.exit(built.stderr[-3000:])
    line = [line for line in built.stderr.splitlines() if "Executable" in line][-1]
    return SCRATCH / line.split("(")[1].rstrip(")")


def hunt(path, seeds, number):
    """Whether the seeds show anything with mutation `number` turned on, 0 for none; and the last line that is said."""
    ran = subprocess.run([path, "hunt", seeds], cwd=SCRATCH, capture_output=True, text=True,
                         env={**os.environ, TURNED_ON: str(number)})
    return bool(ran.returncode), (ran.stdout.strip().splitlines() or [ran.stderr[-300:]])[-1]


def main():
    seeds = sys.argv[1] if len(sys.argv) > 1 else "kept,1-60"
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    all_of_them = mutations()
    scratch()
    missed = apply(all_of_them)
    path = program()
    for number, mutation in enumerate(all_of_them, 1):
        if word not in mutation["name"] or mutation["name"] in missed:
            continue
        begun = time.monotonic()
        shown, last = hunt(path, mutation.get("seeds", seeds), number)
        # What is shown without the mutation too is not the mutation's.
        if shown and last.startswith("seed ") and hunt(path, last.split()[1], 0)[0]:
            shown, last = False, f"{last}, and so without the mutation"
        print(f"{'seen  ' if shown else 'MISSED'}  {mutation['name']}: {last} ({time.monotonic() - begun:.0f} s)", flush=True)
        if not shown:
            missed.append(mutation["name"])
    if missed:
        sys.exit(f"{len(missed)} not seen: {', '.join(missed)}")


main()
