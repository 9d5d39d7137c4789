"""Speech embeds on their way to vLLM, which would unpickle whatever a client sends: only the numbers of theirs get through.

What arrives is a zip archive around a pickle, as torch.save makes it. The numbers are taken out of it, and an archive of our own is made
of them; the client's pickle is never read. Q queries, H hidden size.
"""

import base64
import binascii
import io
import zipfile

import torch

# What torch.save writes around the numbers.
_AROUND_BYTES = 4096


class Embeds:
    """queries, hidden: the shape (Q, H) that speech embeds have here. dtype: their numbers, those that the language model is stored in."""

    def __init__(self, queries: int, hidden: int, dtype: torch.dtype) -> None:
        self._shape = (queries, hidden)
        self._dtype = dtype
        self._bytes = dtype.itemsize * queries * hidden

    @property
    def longest(self) -> int:
        """Characters of base64 that are enough for any honest client."""
        return (self._bytes + _AROUND_BYTES) * 4 // 3 + 4

    def cleaned(self, data: str) -> str:
        """Base64 of a saved tensor (Q, H), contiguous and of the dtype, to base64 of the same saved here. Raises ValueError: it is none."""
        if len(data) > self.longest:
            raise ValueError("the speech embeds are larger than this model's")
        numbers = torch.frombuffer(bytearray(self._storage(data)), dtype=self._dtype).view(self._shape)
        # A NaN would stay in the memory that vLLM shares between requests.
        if not torch.isfinite(numbers).all():
            raise ValueError("the speech embeds hold something that is no number")
        buffer = io.BytesIO()
        torch.save(numbers.clone(), buffer)
        return base64.b64encode(buffer.getvalue()).decode()

    def _storage(self, data: str) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(base64.b64decode(data, validate=True))) as archive:
                (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
                # Nothing is unpacked: what is stored is as long as it says.
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != self._bytes:
                    numbers = str(self._dtype).removeprefix("torch.")
                    raise ValueError(f"the speech embeds are not {self._shape[0]} times {self._shape[1]} numbers in {numbers}")
                return archive.read(entry)
        except (binascii.Error, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
            raise ValueError(f"the speech embeds are no saved tensor ({type(error).__name__})") from error
