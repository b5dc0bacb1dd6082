"""A training child without torch: the same lines on the same pipes, a network of a few numbers. Standard library
only, so that it starts in milliseconds.

    python fake_trainer.py [--hold FILE] [--die FILE] [--fail CODE] [--weights N] RUN_FOLDER

While `--hold` exists, training waits (and can be interrupted). If `--die` exists, training removes it and dies.
`--fail`: `prepare` answers with that error. `--weights`: how many numbers the network has beside its counter. What was
asked is appended to RUN_FOLDER/../asked.jsonl.
"""

import argparse
import fcntl
import hashlib
import json
import os
import select
import struct
import sys
from pathlib import Path

COUNTS = {"positive": 6, "negative": 4}
EMPTY = hashlib.sha256(b"").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--die", type=Path)
    parser.add_argument("--fail")
    parser.add_argument("--weights", type=int, default=4)
    parser.add_argument("run_folder", type=Path)
    options = parser.parse_args()
    options.run_folder.mkdir(parents=True, exist_ok=True)
    with (options.run_folder / "trainer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pending = b""
        while line := next_line(pending):
            pending = b""
            request = json.loads(line)
            with (options.run_folder.parent / "asked.jsonl").open("a") as log:
                log.write(json.dumps({"kind": request["kind"], "pid": os.getpid(), "start": starts(request)}) + "\n")
            if request["kind"] == "interrupt":
                continue
            say(ANSWERS[request["kind"]](request, options))


def starts(request: dict) -> list[str]:
    return [Path(path).name for path in request.get("work", {}).get("start", [])]


def next_line(buffer: bytes) -> bytes:
    while not buffer.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            return b""
        buffer += piece
    return buffer


def say(reply: dict) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def prepare(request: dict, options: argparse.Namespace) -> dict:
    if options.fail:
        sentence = "No image of class fracture was found."
        return {"kind": "failed", "failure_kind": "rejected", "code": options.fail, "sentence": sentence}
    counts = {"training": COUNTS, "validation": COUNTS, "test": COUNTS}
    return {"kind": "prepared", "counts": counts, "lines": ["20 images found"]}


def describe(request: dict, options: argparse.Namespace) -> dict:
    weight = {"name": "weight", "dtype": "F32", "shape": [options.weights]}
    specs = [{"name": "counter", "dtype": "I64", "shape": []}, weight]
    shared = [] if request["config"]["method"]["name"] == "local" else specs
    if request["config"]["method"]["name"] == "fedbn":
        shared = specs[1:]
    return {"kind": "described", "shared": shared, "full": specs}


def initialise(request: dict, options: argparse.Namespace) -> dict:
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    made = write(folder / "shared.safetensors", {"weight": [float(n) for n in range(options.weights)], "counter": 0})
    return trained(made, None, 0)


def train_round(request: dict, options: argparse.Namespace) -> dict:
    work, workspace = request["work"], Path(request["workspace"])
    workspace.mkdir(parents=True, exist_ok=True)
    say({"kind": "progressed", "done": 1, "total": 2})
    if options.die and options.die.exists():
        options.die.unlink()
        os._exit(9)
    while options.hold and options.hold.exists():
        readable, _, _ = select.select([0], [], [], 0.01)
        if readable:  # an interrupt, or the end of the pipe
            (workspace / "snapshot.json").write_text("{}")
            if not next_line(b""):
                sys.exit(0)
            return {"kind": "stopped"}
    model = overlay(work["start"])
    shift = int(hashlib.sha256(f"{work['node_id']} {work['round_number']}".encode()).hexdigest()[:4], 16) / 65536
    model = {"weight": [value + shift for value in model["weight"]], "counter": model["counter"] + 1}
    method = work["config"]["method"]["name"]
    private = {"local": model, "fedbn": {"counter": model["counter"]}}.get(method)
    if method == "local":
        (workspace / "shared.safetensors").write_bytes(b"")
        made = {"path": str(workspace / "shared.safetensors"), "sha256": EMPTY, "num_bytes": 0}
    else:
        shared = {name: value for name, value in model.items() if method != "fedbn" or name == "weight"}
        made = write(workspace / "shared.safetensors", shared)
    kept = write(workspace / "private.safetensors", private) if private else None
    return trained(made, kept, 10)


def trained(made: dict, private: dict | None, num_cases: int) -> dict:
    metrics = {"validation_auc": 0.5 if num_cases else None, "shared_epoch": num_cases, "num_steps": num_cases}
    return {"kind": "trained", "shared": made, "private": private, "metrics": metrics, "num_cases": num_cases}


def validate(request: dict, options: argparse.Namespace) -> dict:
    model = overlay(request["work"]["start"])
    auc = abs(sum(model["weight"])) % 1.0
    return {"kind": "validated", "metrics": {"auc": auc, "loss": 0.5, "num_cases": 10}}


def fuse_own(request: dict, options: argparse.Namespace) -> dict:
    own = request["work"]["node_id"]
    models = {node: overlay([path]) for node, path in request["files"].items()}
    others = [model["weight"] for node, model in models.items() if node != own]
    mean = [sum(column) / len(others) for column in zip(*others, strict=True)]
    weight = [(mine + other) / 2 for mine, other in zip(models[own]["weight"], mean, strict=True)]
    made = write(Path(request["output"]), {"weight": weight, "counter": models[own]["counter"]})
    return {"kind": "fused", "model": made}


def overlay(paths: list[str]) -> dict:
    model: dict = {}
    for path in paths:
        raw = Path(path).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            values = struct.unpack(f"<{(end - begin) // 4}f" if name == "weight" else "<q", raw[begin:end])
            model[name] = list(values) if name == "weight" else values[0]
    return model


def write(path: Path, model: dict) -> dict:
    data, entries = b"", {}
    for name in sorted(model):  # counter (8 bytes an element) before weight (4)
        size = 1 if name == "counter" else len(model[name])
        raw = struct.pack("<q", model[name]) if name == "counter" else struct.pack(f"<{size}f", *model[name])
        dtype, shape = ("I64", []) if name == "counter" else ("F32", [size])
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    raw = len(header).to_bytes(8, "little") + header + data
    path.write_bytes(raw)
    return {"path": str(path), "sha256": hashlib.sha256(raw).hexdigest(), "num_bytes": len(raw)}


ANSWERS = {
    "prepare": prepare,
    "describe": describe,
    "initialise": initialise,
    "train_round": train_round,
    "validate": validate,
    "fuse_own": fuse_own,
}

if __name__ == "__main__":
    main()
