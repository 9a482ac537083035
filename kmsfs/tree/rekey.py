"""New slots for a file whose header is at hand: HSM calls, no I/O.

A header is *stale* unless its slots are one for each wanted key, in that order, each under the key's current
material. What replaces it is a ``Swap``: the next header, sealed, which ``kmsfs.tree.swaps`` puts in place.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kmsfs.envelope.file_key import gravest, next_header, open_header, seal_header, with_new_slots
from kmsfs.errors import FormatError, IntegrityError, InvalidCiphertextError, KmsfsError
from kmsfs.format import aad
from kmsfs.format.blob import BlobHead, head_prefix, parse_blob_head
from kmsfs.format.header import FileHeader, slots_begin_with
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.keystore.pool import ReadyKey
from kmsfs.keystore.results import EncryptResult
from kmsfs.keystore.transitions import Operation, next_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsfs.ids import FileId, KeyArn, TreeId
    from kmsfs.keystore.service import Keystore


@dataclass(frozen=True, slots=True)
class Target:
    """A key that files are to be under, and what every blob under its current material begins with."""

    head: BlobHead
    prefix: bytes

    @property
    def key_arn(self) -> KeyArn:
        """The key."""
        return self.head.key_arn


Targets = tuple[Target, ...]


class Swap(NamedTuple):
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


class _Plain(NamedTuple):
    """A job whose two header copies are alike."""

    number: int
    copy: bytes
    header: FileHeader
    heads: tuple[BlobHead, ...]  # of its slots
    targets: Targets


@dataclass(slots=True)
class _Opened:
    """The same, with its data key and what slots it gets."""

    plain: _Plain
    data_key: bytes = field(repr=False)
    context: Mapping[str, str]
    slots: dict[bytes, bytes] = field(default_factory=dict)  # by what they begin with: a target's prefix

    def swap(self) -> Swap:
        """The header with the new slots. IntegrityError if the old one is not authentic."""
        plain, header = self.plain, self.plain.header
        sealed = with_new_slots(
            plain.copy, header, self.data_key, [self.slots[target.prefix] for target in plain.targets]
        )
        new = tuple(target.head for target in plain.targets)
        return Swap(header.file_id, header.generation, 0, sealed, plain.heads, new)


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
        head = BlobHead(current.suite, key.arn, current.material_id)
        return Target(head, head_prefix(head))

    def swaps(self, jobs: Sequence[tuple[bytes, Targets]]) -> list[Swap | None]:
        """The swaps of the files that are as almost all are: both copies alike, and the first slot opens.

        All that are under one key are asked for at once, which saves most of what is not the HSM's part. None for any
        other, which ``swap`` then sees to by itself. Raises what concerns a key or its token.
        """
        found: list[Swap | None] = [None] * len(jobs)
        for key_arn, group in self._grouped(jobs).items():
            contexts = [aad.file_context(self._tree_id, plain.header.file_id) for plain in group]
            blobs = [plain.header.slots[0] for plain in group]
            data_keys = self._keystore.unwrap_data_keys(key_arn, blobs, contexts)
            opened = [
                _Opened(plain, data_key, context)
                for plain, data_key, context in zip(group, data_keys, contexts, strict=True)
                if data_key is not None
            ]
            self._wrap_missing(opened)
            for item in opened:
                with suppress(IntegrityError):
                    found[item.plain.number] = item.swap()
        return found

    def _grouped(self, jobs: Sequence[tuple[bytes, Targets]]) -> dict[KeyArn, list[_Plain]]:
        groups: dict[KeyArn, list[_Plain]] = {}
        for number, (raw, targets) in enumerate(jobs):
            copy = raw[:HEADER_COPY_SIZE]
            if raw[HEADER_COPY_SIZE:] != copy:
                continue
            try:
                header = FileHeader.parse(copy)
                known = tuple(map(parse_blob_head, header.slots))
            except FormatError:
                continue
            groups.setdefault(known[0].key_arn, []).append(_Plain(number, copy, header, known, targets))
        return groups

    def _wrap_missing(self, opened: Sequence[_Opened]) -> None:
        """Wrap the data keys under the targets that their files have no current slot of, target by target."""
        missing: dict[bytes, tuple[Target, list[_Opened]]] = {}
        for item in opened:
            for target in item.plain.targets:
                kept = _slot_of(item.plain.header, target)
                if kept is None:
                    missing.setdefault(target.prefix, (target, []))[1].append(item)
                else:
                    item.slots[target.prefix] = kept
        for target, items in missing.values():
            data_keys, contexts = [item.data_key for item in items], [item.context for item in items]
            try:
                made = self._keystore.wrap_data_keys(target.key_arn, data_keys, contexts, "ReEncryptTo")
            except KmsfsError as error:
                raise TargetError(error) from error
            for item, result in zip(items, made, strict=True):
                item.slots[target.prefix] = result.blob

    def swap(self, raw: bytes, targets: Targets) -> Swap | None:
        """What makes a file's 2,048 header bytes current, or None if they are.

        A slot that is current already is kept. One HSM call to open the file, one for each new slot. Raises what is
        wrong with the file, or TargetError.
        """
        if is_current(raw, targets):
            return None
        found: list[bytes] = []

        def unwrap(header: FileHeader) -> bytes:
            found[:] = [self.unwrap(header)]
            return found[0]

        opened = open_header(raw, unwrap)
        header = opened.header
        context = aad.file_context(self._tree_id, header.file_id)
        slots = [_slot_of(header, target) or self._wrap(target, found[0], context) for target in targets]
        sealed = seal_header(next_header(header, slots=tuple(slots)), opened.keys)
        new = tuple(target.head for target in targets)
        return Swap(header.file_id, header.generation, opened.newest_copy, sealed, heads(header.slots), new)

    def fresh(self, file_id: FileId, targets: Targets) -> ReadyKey:
        """A new data key for a file that is there already. Raises TargetError."""
        context = aad.file_context(self._tree_id, file_id)
        wanted = tuple(target.key_arn for target in targets)
        try:
            (made,) = self._keystore.generate_data_keys(wanted[0], [context])
            slots = [EncryptResult(made.blob, made.key_arn, made.material_id)]
            for key_arn in wanted[1:]:
                slots += self._keystore.wrap_data_keys(key_arn, [made.plaintext], [context])
        except KmsfsError as error:
            raise TargetError(error) from error
        return ReadyKey(file_id, made.plaintext, wanted, tuple(slots))

    def _wrap(self, target: Target, data_key: bytes, context: Mapping[str, str]) -> bytes:
        try:
            return self._keystore.rewrap(target.key_arn, data_key, context).blob
        except KmsfsError as error:
            raise TargetError(error) from error

    def unwrap(self, header: FileHeader) -> bytes:
        """The data key of a file from the first slot that yields it."""
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


def _slot_of(header: FileHeader, target: Target) -> bytes | None:
    for blob in header.slots:
        if blob.startswith(target.prefix):
            return blob
    return None


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
