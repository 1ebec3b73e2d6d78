"""Which DICOM files are read at all, by their headers.

Refused is what the header says to be no frontal chest X-ray, or not in a form that is read. What it
does not say is not held against it: body part and view are often absent or empty, and the release's
own acceptance judges every image. Without a modality nothing says that it is an X-ray, so that one
is wanted. Free texts (`SeriesDescription` and its like) are not looked at.
"""

import re

from app.errors import InputError, NotAChestRadiograph, UnreadableImage, UnsupportedImage
from app.imaging.dicom_file import DicomFile, Header, name, shown
from app.imaging.radiograph import ImageWarning

XRAY_MODALITIES = {"CR", "DX", "DR", "RG"}
"""Computed and digital radiography, DR as some write it, and digitised film."""

CAPTURE_MODALITIES = {"OT", "SC"}
"""What secondary captures come with; one of them has to name the chest."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SOP_CLASSES_FOR_PROCESSING = {
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray Image Storage - For Processing",
}
_CHEST = re.compile("CHEST|THORA|TORAX|LUNG")
_CHEST_CODES = {"T-D3000", "51185008", "816094009", "T-28000", "39607008"}
"""Chest or thorax, and lung, in SNOMED CT and as SNOMED RT codes."""

_SIDE_VIEWS = {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"}
"""Lateral, lateral decubitus, oblique."""

_SIDE_VIEW_WORDS = ("LAT", "LLAT", "RLAT", "OBL", "DECUB", "SAG")
_SIDE_VIEW_CODES = {
    "lateral": ("399067008", "R-102CD"),
    "right lateral": ("399198007", "R-10232"),
    "left lateral": ("399173006", "R-10236"),
    "medial-lateral": ("399260004", "R-10224"),
    "lateral-medial": ("399352003", "R-10228"),
    "sagittal": ("30730003", "G-A145"),
    "oblique": ("399182000", "R-102C1"),
    "left oblique": ("399184004", "R-10238"),
    "right oblique": ("399236003", "R-10234"),
    "left anterior oblique": ("399135007", "R-10220"),
    "left posterior oblique": ("399006002", "R-10212"),
    "right anterior oblique": ("399356000", "R-40985"),
    "right posterior oblique": ("399038007", "R-10210"),
    "antero-posterior oblique": ("399312000", "R-10208"),
    "postero-anterior oblique": ("399059000", "R-10216"),
}
"""Of CID 4010, DX View, in SNOMED CT and as SNOMED RT codes."""

_ORIENTATION = re.compile(r"([APLRFH])[APLRFH]{0,2} *\\ *([APLRFH])[APLRFH]{0,2}")
"""Where rows and columns run: to front, back, left, right, feet or head. The first letter tells the
most of it."""

_GRAY = {"MONOCHROME1", "MONOCHROME2"}
_COLORED = {
    *("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"),
    *("YBR_ICT", "YBR_RCT", "HSV", "ARGB", "CMYK", "XYB"),
}
_MODALITIES = {
    *("AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CD", "CT", "DG", "DOC", "ECG", "EPS", "ES"),
    *("FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D"),
    *("MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPTBSV", "OPTENF", "OPV"),
    *("OSS", "OT", "PLAN", "PR", "PT", "PX", "REG", "RESP", "RF", "RTDOSE", "RTIMAGE"),
    *("RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "SRF", "STAIN"),
    *("TEXTUREMAP", "TG", "US", "VA", "VF", "XA", "XC"),
}
_BODY_PARTS = {
    *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW"),
    *("EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW"),
    *("KNEE", "LEG", "LSPINE", "MAXILLA", "MANDIBLE", "NECK", "PELVIS", "RIB", "SCAPULA"),
    *("SHOULDER", "SINUS", "SKULL", "SPINE", "SSPINE", "STERNUM", "THIGH", "TIBIA", "TOE"),
    *("TSPINE", "WHOLEBODY", "WRIST", "ZYGOMA"),
}
"""Defined terms of the standard: what else is found there is not repeated to anybody."""


def check(file: DicomFile) -> tuple[ImageWarning, ...]:
    """Refuse what is no frontal chest X-ray by its header, or has pixels that are not read.

    Raises:
        NotAChestRadiograph: By modality, body part or view.
        UnsupportedImage: For processing, several frames, colour, or no pixels.
        UnreadableImage: An element that is looked at holds what it cannot hold.
    """
    header = file.header
    _check_modality(header)
    _check_body_part(header)
    _check_view(header)
    turned = _check_orientation(header)
    _check_intent(header)
    _check_pixels(file)
    return turned + _warn_of_text(header)


def _warn_of_text(header: Header) -> tuple[ImageWarning, ...]:
    if header.text("BurnedInAnnotation").upper() != "YES":
        return ()
    detail = "Text is burned into the image: the model was not made for it, and it may be a name."
    return (ImageWarning("burned-in-annotation", detail),)


def _check_modality(header: Header) -> None:
    modality = header.text("Modality").upper()
    if modality in XRAY_MODALITIES:
        return
    if modality not in CAPTURE_MODALITIES:
        wanted = "CR, DX, DR or RG, or a secondary capture of the chest"
        raise _refused(NotAChestRadiograph, "Modality", wanted, shown(modality, _MODALITIES))
    if not header.text("SOPClassUID").startswith(_SECONDARY_CAPTURE):
        wanted = f"Secondary Capture Image Storage where the modality is {modality}"
        raise _refused(NotAChestRadiograph, "SOPClassUID", wanted, "another class")
    if not _says_chest(header):
        wanted = f"CHEST where the modality is {modality}"
        body_part = shown(header.text("BodyPartExamined").upper(), _BODY_PARTS)
        raise _refused(NotAChestRadiograph, "BodyPartExamined", wanted, body_part)


def _check_body_part(header: Header) -> None:
    if _says_chest(header):
        return
    if body_part := header.text("BodyPartExamined").upper():
        received = shown(body_part, _BODY_PARTS)
        raise _refused(NotAChestRadiograph, "BodyPartExamined", "CHEST", received)
    if _code(header, "AnatomicRegionSequence"):
        wanted = "816094009 (chest)"
        raise _refused(NotAChestRadiograph, "AnatomicRegionSequence", wanted, "another code")


def _says_chest(header: Header) -> bool:
    if body_part := header.text("BodyPartExamined").upper():
        return bool(_CHEST.search(body_part))
    return _code(header, "AnatomicRegionSequence") in _CHEST_CODES


def _check_view(header: Header) -> None:
    view = header.text("ViewPosition").upper()
    for word in re.findall("[A-Z]+", view):
        if word in _SIDE_VIEWS or word.startswith(_SIDE_VIEW_WORDS):
            received = shown(word, _SIDE_VIEWS | {"LATERAL", "OBLIQUE", "DECUBITUS"})
            raise _refused(NotAChestRadiograph, "ViewPosition", "AP or PA", received)
    code = _code(header, "ViewCodeSequence")
    for side, codes in _SIDE_VIEW_CODES.items():
        if code in codes:
            wanted = "an antero-posterior or postero-anterior view"
            raise _refused(NotAChestRadiograph, "ViewCodeSequence", wanted, side)


def _check_orientation(header: Header) -> tuple[ImageWarning, ...]:
    """Refuse a side view, and warn of pixels that are mirrored or turned: they stay as they are.

    What is no orientation of a person says nothing.
    """
    try:
        orientation = _ORIENTATION.fullmatch(header.text("PatientOrientation").upper())
    except UnreadableImage:
        return ()
    if orientation is None:
        return ()
    across, down = orientation.groups()
    if across in "AP" or down in "AP":
        wanted = "rows and columns that run to the left, right, head or feet"
        raise _refused(NotAChestRadiograph, "PatientOrientation", wanted, "one to front or back")
    if (across, down) == ("L", "F") or (across in "LR") == (down in "LR"):
        return ()
    detail = (
        f"{name('PatientOrientation')} says that the image is mirrored or turned; it was taken as "
        "it is stored."
    )
    return (ImageWarning("orientation-not-applied", detail),)


def _code(header: Header, keyword: str) -> str:
    item = header.first(keyword)
    return item.text("CodeValue") if item else ""


def _check_intent(header: Header) -> None:
    intent = header.text("PresentationIntentType").upper()
    if intent == "FOR PROCESSING":
        raise _refused(UnsupportedImage, "PresentationIntentType", "FOR PRESENTATION", intent)
    if sop_class := _SOP_CLASSES_FOR_PROCESSING.get(header.text("SOPClassUID")):
        wanted = "Digital X-Ray Image Storage - For Presentation"
        raise _refused(UnsupportedImage, "SOPClassUID", wanted, sop_class)


def _check_pixels(file: DicomFile) -> None:
    header = file.header
    if file.pixels.is_empty:
        raise _refused(UnsupportedImage, "PixelData", "pixels", "none")
    frames = header.whole("NumberOfFrames")
    if frames is not None and frames != 1:
        raise _refused(UnsupportedImage, "NumberOfFrames", "1", f"{frames}"[:16])
    samples = header.whole("SamplesPerPixel")
    if samples not in (None, 1):
        raise _refused(UnsupportedImage, "SamplesPerPixel", "1 (gray)", f"{samples}"[:16])
    photometric = header.text("PhotometricInterpretation").upper()
    if photometric not in _GRAY:
        wanted = "MONOCHROME1 or MONOCHROME2"
        raise _refused(
            UnsupportedImage, "PhotometricInterpretation", wanted, shown(photometric, _COLORED)
        )


def _refused(kind: type[InputError], keyword: str, expected: str, received: str) -> InputError:
    return kind(f"{expected} in {name(keyword)}", received)
