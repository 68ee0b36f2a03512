# SPDX-License-Identifier: Apache-2.0
"""DICOM radiographs as 8-bit pictures, as their header wants them shown (DICOM PS3.3, C.7.6.3, C.11.1 and C.11.2)."""

import re
import unicodedata
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from .grey_levels_medtvt import check_size, to_uint8
from .patient_medtvt import Patient
from .read_picture_cxr_medtvt import to_grey_or_rgb


RADIOGRAPHS = ("CR", "DX", "DR", "RG")
# Modalities that are no radiograph (PS3.3, C.7.3.1.1.1). A word that is in neither list tells nothing.
OTHER_MODALITIES = set(
    "AR AU BDUS BI BMD CFM CT CTPROTOCOL DG DOC ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS "
    "MG MR NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS PLAN PR PT PX REG RESP RF RTDOSE RTIMAGE RTPLAN RTRECORD "
    "RTSTRUCT RWV SEG SM SMR SR SRF STAIN TG US VA XA XC".split()
)
# Searched in the header's word without accents; the languages are those of the countries that export them
CHEST_WORDS = (
    "CHEST THORAX TORAX TORACE LUNG POITRINE PULMON POUMON POLMON BRUSTKORB BORSTKAS RIBCAGE PIERSIOWA".split()
)
CHEST_WORDS += ["ГРУД", "胸", "흉부"]
OTHER_BODY_PARTS = set(
    "ABDOMEN ANKLE ARM BREAST CALCANEUS CLAVICLE COCCYX COLUMN CSPINE ELBOW EXTREMITY EYE FACE FEMUR FINGER FOOT "
    "FOREARM HAND HEAD HIP HUMERUS JAW KIDNEY KNEE LEG LIVER LSPINE MANDIBLE MAXILLA NECK ORBIT PATELLA PELVIS PROSTATE "
    "SACRUM SCAPULA SHOULDER SINUS SKULL SPINE SSPINE TEETH THIGH THUMB TIBIA TOE TOOTH TSPINE UTERUS WHOLEBODY WRIST "
    "BECKEN KNIE SCHADEL SCHULTER HUFTE FUSS BASSIN GENOU EPAULE CRANE HANCHE PIED CADERA RODILLA MANO PIE "
    "CRANEO HOMBRO PELVE BACINO GINOCCHIO SPALLA CRANIO".split()
)
FRONTAL_VIEWS = {"PA", "AP", "POSTEROANTERIOR", "ANTEROPOSTERIOR", "FRONTAL", "FRONT", "ANTERIOR", "POSTERIOR"}
OTHER_VIEWS = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"}
OTHER_VIEWS |= {"OBLIQUE", "PROFIL", "PROFILE", "PERFIL", "SEITLICH", "AXIAL", "LORDOTIC", "DECUBITUS", "SWIMMERS"}


class DicomDisplayError(ValueError):
    """A header that cannot be applied to the pixels. Unlike pydicom's, its text quotes no header."""


class DicomFilm(NamedTuple):
    """A picture (L or RGB), what speaks against a frontal chest film, the patient, and what the header declares."""

    image: Image.Image
    doubts: list[str]
    patient: Patient
    declared: dict[str, Any]


def _import_pydicom() -> Any:
    # Inside `try`, or loading this file as remote code would demand pydicom of everyone.
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ImportError('cxr: DICOM files need pydicom 3 or later: pip install "medtvt-r1[dicom]"') from error
    return pydicom


