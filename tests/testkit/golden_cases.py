"""Golden bytes for every structure of the format, made with fixed keys. ``scripts/make-vectors`` writes them down.

Each file of vectors is {"about", "cases"}; each case has a name, an outcome (ok, format, unsupported or integrity)
and hexadecimal members. Cases that edit a structure and keep its MAC valid say what a correct MAC cannot excuse.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kmsfs.crypto.kdf import hkdf_sha512, hmac_sha256
from kmsfs.envelope.content import ChunkCipher
from kmsfs.envelope.file_key import seal_header
from kmsfs.envelope.tree_key import LINK_PREFIX, b64, entry_name
from kmsfs.format import aad, layout
from kmsfs.format.blob import parse_blob
from kmsfs.format.context import encode_context
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import header_mac
from testkit.golden import (
    CHILD_ID,
    CHUNK,
    CMK,
    DATA_KEY,
    FILE_ID,
    KEY_ARN,
    NO_PARENT,
    NONCE,
    OTHER_ID,
    ROOT_ID,
    TREE_ID,
    TREE_KEY,
    TREE_KEYS,
    file_keys,
    fixed,
    flip,
    sample_directory,
    sample_header,
    sample_superblock,
    wrap,
)

Case = dict[str, Any]
Edit = Callable[[bytearray], None]


def _at(offset: int, new: bytes) -> Edit:
    def edit(raw: bytearray) -> None:
        raw[offset : offset + len(new)] = new

    return edit


def _edited(raw: bytes, edit: Edit, reseal: Callable[[bytes], bytes] | None) -> str:
    changed = bytearray(raw)
    edit(changed)
    return (reseal(bytes(changed)) if reseal else bytes(changed)).hex()


def _reseal_header(raw: bytes) -> bytes:
    covered = header_mac(raw)[0]
    return covered + hmac_sha256(file_keys().header_mac_key, covered)


def header_cases() -> list[Case]:
    header, keys = sample_header(), file_keys()
    raw = seal_header(header, keys)
    full = header._replace(
        slots=header.slots * 3, holes=tuple((9 * n, 9 * n + 2) for n in range(8)), dirty=True
    )
    widest = header._replace(slots=(bytes(range(1, 256)) + b"\1",), holes=((0, layout.MAX_CHUNKS),))
    edits: list[tuple[str, str, Edit]] = [  # all of them with a correct MAC
        ("magic", "format", _at(0, b"KMSFSHDX")),
        ("version 0", "unsupported", _at(8, b"\0\0")),
        ("version 2", "unsupported", _at(8, b"\0\2")),
        ("suite 2", "unsupported", _at(10, b"\0\2")),
        ("chunks of 8 KiB", "format", _at(12, b"\x0d")),
        ("unknown state bit", "format", _at(13, b"\2")),
        ("incompatible flag", "unsupported", _at(14, b"\x80\0")),
        ("read-only flag", "ok", _at(16, b"\0\1")),
        ("no slot", "format", _at(18, b"\0")),
        ("four slots", "format", _at(18, b"\4")),
        ("count says two slots", "format", _at(18, b"\2")),
        ("nine extents", "format", _at(19, b"\x09")),
        ("count says one extent", "format", _at(19, b"\1")),
        ("reserved field at 20", "format", _at(23, b"\1")),
        ("extents overlap", "format", _at(112 + 12, b"\0\0\0\0\0\2")),
        ("extents touch", "format", _at(112 + 12, b"\0\0\0\0\0\5")),
        ("extents not sorted", "format", _at(112 + 12, bytes(6))),
        ("extent of length 0", "format", _at(112 + 18, bytes(6))),
        ("extent ends past 2^48 - 1", "format", _at(112 + 12, b"\xff" * 6)),
        ("unused extent not zero", "format", _at(112 + 24, b"\0\0\0\0\0\1")),
        ("slot length 0", "format", _at(208, b"\0\0")),
        ("slot length 257", "format", _at(208, b"\1\1")),
        ("slot padding not zero", "format", _at(208 + 257, b"\1")),
        ("unused slot with a length of 300", "format", _at(208 + 258, b"\x01\x2c")),
        ("unused slot not zero", "format", _at(208 + 258 + 2, b"\1")),
        ("reserved field at 982", "format", _at(991, b"\1")),
        ("another commitment", "integrity", _at(64, bytes(32))),
    ]
    flips = [8 * at for at in (24, 32, 96, 104, 117, 210, 992, 1023)]
    ok: list[Case] = [
        {"name": name, "outcome": "ok", "copy": seal_header(item, keys).hex()}
        for name, item in (("sample", header), ("full and dirty", full), ("widest", widest))
    ]
    return (
        ok
        + [
            {"name": name, "outcome": outcome, "copy": _edited(raw, edit, _reseal_header)}
            for name, outcome, edit in edits
        ]
        + [
            {"name": f"bit {bit} flipped", "outcome": "integrity", "copy": flip(raw, bit).hex()}
            for bit in flips
        ]
        + [{"name": "cut off", "outcome": "format", "copy": raw[:-1].hex()}]
    )


def directory_cases() -> list[Case]:
    raw = TREE_KEYS.seal_directory(sample_directory())
    mac_key = hkdf_sha512(TREE_KEY, salt=TREE_ID, info=b"kmsfs/v1/tree/directory-mac", length=32)

    def reseal(changed: bytes) -> bytes:
        return changed[:352] + hmac_sha256(mac_key, changed[:352])

    def case(name: str, outcome: str, record: str, parent: bytes = ROOT_ID) -> Case:
        return {"name": name, "outcome": outcome, "record": record, "parent": parent.hex()}

    edits: list[tuple[str, str, Edit]] = [
        ("magic", "format", _at(0, b"KMSFSDIX")),
        ("version 2", "unsupported", _at(8, b"\0\2")),
        ("incompatible flag", "unsupported", _at(10, b"\1\0")),
        ("no id", "format", _at(12, bytes(16))),
        ("zone length 257", "format", _at(60, b"\1\1")),
        ("zone padding not zero", "format", _at(317, b"x")),
        ("zone not ASCII", "format", _at(62, b"\xe9")),
        ("reserved field", "format", _at(351, b"\1")),
    ]
    plain = TREE_KEYS.seal_directory(DirectoryRecord(CHILD_ID, ROOT_ID))
    return [
        case("child during a move, in the one parent", "ok", raw.hex()),
        case("child during a move, in the other parent", "ok", raw.hex(), OTHER_ID),
        case("root", "ok", TREE_KEYS.seal_directory(DirectoryRecord(ROOT_ID, NO_PARENT)).hex(), NO_PARENT),
        case("in a third directory", "integrity", raw.hex(), CHILD_ID),
        case("in the root's place", "integrity", plain.hex(), NO_PARENT),
        case(
            "a root below a directory",
            "integrity",
            TREE_KEYS.seal_directory(DirectoryRecord(OTHER_ID, NO_PARENT)).hex(),
        ),
        *(case(name, outcome, _edited(raw, edit, reseal)) for name, outcome, edit in edits),
        *(
            case(f"bit {8 * at} flipped", "integrity", flip(raw, 8 * at).hex())
            for at in (12, 28, 44, 63, 352, 383)
        ),
        case("cut off", "format", raw[:-1].hex()),
    ]


def superblock_cases() -> list[Case]:
    raw = sample_superblock().pack()
    members = json.loads(raw)

    def text(**changes: object) -> str:
        changed = {name: value for name, value in (members | changes).items() if value is not None}
        return json.dumps(changed, sort_keys=True, separators=(",", ":"))

    slot = members["slots"][0]
    read_only = TREE_KEYS.seal_superblock(replace(sample_superblock(), ro_compat=("future",)))
    cases: list[tuple[str, str, str]] = [
        ("sample", "ok", raw.decode()),
        ("read-only feature", "ok", read_only.pack().decode()),
        ("incompatible feature", "unsupported", text(incompat=["future"])),
        ("incompatible feature of a wrong type", "unsupported", text(incompat=[1])),
        ("version 2", "unsupported", text(version=2)),
        ("version 2, other members", "unsupported", '{"format":"kmsfs-tree","version":2}'),
        ("version 0", "format", text(version=0)),
        ("version true", "format", text(version=True)),
        ("version 1.0", "format", text(version=1.0)),
        ("another format", "format", text(format="kmsfs")),
        *((f"without {name}", "format", text(**{name: None})) for name in sorted(members)),
        ("unknown member", "format", text(extra=1)),
        ("chunks of 8 KiB", "format", text(chunk_size=8192)),
        ("no slot", "format", text(slots=[])),
        ("nine slots", "format", text(slots=[slot] * 9)),
        ("empty blob", "format", text(slots=[slot | {"blob": ""}])),
        ("blob of 257 bytes", "format", text(slots=[slot | {"blob": base64.b64encode(bytes(257)).decode()}])),
        ("blob not base64", "format", text(slots=[slot | {"blob": "*"}])),
        ("slot with another member", "format", text(slots=[slot | {"more": ""}])),
        ("tree id in capitals", "format", text(tree_id=members["tree_id"].upper())),
        ("short MAC", "format", text(mac="00")),
        ("white space", "format", json.dumps(members, sort_keys=True)),
        ("trailing newline", "format", raw.decode() + "\n"),
        ("cut off", "format", raw.decode()[:-1]),
        ("another tree id", "integrity", text(tree_id=bytes(16).hex())),
        ("another chunk size", "integrity", text(chunk_size=65536)),
        ("another default key", "integrity", text(default_key_arn=KEY_ARN.replace("east", "west"))),
        ("read-only feature removed", "integrity", read_only.pack().decode().replace('"future"', "")),
        ("slot twice", "integrity", text(slots=[slot, slot])),
        ("another slot ARN", "integrity", text(slots=[slot | {"key_arn": "arn"}])),
        ("another MAC", "integrity", text(mac=bytes(32).hex())),
    ]
    return [{"name": name, "outcome": outcome, "text": body} for name, outcome, body in cases]


def chunk_cases() -> list[Case]:
    plain, index = b"golden chunk", 3
    sealed = bytes(file_keys().cipher.seal(index, plain, NONCE))
    base = {"chunk": sealed.hex(), "index": index, "file_id": FILE_ID.hex(), "chunk_size": CHUNK, "holes": []}
    large = bytes(ChunkCipher(fixed("content key", 32), FILE_ID, 1, 65536).seal(0, b"x", NONCE))

    def case(name: str, outcome: str, **changes: object) -> Case:
        return {"name": name, "outcome": outcome} | base | changes

    return [
        case("sample", "ok", plain=plain.hex(), nonce=NONCE.hex()),
        case("zeros in a hole", "ok", chunk=bytes(32).hex(), holes=[[3, 4]], plain=bytes(4).hex()),
        case("data in a hole", "ok", holes=[[0, 9]], plain=plain.hex()),
        case("zeros beside a hole", "integrity", chunk=bytes(32).hex(), holes=[[0, 3], [4, 9]]),
        case("zeros without holes", "integrity", chunk=bytes(32).hex()),
        case("zeros but one bit, in a hole", "integrity", chunk=flip(bytes(32), 255).hex(), holes=[[3, 4]]),
        case("another index", "integrity", index=4),
        case("index past 2^32", "integrity", index=3 + (1 << 32)),
        case("another file", "integrity", file_id=fixed("other file", 32).hex()),
        case("another chunk size", "integrity", chunk_size=16384),
        case("another key", "integrity", chunk=large.hex()),
        *(
            case(f"bit {bit} flipped", "integrity", chunk=flip(sealed, bit).hex())
            for bit in (0, 96, 191, 192, 319)
        ),
        case("cut by a byte", "integrity", chunk=sealed[:-1].hex()),
        case("nonce and tag alone", "integrity", chunk=sealed[:28].hex()),
        case("a byte", "integrity", chunk=sealed[:1].hex()),
    ]


def name_cases() -> list[Case]:
    def case(name: str, clear: bytes) -> Case:
        encrypted = TREE_KEYS.encrypt_name(clear, ROOT_ID)
        members = {"clear": clear.hex(), "directory": ROOT_ID.hex(), "encrypted": encrypted.decode()}
        return {"name": name, "outcome": "ok"} | members | {"entry": entry_name(encrypted).decode()}

    def bad(name: str, outcome: str, encrypted: str, directory: bytes = ROOT_ID) -> Case:
        return {"name": name, "outcome": outcome, "encrypted": encrypted, "directory": directory.hex()}

    sample = TREE_KEYS.encrypt_name(b"a", ROOT_ID).decode()
    last = chr(ord(sample[-1]) + 1)  # the unused bits of the last character
    unsealed = {
        name: b64(TREE_KEYS._names.seal(name, [ROOT_ID])).decode() for name in (b".", b"..", b"a/b", b"a\0")
    }
    return [
        case("one byte", b"a"),
        case("not UTF-8", b"\xff\xfe caf\xc3\xa9"),
        case("longest that fits", b"n" * 175),
        case("shortest that does not fit", b"n" * 176),
        case("longest", b"n" * 255),
        bad("in another directory", "integrity", sample, CHILD_ID),
        bad("another character", "integrity", ("B" if sample[0] == "A" else "A") + sample[1:]),
        bad("padded", "format", sample + "="),
        bad("with a dot", "format", "." + sample),
        bad("not canonical", "format", sample[:-1] + last),
        bad("standard alphabet", "format", "ab+/ab+/ab+/ab+/ab+/ab+/ab+/ab+/"),
        bad("SIV alone", "integrity", b64(bytes(16)).decode()),
        *(bad(f"not a name: {name!r}", "integrity", text) for name, text in unsealed.items()),
    ]


def symlink_cases() -> list[Case]:
    link_id = fixed("link id", 16)

    def case(name: str, outcome: str, sealed: bytes, link: bytes = b"", **more: str) -> Case:
        return {"name": name, "outcome": outcome, "sealed": sealed.hex(), "link_id": link.hex()} | more

    target = b"../target \xff"
    inline, beside = TREE_KEYS.seal_target(target, NONCE), TREE_KEYS.seal_target(target, NONCE, link_id)
    return [
        case("in the symlink", "ok", inline, target=target.hex(), backing=b64(inline).decode()),
        case(
            "beside it",
            "ok",
            beside,
            link_id,
            target=target.hex(),
            backing=(LINK_PREFIX + b64(link_id)).decode(),
        ),
        case("moved beside", "integrity", inline, link_id),
        case("moved into the symlink", "integrity", beside),
        case("of another link", "integrity", beside, bytes(16)),
        *(
            case(f"bit {bit} flipped", "integrity", flip(inline, bit))
            for bit in (0, 95, 96, 224, 8 * len(inline) - 1)
        ),
        *(
            case(f"cut to {size} bytes", "integrity", inline[:size])
            for size in (0, 11, 12, 28, len(inline) - 1)
        ),
    ]


def xattr_cases() -> list[Case]:
    name, value = b"user.mime_type", b"text/plain"
    backing = TREE_KEYS.xattr_name(name, FILE_ID)
    sealed = TREE_KEYS.seal_xattr(name, value, FILE_ID, NONCE)

    def case(title: str, outcome: str, **changes: str) -> Case:
        base = {"backing": backing.decode(), "sealed": sealed.hex(), "owner": FILE_ID.hex()}
        return {"name": title, "outcome": outcome} | base | changes

    clear = {"clear_name": name.decode(), "value": value.hex()}
    empty = TREE_KEYS.seal_xattr(b"user.empty", b"", CHILD_ID, NONCE)
    other = TREE_KEYS.xattr_name(b"user.other", FILE_ID).decode()
    return [
        case("of a file", "ok", **clear),
        {
            "name": "empty, of a directory",
            "outcome": "ok",
            "backing": TREE_KEYS.xattr_name(b"user.empty", CHILD_ID).decode(),
            "sealed": empty.hex(),
            "owner": CHILD_ID.hex(),
            "clear_name": "user.empty",
            "value": "",
        },
        case("under another name", "integrity", backing=other),
        case("in another namespace", "integrity", backing=backing.decode().replace("user.", "trusted.", 1)),
        case("of another owner", "integrity", owner=fixed("other file", 32).hex()),
        *(
            case(f"bit {bit} flipped", "integrity", sealed=flip(sealed, bit).hex())
            for bit in (0, 96, 224, 8 * len(sealed) - 1)
        ),
        *(case(f"cut to {size} bytes", "integrity", sealed=sealed[:size].hex()) for size in (0, 12, 28, 29)),
    ]


def key_cases() -> list[Case]:
    file_material = hkdf_sha512(DATA_KEY, salt=FILE_ID, info=b"kmsfs/v1/file\0\1", length=96)
    sizes = {"superblock-mac": 32, "directory-mac": 32, "names": 64}
    sizes |= {"symlinks": 64, "xattr-names": 32, "xattr-values": 64}

    def derived(purpose: str, size: int) -> str:
        return hkdf_sha512(
            TREE_KEY, salt=TREE_ID, info=b"kmsfs/v1/tree/" + purpose.encode(), length=size
        ).hex()

    names = ("content_key", "header_mac_key", "commitment")
    parts = {name: file_material[32 * at : 32 * at + 32].hex() for at, name in enumerate(names)}
    return [
        {"name": "file keys", "outcome": "ok", "data_key": DATA_KEY.hex(), "file_id": FILE_ID.hex()} | parts,
        *(
            {"name": purpose, "outcome": "ok", "tree_key": TREE_KEY.hex(), "tree_id": TREE_ID.hex()}
            | {"derived": derived(purpose, size)}
            for purpose, size in sizes.items()
        ),
    ]


def layout_cases() -> list[Case]:
    return [
        {"name": f"{plain} in chunks of {chunk}", "outcome": "ok", "chunk_size": chunk, "plain": plain}
        | {"backing": layout.backing_size(plain, chunk)}
        for chunk in layout.CHUNK_SIZES
        for plain in (0, 1, chunk - 1, chunk, chunk + 1, 1 << 20, (1 << 40) + 1, layout.max_plain_size(chunk))
    ]


def blob_cases() -> list[Case]:
    context = aad.file_context(TREE_ID, FILE_ID)
    blob = wrap(DATA_KEY, context, NONCE)
    assert parse_blob(blob).head.key_arn == KEY_ARN
    sealed = {"cmk": CMK.hex(), "plaintext": DATA_KEY.hex(), "context": encode_context(context).hex()}

    def case(name: str, outcome: str, raw: bytes) -> Case:
        return {"name": name, "outcome": outcome, "blob": raw.hex()}

    return [
        case("wrapped data key, suite 1", "ok", blob) | sealed,
        case("magic", "format", b"X" + blob[1:]),
        case("version 2", "unsupported", blob[:4] + b"\2" + blob[5:]),
        case("suite 3", "unsupported", blob[:5] + b"\3" + blob[6:]),
        case("no ARN", "format", blob[:6] + b"\0\0" + blob[8:]),
        case("ARN not ASCII", "format", blob[:8] + b"\xe9" + blob[9:]),
        case("ARN longer than the blob", "format", blob[:6] + b"\xff\xff" + blob[8:]),
        case("cut off", "format", blob[:60]),
        case("empty", "format", b""),
    ]
