"""New slots for a file whose header is at hand: HSM calls, no I/O.

A header is *stale* unless its slots are one for each wanted key, in that order, each under the key's current
material. What replaces it is a ``Swap``: the next header, sealed, which ``kmsfs.tree.swaps`` puts in place.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmsfs.envelope.file_key import gravest, next_header, open_header, seal_header
from kmsfs.errors import FormatError, IntegrityError, InvalidCiphertextError, KmsfsError
from kmsfs.format import aad
from kmsfs.format.blob import BlobHead, head_prefix, parse_blob_head
from kmsfs.format.header import FileHeader, slots_begin_with
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.keystore.transitions import Operation, next_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsfs.ids import FileId, KeyArn, TreeId
    from kmsfs.keystore.service import Keystore


@dataclass(frozen=True, slots=True)
class Target:
    """A key that files are to be under, and what every blob under its current material begins with."""

    key_arn: KeyArn
    prefix: bytes


Targets = tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Swap:
    """A header copy to put in place of the one of ``generation``, which stands in copy ``newest_copy``."""

    file_id: FileId
    generation: int
    newest_copy: int
    sealed: bytes  # 1,024 bytes, of the next generation
    old: tuple[BlobHead, ...]
    new: tuple[BlobHead, ...]


class TargetError(Exception):
    """A wanted key cannot be used: no fault of the file, and no other file would fare better. Holds the reason."""

    def __init__(self, reason: KmsfsError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Rekeyer:
    """Computes swaps for the files of one tree. Thread-safe as the keystore is."""

    def __init__(self, keystore: Keystore, tree_id: TreeId) -> None:
        self._keystore = keystore
        self._tree_id = tree_id

    def targets(self, wanted: Sequence[KeyArn]) -> Targets:
        """The wanted keys with their material of this moment. Raises what the keystore says of a missing key."""
        return tuple(self._target(key_arn) for key_arn in wanted)

    def _target(self, key_arn: KeyArn) -> Target:
        key = self._keystore.resolve(key_arn)
        next_state(key.state, Operation.ENCRYPT, key.arn)
        current = next(m for m in key.materials if m.material_id == key.current_material_id)
        return Target(key_arn, head_prefix(BlobHead(current.suite, key.arn, current.material_id)))

    def swap(self, raw: bytes, targets: Targets) -> Swap | None:
        """What makes a file's 2,048 header bytes current, or None if they are.

        A slot that is current already is kept. One HSM call to open the file, one for each new slot. Raises what is
        wrong with the file, or TargetError.
        """
        if is_current(raw, targets):
            return None
        found: list[bytes] = []

        def unwrap(header: FileHeader) -> bytes:
            found[:] = [self._unwrap(header)]
            return found[0]

        opened = open_header(raw, unwrap)
        header = opened.header
        context = aad.file_context(self._tree_id, header.file_id)
        slots = []
        for target in targets:
            kept = next((blob for blob in header.slots if blob.startswith(target.prefix)), None)
            slots.append(kept or self._wrap(target, found[0], context))
        sealed = seal_header(next_header(header, slots=tuple(slots)), opened.keys)
        return Swap(
            header.file_id, header.generation, opened.newest_copy, sealed, heads(header.slots), heads(slots)
        )

    def _wrap(self, target: Target, data_key: bytes, context: dict[str, str]) -> bytes:
        try:
            return self._keystore.rewrap(target.key_arn, data_key, context).blob
        except KmsfsError as error:
            raise TargetError(error) from error

    def _unwrap(self, header: FileHeader) -> bytes:
        """The data key from the first slot that yields it."""
        context = aad.file_context(self._tree_id, header.file_id)
        problems: list[KmsfsError] = []
        for blob in header.slots:
            try:
                key_arn = parse_blob_head(blob).key_arn
                return self._keystore.unwrap_to_rewrap(blob, context, ref=key_arn)
            except (FormatError, InvalidCiphertextError) as error:
                problems.append(IntegrityError(f"a slot of the file header does not open ({error})"))
            except KmsfsError as error:
                problems.append(error)
        raise gravest(problems)


def is_current(raw: bytes, targets: Targets) -> bool:
    """Whether a header needs nothing. Not authenticated: an edited header is found when the file is opened."""
    return len(raw) == HEADER_SIZE and slots_begin_with(raw, [target.prefix for target in targets])


def has_slots(raw: bytes, file_id: str, slots: Sequence[tuple[str, str]]) -> bool:
    """Whether some copy of a header is that file's and names these (key ARN, material id in hex). Proves nothing."""
    for at in (0, HEADER_COPY_SIZE):
        with suppress(FormatError):
            header = FileHeader.parse(raw[at : at + HEADER_COPY_SIZE])
            named = [(head.key_arn, head.material_id.hex()) for head in heads(header.slots)]
            if header.file_id.hex() == file_id and named == list(slots):
                return True
    return False


def heads(slots: Sequence[bytes]) -> tuple[BlobHead, ...]:
    """What slots say of themselves; those that say nothing readable are left out."""
    known = []
    for blob in slots:
        try:
            known.append(parse_blob_head(blob))
        except FormatError:
            continue
    return tuple(known)
