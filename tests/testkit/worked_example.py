"""The worked example of docs/format.md: fixed keys, a file of three bytes, its header, chunk and name."""

from __future__ import annotations

from kmsfs.crypto.kdf import hkdf_sha512
from kmsfs.envelope.file_key import derive_file_keys, seal_header
from kmsfs.envelope.tree_key import TreeKeys
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import FileHeader
from kmsfs.ids import DirId, FileId, TreeId

CHUNK_SIZE = 4096
CONTENT, NAME, BLOB = b"abc", b"hello.txt", b"the data key, wrapped"


def counting(first: int, size: int) -> bytes:
    """``size`` bytes that count up from ``first``."""
    return bytes(range(first, first + size))


TREE_KEY, TREE_ID = counting(0x00, 32), TreeId(counting(0x90, 16))
DATA_KEY, FILE_ID = counting(0x20, 32), FileId(counting(0x40, 32))
DIRECTORY, NONCE = DirId(counting(0xD0, 16)), counting(0xC0, 12)


def hexdump(raw: bytes, start: int = 0) -> str:
    """Sixteen bytes a line; lines of zeros after a line of zeros become one asterisk."""
    lines: list[str] = []
    zeros = False
    for at in range(0, len(raw), 16):
        piece = raw[at : at + 16]
        if zeros and not any(piece) and at + 16 < len(raw):
            if lines[-1] != "*":
                lines.append("*")
            continue
        zeros = not any(piece)
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start + at:04x}  {piece.hex(' '):47}  {text}".rstrip())
    return "\n".join(lines)


def worked_example() -> str:
    """The section between its markers."""
    keys = derive_file_keys(DATA_KEY, FILE_ID, 1, CHUNK_SIZE)
    material = hkdf_sha512(DATA_KEY, salt=FILE_ID, info=b"kmsfs/v1/file\0\1", length=96)
    header = FileHeader(
        file_id=FILE_ID,
        commitment=keys.commitment,
        chunk_size=CHUNK_SIZE,
        slots=(BLOB,),
        generation=2,
        sealed_length=len(CONTENT),
        chunk_writes=1,
        dirty=False,
    )
    tree = TreeKeys(TREE_KEY, TREE_ID)
    record = tree.seal_directory(DirectoryRecord(DIRECTORY, DirId(bytes(16))))
    return f"""
File `{NAME.decode()}` in a tree's root, content `{CONTENT.decode()}`, chunk size 4,096. Keys and nonces count up:

| value | bytes |
|---|---|
| tree key | `{TREE_KEY.hex()}` |
| tree id | `{TREE_ID.hex()}` |
| id of the root directory | `{DIRECTORY.hex()}` |
| data key | `{DATA_KEY.hex()}` |
| file id | `{FILE_ID.hex()}` |
| nonce of chunk 0 | `{NONCE.hex()}` |
| wrapped data key (opaque) | `{BLOB.decode()}` |
| content key (derived) | `{material[:32].hex()}` |
| header MAC key (derived) | `{material[32:64].hex()}` |
| commitment (derived) | `{material[64:].hex()}` |

Header copy A, clean, generation 2; copy B at 0x400 is the same. `*` stands for lines of zeros:

```
{hexdump(seal_header(header, keys))}
```

Chunk 0 at 0x800: nonce, three bytes of ciphertext, tag. The file is 2,079 bytes long:

```
{hexdump(bytes(keys.cipher.seal(0, CONTENT, NONCE)), 0x800)}
```

Its encrypted name: `{tree.encrypt_name(NAME, DIRECTORY).decode()}`

The record `.kmsfs.dir` of the root, in no zone:

```
{hexdump(record)}
```
"""
