"""Files made to hurt: pickles that would run programs, archives that would write elsewhere, bombs.

Whatever would be executed makes the file `canary` in the folder that each is given.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _raw_call(module: str, name: str, text: str) -> bytes:
    return (
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"U" + bytes([len(text)]) + text.encode() + b"\x85R."
    )


def pickles(folder: Path) -> list[bytes]:
    """Each would run something, or grow without end, in an unpickler that lets it."""
    touch = f"touch {folder}/canary"
    code = f"open('{folder}/canary','w')"
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    nested_memo = b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"."
    return [
        _raw_call("posix", "system", touch),
        _raw_call("os", "system", touch),
        _raw_call("__builtin__", "eval", code),
        _raw_call("builtins", "exec", code),
        _raw_call("subprocess", "getoutput", touch),
        _raw_call("numpy.testing._private.utils", "runstring", code),
        _raw_call("torch.serialization", "load", str(folder / "weights.pt")),
        _raw_call("numpy", "load", str(folder / "x.npy")),
        b"\x80\x02(cos\nsystem\nU" + bytes([len(touch)]) + touch.encode() + b"o.",
        b"\x80\x02(S'" + touch.encode() + b"'\nios\nsystem\n.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",  # 64 GiB of zeros
        b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"h\x00K\x01u.",  # 2^80 hashes
        b"\x80\x02T\xff\xff\xff\x7fabc.",
        nested_memo,
        pickle.dumps(_Calls(eval, code), protocol=2),
        pickle.dumps(nested, protocol=2),
        pickle.dumps({"data": np.zeros(3), "labels": [1]}, protocol=4),
    ]


def torch_files(folder: Path, good: bytes) -> list[bytes]:
    """torch's archive with another pickle in it, its entries under other names, compressed, repeated."""
    files = [_repacked(good, {"data.pkl": content}) for content in pickles(folder)]
    files.append(_repacked(good, {}, rename=lambda name: "../../../" + name))
    files.append(_repacked(good, {}, rename=lambda name: "/tmp/canary/" + name))
    files.append(_repacked(good, {}, compression=zipfile.ZIP_DEFLATED))
    files.append(_repacked(good, {"data/0": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED))
    return files + pickles(folder)


def _repacked(
    good: bytes, change: dict[str, bytes], rename: Any = str, compression: int = zipfile.ZIP_STORED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            wanted = next((text for end, text in change.items() if name.endswith("/" + end)), None)
            new.writestr(rename(name), old.read(name) if wanted is None else wanted)
    return out.getvalue()


def archives(folder: Path, files: dict[str, bytes]) -> list[bytes]:
    """Tar archives of the batch files whose members are links, devices, elsewhere, or say enormous sizes."""
    first = next(iter(files))
    kinds = {
        "link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
        "folder": tarfile.DIRTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
    }
    made = []
    for kind in kinds.values():
        member = tarfile.TarInfo(f"cifar-10-batches-py/{first}")
        member.type, member.linkname = kind, f"{folder}/canary"
        made.append(_tar(files, member))
    for name in (
        f"../../{first}",
        f"{folder}/../canary/{first}",
        f"/{first}",
        "x/" * 2000 + first,
        first + "\0x",
    ):
        member = tarfile.TarInfo(name)
        member.size = len(files[first])
        made.append(_tar(files, member, files[first]))
    huge = bytearray(_tar(files, None))
    huge[124:136] = b"77777777777\0"  # 8 GiB, by the first header
    made.append(bytes(huge))
    made.append(gzip.compress(bytes(2**23)))  # eight MiB of zeros in a few KiB
    made.append(gzip.compress(_tar(files, None)) + gzip.compress(bytes(2**23)))
    return made


def _tar(files: dict[str, bytes], extra: tarfile.TarInfo | None, content: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if extra is not None:
            tar.addfile(extra, io.BytesIO(content))
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def safetensors_files() -> list[bytes]:
    """Headers that lie: sizes, offsets, shapes, nesting."""
    headers: list[bytes] = [
        json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
        for shape, offsets in (
            ([2**40], [0, 2**42]),
            ([2**32, 2**32], [0, 0]),
            ([0, 2**62], [0, 0]),
            ([2], [8, 0]),
            ([1], [-4, 0]),
            ([2], [0, 8]),
        )
    ]
    headers += [b"[" * 5000, b'{"a":' * 5000, b'{"__metadata__":{"format":1}}', b"{}", b'{"a":null}']
    made = [struct.pack("<Q", len(header)) + header + bytes(8) for header in headers]
    return [*made, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 99_999_999) + b"{}" * 50]
