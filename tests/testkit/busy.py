"""A program that does anything to files of its own, and knows what must come of it.

Run as ``python busy.py SEED DIRECTORY STEPS``. Compares all along and at the end; exits with 1 and says what differs.
Directories that are there already stay, and may be zones, between which files move and other directories do not.
"""

import errno
import os
import random
import shutil
import sys
from mmap import mmap

NAMES = [f"{letter}{'-long' * length}" for letter in "abcdefgh" for length in (0, 45)]
SIZES = [0, 1, 100, 4095, 4096, 4097, 10_000, 70_000, 300_000]


class Busy:
    """Files below one directory, and a model of them: content by path."""

    def __init__(self, seed: int, top: str) -> None:
        self.choose = random.Random(seed)
        self.directories = [place for place, _, _ in os.walk(top)]
        self.given = frozenset(self.directories)
        self.files: dict[str, bytearray] = {}

    def new_path(self) -> str:
        return f"{self.choose.choice(self.directories)}/{self.choose.choice(NAMES)}"

    def old_path(self) -> str:
        while not self.files:
            self.create()
        return self.choose.choice(sorted(self.files))

    def data(self) -> bytes:
        return self.choose.randbytes(self.choose.choice(SIZES))

    def create(self) -> None:
        path, data = self.new_path(), self.data()
        if path not in self.directories:
            with open(path, "wb") as file:
                file.write(data)
            self.files[path] = bytearray(data)

    def write(self) -> None:
        path, data = self.old_path(), self.data()
        model = self.files[path]
        at = self.choose.choice([0, len(model), self.choose.randint(0, 2 * len(model) + 1)])
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(data)
        if data:
            model.extend(bytes(max(0, at - len(model))))
            model[at : at + len(data)] = data

    def truncate(self) -> None:
        path, size = self.old_path(), self.choose.choice(SIZES)
        os.truncate(path, size)
        model = self.files[path]
        del model[size:]
        model.extend(bytes(size - len(model)))

    def map(self) -> None:
        path = self.old_path()
        model = self.files[path]
        if model:
            at = self.choose.randrange(len(model))
            with open(path, "r+b") as file, mmap(file.fileno(), 0) as mapped:
                assert mapped[:] == model, f"mapping of {path}"
                mapped[at : at + 1] = model[at : at + 1] = b"m"

    def read(self) -> None:
        path = self.old_path()
        with open(path, "rb") as file:
            assert file.read() == self.files[path], f"content of {path}"
        assert os.stat(path).st_size == len(self.files[path]), f"size of {path}"

    def rename(self) -> None:
        old, new = self.old_path(), self.new_path()
        if new not in self.directories:
            os.rename(old, new)
            self.files[new] = self.files.pop(old)

    def rename_open(self) -> None:
        old, new = self.old_path(), self.new_path()
        if new in self.directories:
            return
        before, after = self.data(), self.data()
        with open(old, "ab", buffering=0) as file:
            file.write(before)
            if self.choose.random() < 0.5:
                os.fsync(file.fileno())
            os.rename(old, new)
            self.files[new] = self.files.pop(old)
            file.write(after)
            if self.choose.random() < 0.5:
                os.fsync(file.fileno())
        self.files[new] += before + after

    def remove(self) -> None:
        path = self.old_path()
        os.unlink(path)
        del self.files[path]

    def make_directory(self) -> None:
        path = self.new_path()
        if path not in self.files and path not in self.directories and path.count("/") < 40:
            os.mkdir(path)
            self.directories.append(path)

    def move_directory(self) -> None:
        old, new = self.choose.choice(self.directories), self.new_path()
        if old in self.given or new.startswith(f"{old}/") or os.path.lexists(new):
            return
        try:
            os.rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return
        self.directories = [_moved(path, old, new) for path in self.directories]
        self.files = {_moved(path, old, new): content for path, content in self.files.items()}

    def remove_directory(self) -> None:
        path = self.choose.choice([path for path in self.directories if path not in self.given] or [""])
        if path and self.choose.random() < 0.3:
            shutil.rmtree(path)
            self.directories = [other for other in self.directories if not f"{other}/".startswith(f"{path}/")]
            self.files = {
                other: data for other, data in self.files.items() if not other.startswith(f"{path}/")
            }

    def compare(self) -> None:
        found = {}
        for directory, _, names in os.walk(self.directories[0]):
            for name in names:
                path = f"{directory}/{name}"
                with open(path, "rb") as file:
                    found[path] = file.read()
        assert sorted(found) == sorted(self.files), "names"
        for path, content in found.items():
            assert content == self.files[path], f"content of {path}"

    def run(self, steps: int) -> None:
        often = [
            self.create,
            self.write,
            self.write,
            self.read,
            self.read,
            self.truncate,
            self.rename,
            self.rename_open,
            self.map,
        ]
        seldom = [self.remove, self.make_directory, self.move_directory, self.remove_directory]
        for step in range(steps):
            self.choose.choice(often * 3 + seldom)()
            if step % 200 == 199:
                self.compare()
        self.compare()


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if f"{path}/".startswith(f"{old}/") else path


if __name__ == "__main__":
    Busy(int(sys.argv[1]), sys.argv[2]).run(int(sys.argv[3]))
