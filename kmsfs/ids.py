"""Names for the values that travel between layers."""

from typing import NewType

FileId = NewType("FileId", bytes)  # 32 random bytes, one per encrypted file
DirId = NewType("DirId", bytes)  # 16 random bytes, one per directory
TreeId = NewType("TreeId", bytes)  # 16 random bytes, one per tree
MaterialId = NewType("MaterialId", bytes)  # 32 bytes (AWS: 64 hex digits); also the CKA_ID in the token
KeyId = NewType("KeyId", str)  # UUID of a CMK, or mrk- and 32 hex digits
KeyArn = NewType("KeyArn", str)  # arn:aws:kms:REGION:ACCOUNT:key/KEYID
Region = NewType("Region", str)  # us-east-1
ChunkIndex = NewType("ChunkIndex", int)
PlainOffset = NewType("PlainOffset", int)  # bytes from the start of the clear content
CipherOffset = NewType("CipherOffset", int)  # bytes from the start of the backing file
