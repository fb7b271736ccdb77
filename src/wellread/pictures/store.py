"""A folder of pictures: their bytes, as they came, by id.

bytes.bin    one picture after the other
index.arrow  id, start and length of each, in the order they were added; replaced as a whole, after the bytes
"""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wellread.extras import install_hint

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PictureStore", "PictureWriter", "open_image"]

COMMIT_EVERY = 4096  # pictures between two commits
_LOG = logging.getLogger(__name__)


class PictureStore:
    """The pictures of a folder. `PictureStore.open(folder)` opens what a PictureWriter wrote."""

    def __init__(self, path: Path, names: list[str], bounds: Any, data: Any) -> None:
        self.path = path
        self._names, self._bounds, self._data = names, bounds, data
        self._row = {name: row for row, name in enumerate(names)}

    @classmethod
    def open(cls, path: str | Path) -> PictureStore:
        """The pictures in a folder. ValueError where there are none or bytes are missing."""
        import numpy as np

        path = Path(path)
        if not (path / "index.arrow").is_file():
            raise ValueError(f"{path} holds no pictures; make it with wellread pictures SOURCE --out {path}.")
        names, bounds = _read_index(path)
        size = (path / "bytes.bin").stat().st_size if (path / "bytes.bin").is_file() else -1
        if size < int(bounds[-1]):
            raise ValueError(f"pictures {path} are damaged (bytes are missing); make the folder again.")
        data = np.memmap(path / "bytes.bin", np.uint8, "r") if size else np.zeros(0, np.uint8)
        return cls(path, names, bounds, data)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def ids(self) -> list[str]:
        """All ids, in the order the pictures were added."""
        return list(self._names)

    def row(self, name: str) -> int:
        """The place of a picture in that order. ValueError where it is not here."""
        if name not in self._row:
            raise ValueError(
                f"picture {name!r} is not in {self.path} ({len(self)} pictures); give an id of this folder."
            )
        return self._row[name]

    def bytes(self, name: str) -> bytes:
        """The file of a picture, as it was added."""
        row = self.row(name)
        return self._data[int(self._bounds[row]) : int(self._bounds[row + 1])].tobytes()

    def copies(self, data: bytes) -> list[str]:
        """The ids of all pictures whose file is this one, byte for byte."""
        import numpy as np

        rows = np.flatnonzero(np.diff(self._bounds) == len(data))
        return [name for name in (self._names[row] for row in rows) if self.bytes(name) == data]

    def image(self, name: str) -> Image:
        """A picture, decoded. ValueError where its bytes are no picture."""
        return open_image(self.bytes(name), name=name)


class PictureWriter:
    """Adds pictures to a folder, new or not. What was committed survives a kill.

    A picture that is there already is passed over; another picture under its id raises ValueError.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.added = 0

    def __enter__(self) -> PictureWriter:
        self.path.mkdir(parents=True, exist_ok=True)
        known = (self.path / "index.arrow").is_file()
        names, bounds = _read_index(self.path) if known else ([], [0])
        self._names: list[str] = list(names)
        self._bounds = [int(bound) for bound in bounds]
        self._row = {name: row for row, name in enumerate(self._names)}
        self._file = open(self.path / "bytes.bin", "r+b" if (self.path / "bytes.bin").exists() else "w+b")
        self._file.truncate(self._bounds[-1])  # bytes behind the last commit
        self._file.seek(self._bounds[-1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        self._file.close()

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def add(self, name: str, data: bytes) -> bool:
        """Add the file of a picture; whether it was new."""
        if name in self._row:
            if self._stored(name) != data:
                raise ValueError(
                    f"picture id {name!r} is taken by another picture in {self.path}; give ids of their own."
                )
            return False
        self._file.write(data)
        self._row[name] = len(self._names)
        self._names.append(name)
        self._bounds.append(self._bounds[-1] + len(data))
        self.added += 1
        if self.added % COMMIT_EVERY == 0:
            self.commit()
        return True

    def commit(self) -> None:
        """Make what was added last."""
        import pyarrow as pa

        self._file.flush()
        os.fsync(self._file.fileno())
        table = pa.table({"id": pa.array(self._names, pa.string()), "end": pa.array(self._bounds[1:], pa.int64())})
        waiting = self.path / f".index.arrow.{os.getpid()}"
        with pa.ipc.new_file(str(waiting), table.schema) as file:
            file.write_table(table)
        os.replace(waiting, self.path / "index.arrow")

    def _stored(self, name: str) -> bytes:
        row = self._row[name]
        self._file.flush()
        place = self._file.tell()
        self._file.seek(self._bounds[row])
        data = self._file.read(self._bounds[row + 1] - self._bounds[row])
        self._file.seek(place)
        return data


def open_image(source: bytes | str | Path, *, name: str | None = None) -> Image:
    """A picture from its bytes or its file, decoded, upright (EXIF), 8 bits a channel. ValueError where it is none that
    Pillow reads."""
    import numpy as np

    try:
        from PIL import Image as images
        from PIL import ImageOps
    except ImportError:
        raise ValueError(f"pictures need Pillow; install it with: {install_hint('vision')}.") from None
    shown = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    try:
        picture = images.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        picture.load()
    except (OSError, SyntaxError, images.DecompressionBombError) as error:  # SyntaxError: Pillow's word for a bad PNG
        reason = "no known format" if isinstance(error, images.UnidentifiedImageError) else str(error)
        raise ValueError(f"{shown} is no picture that can be read ({reason}); give PNG, JPEG, WebP or GIF.") from error
    try:
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, TypeError, ValueError, struct.error) as error:  # Pillow's words for damaged EXIF
        _LOG.debug("%s is taken as it lies: its EXIF cannot be read (%s)", shown, error)
    if picture.mode.startswith("I"):  # Pillow would clip 16-bit greys instead of scaling them
        return images.fromarray((np.asarray(picture, np.float32) / 256).clip(0, 255).astype(np.uint8))
    return picture


def _read_index(path: Path) -> tuple[list[str], Any]:
    import numpy as np
    import pyarrow as pa

    try:
        with pa.memory_map(str(path / "index.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
            names = table.column("id").to_pylist()
            ends = table.column("end").to_numpy()
            return names, np.concatenate([np.zeros(1, np.int64), ends])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"pictures {path} are damaged ({error}); make the folder again.") from error
