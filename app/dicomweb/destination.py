"""Where results go, and how it is asked in whose name. Neither knows HTTP."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.errors import CredentialsInvalid


class Destination(Protocol):
    """Keeps DICOM instances. It is called on any thread, and waits for the answer."""

    def store(self, instances: Sequence[bytes]) -> None:
        """Store DICOM files, all or none as far as the caller is concerned.

        An instance that is there already counts as stored.

        Raises:
            DicomWebUnavailable: It may succeed later: there is no answer, the answer is a 5xx, 408
                or 429, or one that an operator mends (401, 403, 404, credentials), or a
                `FailureReason` of A7xx (out of resources) or 0110 (processing failure).
            DicomWebRefused: It never will: another 4xx, or another `FailureReason`.
        """


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks a DICOMweb server. What is secret stays in its file: tokens are renewed there.

    Attributes:
        file: Holds the password of `user`, or a bearer token where there is none.
        user: For HTTP Basic.
    """

    file: Path
    user: str | None = None

    def authorization(self) -> str:
        """Make the value of the header `Authorization`, from the file as it is now.

        Raises:
            CredentialsInvalid: The file cannot be read, or holds no single line.
        """
        secret = self._read()
        if self.user is None:
            return f"Bearer {secret}"
        return f"Basic {base64.b64encode(f'{self.user}:{secret}'.encode()).decode()}"

    def _read(self) -> str:
        wanted = f"a password or token in {self.file}"
        try:
            secret = self.file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CredentialsInvalid(wanted, os.strerror(error.errno or 0)) from error
        except UnicodeDecodeError:
            raise CredentialsInvalid(wanted, "no text") from None  # it would quote the bytes
        if not secret.isprintable() or not secret:
            raise CredentialsInvalid(wanted, "an empty file, or several lines")
        return secret
