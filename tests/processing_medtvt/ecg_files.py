# SPDX-License-Identifier: Apache-2.0
"""A drawn ECG, and writers of it in the formats of hospital systems: small, valid, made for the tests."""

import base64
import binascii
import json
import struct
import zlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence


LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
LIMB = np.array([(1, 0), (0, 1), (-1, 1), (-0.5, -0.5), (1, -0.5), (-0.5, 1)])
RATE = 500


def draw_ecg(seconds=10.0, rate=RATE, seed=0):
    """(12, samples) in mV, leads as in LEADS: 72 beats a minute, P, QRS and T, a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    # P, Q, R, S, T: when after the beat (s), how wide (s), how high in I, II, V1-V6 (mV)
    waves = [
        (-0.16, 0.025, [0.08, 0.15, 0.05, 0.08, 0.08, 0.08, 0.08, 0.08]),
        (-0.025, 0.009, [-0.06, -0.08, 0, 0, 0, -0.05, -0.1, -0.1]),
        (0.0, 0.011, [0.6, 1.1, 0.2, 0.4, 0.8, 1.3, 1.2, 1.0]),
        (0.028, 0.011, [-0.1, -0.15, -0.9, -1.2, -0.7, -0.4, -0.2, -0.1]),
        (0.27, 0.045, [0.2, 0.3, -0.05, 0.4, 0.5, 0.4, 0.35, 0.3]),
    ]
    eight = rng.normal(0, 0.005, (8, time.size))
    for beat in np.arange(0.5, seconds, 60 / 72):
        for start, width, heights in waves:
            eight += np.outer(heights, np.exp(-0.5 * ((time - beat - start) / width) ** 2))
    return np.concatenate([LIMB @ eight[:2], eight[2:]])


def write_muse(path, signal, microvolts=4.88):
    """GE MUSE XML: eight leads, after a median beat that no reader may take."""
    lead = (
        "<LeadData><LeadByteCountTotal>{bytes}</LeadByteCountTotal><LeadSampleCountTotal>{samples}</LeadSampleCountTotal>"
        "<LeadAmplitudeUnitsPerBit>{scale}</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
        "<LeadID>{name}</LeadID><LeadSampleSize>2</LeadSampleSize><LeadDataCRC32>{crc}</LeadDataCRC32>"
        "<WaveFormData>{data}</WaveFormData></LeadData>"
    )
    waveforms = ""
    for kind, values in (("Median", signal[:, :600] * 3), ("Rhythm", signal)):
        leads = ""
        for name in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"):
            data = np.rint(values[LEADS.index(name)] * 1000 / microvolts).astype("<i2").tobytes()
            text = base64.b64encode(data).decode()
            leads += lead.format(
                bytes=len(data), samples=len(data) // 2, scale=microvolts, name=name, crc=zlib.crc32(data), data=text
            )
        waveforms += (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{RATE}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
        )
    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><RestingECG><PatientDemographics><PatientAge>61</PatientAge>'
        "<AgeUnits>YEARS</AgeUnits><Gender>FEMALE</Gender><PatientLastName>Zbigniew</PatientLastName>"
        f"</PatientDemographics>{waveforms}</RestingECG>"
    )


def write_philips(path, signal):
    """Philips SierraECG XML in UTF-16, with the calibration pulse that follows the rhythm."""
    pulse = np.zeros((12, RATE // 2))
    pulse[:, 50:150] = 1
    counts = np.rint(np.concatenate([signal, pulse], axis=1) * 1000 / 5).astype("<i2")
    data = base64.b64encode(counts.tobytes()).decode()
    text = (
        '<?xml version="1.0" encoding="UTF-16"?><restingecgdata><documentinfo><documenttype>SierraECG</documenttype>'
        "<documentversion>1.04.01</documentversion></documentinfo><patient><generalpatientdata><age><years>70</years>"
        "</age><sex>Male</sex></generalpatientdata></patient><waveforms>"
        f'<parsedwaveforms dataencoding="Base64" samplespersecond="{RATE}" resolution="5" signalsigned="True" '
        f'durationperchannel="{counts.shape[1] * 1000 // RATE}" numberofleads="12" leadlabels="{" ".join(LEADS)}">{data}'
        "</parsedwaveforms></waveforms></restingecgdata>"
    )
    path.write_bytes(text.encode("utf-16"))


def write_aecg(path, signal, rate=RATE):
    """HL7 aECG: limb leads last, as many devices have them."""
    sequences = (
        '<component><sequence><code code="TIME_RELATIVE"/><value><head value="0" unit="s"/>'
        f'<increment value="{1 / rate!r}" unit="s"/></value></sequence></component>'
    )
    for name in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "aVR", "aVL", "aVF"):
        digits = " ".join(map(str, np.rint(signal[LEADS.index(name)] * 1000 / 2.5).astype(int)))
        sequences += (
            f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/><value><origin value="0" unit="uV"/>'
            f'<scale value="2.5" unit="uV"/><digits>{digits}</digits></value></sequence></component>'
        )
    path.write_text(
        '<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3"><component><series><code code="RHYTHM"/><component>'
        f"<sequenceSet>{sequences}</sequenceSet></component></series></component></AnnotatedECG>"
    )


def write_mortara(path, signal):
    channels = ""
    for name, values in zip(LEADS, signal):
        data = base64.b64encode(np.rint(values * 400).astype("<i2").tobytes()).decode()
        channels += f'<CHANNEL NAME="{name}" UNITS_PER_MV="400" SAMPLE_FREQ="{RATE}" BITS="16" DATA="{data}"/>'
    path.write_text(f'<?xml version="1.0"?><ECG ACQUISITION_TIME="20200101120000">{channels}</ECG>')


def write_kardia(path, signal):
    """A pocket device's six limb leads."""
    samples = {f"lead{name}": np.rint(signal[i] * 2000).astype(int).tolist() for i, name in enumerate(LEADS[:6])}
    data = {"raw": {"frequency": RATE, "amplitudeResolution": 500, "numLeads": 6, "samples": samples}}
    path.write_text(json.dumps({"recordedAt": "2020-01-01T12:00:00Z", "duration": 10000, "data": data}))


