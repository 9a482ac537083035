"""A source tree to unpack: as many files, and as large, as a middling project, the same bytes every time."""

import io
import random
import tarfile
from pathlib import Path

FILES = 2450
TOTAL_BYTES = 104_000_000
ROOT_NAME = "source"
SEED = 20_240


def _sizes(rng: random.Random, count: int, total: int) -> list[int]:
    """Many small files and a few large ones, as in real trees, that add up to ``total``."""
    weights = [rng.lognormvariate(0.0, 1.8) for _ in range(count)]
    scale = total / sum(weights)
    sizes = [int(weight * scale) for weight in weights]
    sizes[0] += total - sum(sizes)
    return sizes


def _directories(rng: random.Random, count: int) -> list[str]:
    names = [ROOT_NAME]
    for number in range(count - 1):
        parent = rng.choice(names)
        if parent.count("/") > 5:
            parent = ROOT_NAME
        names.append(f"{parent}/{rng.choice(('lib', 'src', 'test', 'include', 'doc'))}_{number:03d}")
    return names


def write_tar(target: Path, *, files: int = FILES, total_bytes: int = TOTAL_BYTES) -> None:
    """Write the tree as a tar archive."""
    rng = random.Random(SEED)
    directories = _directories(rng, max(2, files // 15))
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o755
            archive.addfile(entry)
        for number, size in enumerate(_sizes(rng, files, total_bytes)):
            suffix = rng.choice((".c", ".h", ".py", ".txt", ".rst"))
            entry = tarfile.TarInfo(f"{rng.choice(directories)}/file_{number:04d}{suffix}")
            entry.size = size
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(rng.randbytes(size)))
