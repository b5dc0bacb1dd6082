"""What a node that is not ours could try on a hub, with Paramiko as it is shipped, and how to tell what came of it."""

import errno
from collections.abc import Callable
from pathlib import Path

import paramiko

SHA, NEW = "ab" * 32, "cd" * 32
ALLOWED, DENIED, ABSENT, UNSUPPORTED, FAILURE = "allowed", "denied", "absent", "unsupported", "failure"
MANIFEST = f"run-1.round-0001.{SHA}.json"


def write(sftp: paramiko.SFTPClient, path: str, mode: str = "wb") -> None:
    with sftp.open(path, mode) as file:
        file.write(b"x")


def read(sftp: paramiko.SFTPClient, path: str) -> bytes:
    with sftp.open(path, "rb") as file:
        return file.read()


Operation = Callable[[paramiko.SFTPClient, str], object]
OPERATIONS: dict[str, Operation] = {
    "create": lambda sftp, folder: write(sftp, f"{folder}/{NEW}.part"),
    "create final": lambda sftp, folder: write(sftp, f"{folder}/{NEW}.safetensors"),
    "create other name": lambda sftp, folder: write(sftp, f"{folder}/notes.txt"),
    "create hidden": lambda sftp, folder: write(sftp, f"{folder}/.{NEW}.part"),
    "overwrite part": lambda sftp, folder: write(sftp, f"{folder}/{SHA}.part"),
    "resume part": lambda sftp, folder: write(sftp, f"{folder}/{SHA}.part", "r+b"),
    "overwrite final": lambda sftp, folder: write(sftp, f"{folder}/{SHA}.safetensors"),
    "change final": lambda sftp, folder: write(sftp, f"{folder}/{SHA}.safetensors", "r+b"),
    "append": lambda sftp, folder: write(sftp, f"{folder}/{SHA}.part", "ab"),
    "read final": lambda sftp, folder: read(sftp, f"{folder}/{SHA}.safetensors"),
    "read manifest": lambda sftp, folder: read(sftp, f"{folder}/{MANIFEST}"),
    "read part": lambda sftp, folder: read(sftp, f"{folder}/{SHA}.part"),
    "list": lambda sftp, folder: sftp.listdir(folder),
    "stat final": lambda sftp, folder: sftp.stat(f"{folder}/{SHA}.safetensors"),
    "stat part": lambda sftp, folder: sftp.lstat(f"{folder}/{SHA}.part"),
    "stat missing": lambda sftp, folder: sftp.stat(f"{folder}/{NEW}.safetensors"),
    "remove final": lambda sftp, folder: sftp.remove(f"{folder}/{SHA}.safetensors"),
    "remove part": lambda sftp, folder: sftp.remove(f"{folder}/{SHA}.part"),
    "commit": lambda sftp, folder: sftp.posix_rename(f"{folder}/{SHA}.part", f"{folder}/{NEW}.safetensors"),
    "commit onto": lambda sftp, folder: sftp.posix_rename(f"{folder}/{SHA}.part", f"{folder}/{SHA}.safetensors"),
    "rename final": lambda sftp, folder: sftp.posix_rename(
        f"{folder}/{SHA}.safetensors", f"{folder}/{NEW}.safetensors"
    ),
    "rename to part": lambda sftp, folder: sftp.posix_rename(f"{folder}/{SHA}.part", f"{folder}/{NEW}.part"),
    "mkdir": lambda sftp, folder: sftp.mkdir(f"{folder}/sub"),
    "rmdir": lambda sftp, folder: sftp.rmdir(folder),
    "chmod": lambda sftp, folder: sftp.chmod(f"{folder}/{SHA}.safetensors", 0o777),
    "truncate": lambda sftp, folder: sftp.truncate(f"{folder}/{SHA}.safetensors", 0),
    "symlink": lambda sftp, folder: sftp.symlink("/etc/passwd", f"{folder}/{NEW}.safetensors"),
    "readlink": lambda sftp, folder: sftp.readlink(f"{folder}/{SHA}.safetensors"),
    "plain rename": lambda sftp, folder: sftp.rename(f"{folder}/{SHA}.part", f"{folder}/{NEW}.safetensors"),
}


# The embedded hub's table. operation: verdict in the own folder, in another node's
MATRIX: dict[str, tuple[str, str]] = {
    "create": (ALLOWED, DENIED),
    "create final": (DENIED, DENIED),
    "create other name": (ABSENT, ABSENT),
    "create hidden": (ABSENT, ABSENT),
    "overwrite part": (ALLOWED, DENIED),
    "resume part": (ALLOWED, DENIED),
    "overwrite final": (DENIED, DENIED),
    "change final": (DENIED, DENIED),
    "append": (UNSUPPORTED, UNSUPPORTED),
    "read final": (ALLOWED, ALLOWED),
    "read manifest": (ALLOWED, ALLOWED),
    "read part": (ALLOWED, ABSENT),
    "list": (ALLOWED, ALLOWED),
    "stat final": (ALLOWED, ALLOWED),
    "stat part": (ALLOWED, ABSENT),
    "stat missing": (ABSENT, ABSENT),
    "remove final": (ALLOWED, DENIED),
    "remove part": (ALLOWED, ABSENT),
    "commit": (ALLOWED, ABSENT),
    "commit onto": (ALLOWED, ABSENT),
    "rename final": (DENIED, DENIED),
    "rename to part": (DENIED, ABSENT),
    "mkdir": (UNSUPPORTED, UNSUPPORTED),
    "rmdir": (UNSUPPORTED, UNSUPPORTED),
    "chmod": (UNSUPPORTED, UNSUPPORTED),
    "truncate": (UNSUPPORTED, UNSUPPORTED),
    "symlink": (UNSUPPORTED, UNSUPPORTED),
    "readlink": (UNSUPPORTED, UNSUPPORTED),
    "plain rename": (UNSUPPORTED, UNSUPPORTED),
}


def verdict(operation: Callable[[], object]) -> str:
    try:
        operation()
    except OSError as error:
        if error.errno == errno.EACCES:
            return DENIED
        if error.errno == errno.ENOENT:
            return ABSENT
        texts = (text for text in (UNSUPPORTED, FAILURE) if text in str(error))
        return next(texts, str(error))
    return ALLOWED


def furnish(folder: Path) -> dict[str, bytes]:
    for name in (f"{SHA}.safetensors", f"{SHA}.part", MANIFEST):
        (folder / name).write_bytes(name.encode())
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(transport: paramiko.Transport, command: str) -> tuple[int, str]:
    with transport.open_session(timeout=10) as channel:
        channel.settimeout(10)
        channel.exec_command(command)
        output = b""
        while piece := channel.recv(4096):
            output += piece
        return channel.recv_exit_status(), output.decode()