def read_dicom_file(file: IO[bytes], name: str, notes: list[str]) -> DicomFilm:
    """
    A DICOM radiograph to 8-bit grey or RGB: modality LUT, then the first VOI LUT or window if there is one, then
    inversion of MONOCHROME1. Padding is no part of the range, and black. No message repeats header text other than
    modality, body part, view and technical fields.

    Raises:
        ImportError: without pydicom, or where no decoder of the file's compression is installed.
        ValueError: if it is no readable radiograph, or its header says that it shows something else.
    """
    pydicom = _import_pydicom()
    try:
        syntax = _read_transfer_syntax(file)
        file.seek(0)
        # Inflating happens while reading, before any size could be checked.
        header = None if syntax.is_deflated else pydicom.dcmread(file, stop_before_pixels=True)
    # pydicom raises many types on broken files, and their text may quote the header.
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM header cannot be read.") from error
    if header is None:
        raise ValueError(f"cxr {name}: {_syntax_name(syntax)} is not accepted; store it without deflation.")
    doubts, declared = _check_header(header, name, notes)
    _check_decoder(syntax, name)

    file.seek(0)
    try:
        dataset = pydicom.dcmread(file)
        patient = read_dicom_patient(dataset)
        stored = _read_stored_values(dataset, syntax)
        is_grey = stored.ndim == 2
        ignored = _padding(stored, dataset, notes) if is_grey else None
        show = _display(stored, dataset, syntax, notes) if is_grey else None
    except DicomDisplayError as error:
        raise ValueError(f"cxr {name}: its DICOM pixels cannot be shown: {error}.") from error
    # As above
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM pixels cannot be decoded ({type(error).__name__}).") from error
    pixels = to_uint8(stored, name, notes, ignored, show)
    if is_grey and declared["polarity"] == "MONOCHROME1":
        notes.append("cxr: inverted, since its DICOM header says MONOCHROME1 (white is low)")
        pixels = 255 - pixels
        if ignored is not None:
            pixels[ignored] = 0
    return DicomFilm(to_grey_or_rgb(Image.fromarray(pixels), name, notes), doubts, patient, declared)


def _read_transfer_syntax(file: IO[bytes]) -> Any:
    pydicom = _import_pydicom()
    file.seek(132)
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return meta.TransferSyntaxUID


def _syntax_name(syntax: Any) -> str:
    return syntax.name if syntax.name != str(syntax) else "(unknown)"


def read_dicom_patient(dataset: Any) -> Patient:
    """Age in years (stated, or at the date of the study) and sex of a DICOM data set; None where it does not tell."""
    sex = str(dataset.get("PatientSex") or "").strip().upper()
    patient = Patient(age=None, sex="F" if sex == "F" else "M" if sex == "M" else None)
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", str(dataset.get("PatientAge") or "").strip().upper())
    if stated:
        patient["age"] = int(stated[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}[stated[2]]
        return patient
    born, seen = (str(dataset.get(keyword) or "") for keyword in ("PatientBirthDate", "StudyDate"))
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", seen):
        years = int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])
        patient["age"] = float(years) if 0 <= years <= 120 else None
    return patient


def _fold(word: Any) -> str:
    """Upper case without accents. pydicom takes code strings for Latin-1, though devices write them in UTF-8 too."""
    text = str(word or "")
    try:
        text = text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    text = unicodedata.normalize("NFKD", text.upper())
    return "".join(c for c in text if not unicodedata.combining(c))


