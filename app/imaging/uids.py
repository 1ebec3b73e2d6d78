"""What a DICOM UID is: the one definition that everything here goes by."""

import re

UID = r"[0-2](\.(0|[1-9][0-9]*))+"
"""PS3.5, 9.1, and what an OID is to FHIR."""

MAX_UID = 64
"""Characters of a UID."""


def is_uid(text: str) -> bool:
    """Tell whether a text is a valid UID."""
    return len(text) <= MAX_UID and re.fullmatch(UID, text) is not None