def _section(number, body):
    body += bytes(len(body) % 2)
    head = struct.pack("<HIBB6x", number, len(body) + 16, 20, 20)
    if number == 0:
        head = struct.pack("<HIBB6s", number, len(body) + 16, 20, 20, b"SCPECG")
    return struct.pack("<H", binascii.crc_hqx(head + body, 0xFFFF)) + head + body


def write_scp(path, signal, age=70):
    """SCP-ECG without compression."""
    order = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "aVR", "aVL", "aVF"]
    codes = [1, 2, 3, 4, 5, 6, 7, 8, 61, 62, 63, 64]
    n = signal.shape[1]
    first = struct.pack("<BHHB", 4, 3, age, 1) + struct.pack("<BHB", 8, 1, 2) + struct.pack("<BH", 255, 0)
    leads = bytes([12, 4]) + b"".join(struct.pack("<IIB", 1, n, code) for code in codes)
    counts = [np.rint(signal[LEADS.index(name)] * 1000 / 2.5).astype("<i2").tobytes() for name in order]
    rhythm = struct.pack("<HHBB", 2500, 1_000_000 // RATE, 0, 0)
    rhythm += b"".join(struct.pack("<H", len(data)) for data in counts) + b"".join(counts)
    bodies = {1: first, 3: leads, 6: rhythm}
    sections, position, pointers = b"", 6 + 16 + 10 * 12, {}
    for number, body in bodies.items():
        section = _section(number, body)
        pointers[number] = (len(section), position + 1)
        sections, position = sections + section, position + len(section)
    table = struct.pack("<HII", 0, 16 + 120, 7)
    table += b"".join(struct.pack("<HII", number, *pointers.get(number, (0, 0))) for number in range(1, 12))
    content = struct.pack("<I", position) + _section(0, table) + sections
    path.write_bytes(struct.pack("<H", binascii.crc_hqx(content, 0xFFFF)) + content)


def mend_scp(content):
    """Checksums that fit a changed SCP-ECG file, so that a reader goes on to what was changed."""
    content = bytearray(content)
    for entry in range(22, min(len(content), 142) - 9, 10):
        _, length, index = struct.unpack_from("<HII", content, entry)
        if 2 < length <= len(content) and 0 < index <= len(content) - length + 1:
            section = content[index - 1 : index - 1 + length]
            content[index - 1 : index + 1] = struct.pack("<H", binascii.crc_hqx(bytes(section[2:]), 0xFFFF))
    content[2:6] = struct.pack("<I", len(content))
    content[:2] = struct.pack("<H", binascii.crc_hqx(bytes(content[2:]), 0xFFFF))
    return bytes(content)


def write_edf(path, signal, samples_per_record=RATE, record_seconds=1.0, names=None, unit="uV"):
    """EDF with 16-bit samples of 1 uV."""
    names = names or [f"ECG {lead}" for lead in LEADS]
    records = signal.shape[1] // samples_per_record
    counts = np.rint(signal[:, : records * samples_per_record] * 1000).astype("<i2")
    data = counts.reshape(len(names), records, samples_per_record).transpose(1, 0, 2)

    def fields(width, values):
        return "".join(str(value).ljust(width)[:width] for value in values)

    ns = len(names)
    header = fields(8, ["0"]) + fields(80, ["X F 01-JAN-1950 X", "Startdate 01-JAN-2020 X X X"])
    header += fields(8, ["01.01.20", "12.00.00", 256 * (ns + 1)]) + fields(44, ["EDF+C"])
    header += (
        fields(8, [records, f"{record_seconds:.6g}"]) + fields(4, [ns]) + fields(16, names) + fields(80, [""] * ns)
    )
    header += fields(8, [unit] * ns) + fields(8, [-32768] * ns) + fields(8, [32767] * ns)
    header += fields(8, [-32768] * ns) + fields(8, [32767] * ns) + fields(80, [""] * ns)
    header += fields(8, [samples_per_record] * ns) + fields(32, [""] * ns)
    path.write_bytes(header.encode("ascii") + data.tobytes())


def write_ishne(path, signal):
    specs = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    header = bytearray(522)
    header[:8] = b"ISHNE1.0"
    struct.pack_into("<IIii", header, 10, 0, signal.shape[1], 522, 522)
    struct.pack_into("<h", header, 128, 1)
    struct.pack_into("<h12h12h12h", header, 156, 12, *specs, *[1] * 12, *[2500] * 12)
    struct.pack_into("<h", header, 272, RATE)
    struct.pack_into("<H", header, 8, binascii.crc_hqx(bytes(header[10:]), 0xFFFF))
    path.write_bytes(bytes(header) + np.rint(signal * 1000 / 2.5).astype("<i2").T.tobytes())


def write_mfer(path, signal):
    def item(tag, value):
        length = bytes([len(value)]) if len(value) < 128 else b"\x84" + struct.pack(">I", len(value))
        return bytes([tag]) + length + value

    codes = [1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8]
    content = item(0x40, b"MFR Standard 12 leads ECG".ljust(32)) + item(0x01, b"\x01")
    content += item(0x04, struct.pack("<I", signal.shape[1])) + item(0x05, b"\x0c") + item(0x06, b"\x01")
    content += item(0x0B, struct.pack("<BbH", 1, -3, 1000 // RATE)) + item(0x0C, struct.pack("<BbH", 0, -9, 2500))
    content += item(0x0A, b"\x00")
    for channel, code in enumerate(codes):
        value = item(0x09, struct.pack("<H", code))
        content += bytes([0x3F, channel, len(value)]) + value
    path.write_bytes(content + item(0x1E, np.rint(signal * 1000 / 2.5).astype("<i2").tobytes()) + b"\x80\x00")


DICOM_NAMES = [
    "Lead I (Einthoven)",
    "Lead II",
    "Lead III",
    "Lead aVR",
    "Lead aVL",
    "aVF",
    *(f"ECG V{i}" for i in range(1, 7)),
]


def write_dicom(
    path, signal, unit="uV", scale=2.5, stored=16, big_endian=False, padding=None, deflated=False, **groups
):
    """A DICOM waveform: a median beat that no reader may take, and the rhythm."""
    dataset = FileDataset(
        str(path),
        {},
        file_meta=FileMetaDataset(),
        preamble=bytes(128),
        is_implicit_VR=False,
        is_little_endian=not big_endian,
    )
    syntax = "1.2.840.10008.1.2.2" if big_endian else "1.2.840.10008.1.2.1"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.1.99" if deflated else syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PatientAge, dataset.PatientSex, dataset.PatientName = "ECG", "039Y", "M", "Zbigniew^A"
    dataset.WaveformSequence = Sequence()
    kinds = [("MEDIAN BEAT", "DERIVED", signal[:, :600] * 3), ("RHYTHM", "ORIGINAL", signal)]
    for label, originality, values in kinds[groups.get("first", 0) : groups.get("last", 2)]:
        group = Dataset()
        group.MultiplexGroupLabel, group.WaveformOriginality = label, originality
        group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = values.shape
        group.SamplingFrequency, group.WaveformBitsAllocated, group.WaveformSampleInterpretation = RATE, 16, "SS"
        group.ChannelDefinitionSequence = Sequence()
        for name in DICOM_NAMES:
            channel, source, code = Dataset(), Dataset(), Dataset()
            source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = "1", "99TEST", name
            channel.ChannelSourceSequence = Sequence([source])
            if unit:
                code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
                channel.ChannelSensitivityUnitsSequence = Sequence([code])
                channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = scale, 1
                channel.ChannelBaseline = 0
            channel.WaveformBitsStored = stored
            group.ChannelDefinitionSequence.append(channel)
        counts = np.rint(values * {"uV": 1000, "mV": 1, "": 1}[unit] / scale).astype(np.int64)
        if stored < 16:
            counts &= 2**stored - 1
        if padding is not None:
            group.add_new((0x5400, 0x100A), "OW", struct.pack("<h", padding))
            counts[:, 10:20] = padding
        group.add_new((0x5400, 0x1010), "OW", counts.T.astype(">i2" if big_endian else "<i2").tobytes())
        dataset.WaveformSequence.append(group)
    dataset.save_as(path, enforce_file_format=True)


def write_csv(path, signal, separator=",", decimal=".", heading=None, encoding="utf-8", time=None, first=""):
    """A table with a row a sample; `time` gives the first column."""
    heading = heading or [*(["time (s)"] if time is not None else []), *(f"{lead} (mV)" for lead in LEADS)]
    columns = np.round(signal, 4) if time is None else np.vstack([time, np.round(signal, 4)])
    lines = [separator.join(heading)]
    lines += [separator.join(f"{value:g}".replace(".", decimal) for value in row) for row in columns.T.tolist()]
    path.write_bytes((first + "\n".join(lines) + "\n").encode(encoding))


WRITERS = {
    "muse.xml": write_muse,
    "philips.xml": write_philips,
    "aecg.xml": write_aecg,
    "mortara.xml": write_mortara,
    "scp.scp": write_scp,
    "edf.edf": write_edf,
    "ishne.ecg": write_ishne,
    "mfer.mwf": write_mfer,
    "dicom.dcm": write_dicom,
    "table.csv": write_csv,
}