def _check_header(header: Any, name: str, notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    try:
        modality = _fold(header.get("Modality")).strip()
        body_part = _fold(header.get("BodyPartExamined")) or _fold_code(header, "AnatomicRegionSequence")
        view = _fold(header.get("ViewPosition")) or _fold_code(header, "ViewCodeSequence")
        rows_run_to = _fold(np.ravel(header.get("PatientOrientation") or [""])[0])
        photometric = str(header.get("PhotometricInterpretation") or "")
        shape = _fold(header.get("PresentationLUTShape"))
        width, height, frames, bits = (
            int(header.get(keyword) or 0) for keyword in ("Columns", "Rows", "NumberOfFrames", "BitsStored")
        )
    # The text of pydicom's error may quote the header.
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM header holds values that cannot be read.") from error
    if not width or not height:
        known = modality if modality in OTHER_MODALITIES or modality in RADIOGRAPHS else "not stated"
        raise ValueError(f"cxr {name}: this DICOM file has no image (modality {known}).")
    if modality in OTHER_MODALITIES:
        raise ValueError(
            f"cxr {name}: DICOM modality {modality!r}; accepted are {', '.join(RADIOGRAPHS)} or none stated."
        )
    if modality and modality not in RADIOGRAPHS:
        notes.append("cxr: the modality in its DICOM header is not known here as a radiograph")
    if frames > 1:
        raise ValueError(f"cxr {name}: holds {frames} DICOM frames; one is expected.")
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not photometric.startswith("YBR_"):
        found = photometric if photometric in ("PALETTE COLOR", "HSV", "ARGB", "CMYK") else "not stated or not known"
        raise ValueError(
            f"cxr {name}: DICOM photometric interpretation {found}; accepted are MONOCHROME1, MONOCHROME2, RGB and YBR."
        )
    check_size(width, height, name)
    _check_body_part(body_part, name, notes)
    if photometric.startswith("MONOCHROME") and shape in ("IDENTITY", "INVERSE"):
        if (shape == "INVERSE") != (photometric == "MONOCHROME1"):
            notes.append(
                f"cxr: its DICOM header contradicts itself on what is white ({photometric}, presentation {shape}); "
                f"shown as {photometric}"
            )
    declared = {"format": "DICOM", "bits": bits, "polarity": photometric, "view": view, "body_part": body_part}
    return _doubts_of_view(view, rows_run_to, notes), declared


def _fold_code(header: Any, keyword: str) -> str:
    items = header.get(keyword)
    return _fold(items[0].get("CodeMeaning")) if items else ""


def _words(text: str) -> set[str]:
    words = set(re.split(r"[\W_\d]+", text))
    return words | {word.removesuffix("S") for word in words}


def _check_body_part(body_part: str, name: str, notes: list[str]) -> None:
    if any(word in body_part for word in CHEST_WORDS):
        return
    others = sorted(_words(body_part) & OTHER_BODY_PARTS)
    if others:
        raise ValueError(
            f"cxr {name}: its DICOM header states body part {others[0]!r}, not a chest; if the header is wrong, pass "
            "the picture itself (PNG or array)."
        )
    unknown = " in words that are known here" if body_part.strip() else ""
    notes.append(f"cxr: its DICOM header does not state{unknown} that this is a chest")


def _doubts_of_view(view: str, rows_run_to: str, notes: list[str]) -> list[str]:
    """What the header says against a frontal view; what it says in no known word is noted."""
    words = _words(view.replace(".", "").replace("-", ""))
    others = sorted(words & OTHER_VIEWS)
    doubts = []
    if others:
        doubts.append(f"cxr: its DICOM header states view {others[0]!r}, not a frontal one (PA, AP)")
    elif not words & FRONTAL_VIEWS:
        if view.strip():
            notes.append("cxr: its DICOM header states a view that is not known here, where PA or AP is expected")
        # the direction of the rows: towards the patient's left in a frontal film
        if rows_run_to[:1] in ("A", "P"):
            doubts.append(
                "cxr: its DICOM header states that the picture runs from front to back, as in a lateral view"
            )
    if rows_run_to[:1] == "R":
        notes.append("cxr: its DICOM header states that the patient's right is on the right of the picture (mirrored)")
    return doubts


def _check_decoder(syntax: Any, name: str) -> None:
    pydicom = _import_pydicom()
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"cxr {name}: DICOM transfer syntax {_syntax_name(syntax)} is not supported.") from error
    if not decoder.is_available:
        raise ImportError(
            f"cxr {name}: no decoder is installed for DICOM transfer syntax {_syntax_name(syntax)}; it needs one of: "
            f"{'; '.join(decoder.missing_dependencies)} (gdcm is python-gdcm on PyPI)."
        )


def _read_stored_values(dataset: Any, syntax: Any) -> np.ndarray:
    """(H, W), or (H, W, 3) RGB. Bits above or below those that are stored are no part of the values."""
    pydicom = _import_pydicom()
    stored, allocated = dataset.get("BitsStored"), dataset.get("BitsAllocated")
    high = dataset.get("HighBit")
    below = 0 if high is None or syntax.is_encapsulated or "PixelData" not in dataset else high + 1 - stored
    if not below:
        return pydicom.pixels.pixel_array(dataset)
    if not 0 < below <= allocated - stored:
        raise DicomDisplayError(f"{stored} bits stored of {allocated}, the highest at {high}, which is impossible")
    values = pydicom.pixels.pixel_array(dataset, correct_unused_bits=False)
    return (values << (allocated - stored - below)) >> (allocated - stored)


def _padding(stored: np.ndarray, dataset: Any, notes: list[str]) -> np.ndarray | None:
    """Pixels whose stored value says that nothing was measured there (PS3.3, C.7.5.1.1.2)."""
    limits = [dataset.get("PixelPaddingValue")]
    if limits[0] is None:
        return None
    limits.append(dataset.get("PixelPaddingRangeLimit"))
    span = 2 ** (8 * stored.dtype.itemsize)
    signed = stored.dtype.kind == "i"
    # A header may give a negative value as an unsigned number, and the other way round.
    numbers = [
        (int(limit) + (span // 2) * signed) % span - (span // 2) * signed for limit in limits if limit is not None
    ]
    ignored = (stored >= min(numbers)) & (stored <= max(numbers))
    share = float(ignored.mean())
    if not share:
        return None
    notes.append(
        f"cxr: {share:.1%} of the picture is padding by its DICOM header, where nothing was measured; drawn black"
    )
    return ignored


def _display(
    stored: np.ndarray, dataset: Any, syntax: Any, notes: list[str]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """What is to be done with each stored value: into 0..1 if the header gives a VOI LUT or a window."""
    modality = _modality_transform(stored, dataset, syntax)
    ends = np.array([stored.min(), stored.max()], dtype=np.float64)
    voi = _voi_transform(ends if modality is None else modality(ends), dataset, syntax, notes)
    steps = [step for step in (modality, voi) if step is not None]
    if not steps:
        return None

    def show(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        for step in steps:
            values = step(values)
        return values

    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return show
    # A table of what each value becomes is faster than the steps, and needs less memory.
    low = int(ends[0])
    table = show(np.arange(low, int(ends[1]) + 1))
    return lambda values: table[values.astype(np.int32) - low]


def _modality_transform(stored: np.ndarray, dataset: Any, syntax: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    if dataset.get("ModalityLUTSequence"):
        return _read_lut(dataset.ModalityLUTSequence[0], syntax, float(stored.min())).look_up
    slope, intercept = (dataset.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is None and intercept is None:
        return None
    factor, offset = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    return lambda values: values * factor + offset


def _voi_transform(
    ends: np.ndarray, dataset: Any, syntax: Any, notes: list[str]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """The first VOI LUT, else the first window: the default one. `ends` are the lowest and highest stored value."""
    if dataset.get("VOILUTSequence"):
        lut = _read_lut(dataset.VOILUTSequence[0], syntax, float(ends.min()))
        notes.append("cxr: grey values mapped to 0..255 by the lookup table of its DICOM header")
        if lut.bits != lut.declared_bits:
            notes.append(f"cxr: this lookup table holds {lut.bits} bits, though its header says {lut.declared_bits}")
        return lambda values: lut.look_up(values) / (2**lut.bits - 1)
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    center, width = (float(np.ravel(dataset[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth"))
    notes.append(
        f"cxr: grey values mapped to 0..255 by the window of its DICOM header (center {center:g}, width {width:g})"
    )
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if not width > 0:
        raise DicomDisplayError(f"window width {width:g}, which must be positive")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise DicomDisplayError("its window has another function than LINEAR, LINEAR_EXACT and SIGMOID")
    return lambda values: _apply_window(values, center, width, function)


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output range of 0..1."""
    if function == "SIGMOID":
        # tanh form of the standard's 1 / (1 + exp(-4 x)), which cannot overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function == "LINEAR":
        # The standard's definition for integer pixels; width 1 is a threshold.
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.clip((values - center) / width + 0.5, 0, 1)


class LookupTable(NamedTuple):
    """A LUT of a DICOM header: its first entry stands for the value `first` and all below."""

    first: int
    entries: np.ndarray
    declared_bits: int
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        index = np.clip(values - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return self.entries[index]


def _read_lut(item: Any, syntax: Any, lowest: float) -> LookupTable:
    """PS3.3 C.11.1.1 and C.11.2.1.1; `lowest` is the lowest value that will be looked up. pydicom's own has limits."""
    number, first, declared_bits = (int(value) & 0xFFFF for value in item.LUTDescriptor)
    number = number or 65536
    if first >= 32768 and lowest < 0:  # a negative number that is written as an unsigned one
        first -= 65536
    words = item.LUTData
    if isinstance(words, bytes):
        order = "<u2" if syntax.is_little_endian else ">u2"
        words = np.frombuffer(words[: len(words) // 2 * 2], order)
    entries = np.atleast_1d(np.asarray(words, dtype=np.int64)) & 0xFFFF
    if len(entries) < number <= 2 * len(entries) and declared_bits <= 8:  # two entries a word, the lower byte first
        entries = entries.astype("<u2").view(np.uint8)
    if len(entries) < number:
        raise DicomDisplayError(f"its lookup table holds {len(entries)} of {number} entries")
    entries = entries[:number].astype(np.float64)
    # Tables of 12 bits declared as 16, and the like, occur: the highest entry tells.
    return LookupTable(first, entries, declared_bits, max(1, int(entries.max()).bit_length()))


__all__ = ["DicomFilm", "read_dicom_file", "read_dicom_patient"]
