"Films as they really are on disk: every oddity of the header, and every file of the real samples."

import gzip
import io
import struct
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from unirg.core import study_root
from unirg.data.radiographs import RadiographError, contact_sheet, equalised, load_radiograph, open_file, read_dicom, stored_pixels
from unirg.data.sources import LAYOUTS, options_of
from unirg.data.studies import StudyImage, Options, Record, row

REAL = study_root(Path(__file__).parent).parent / "shared/real_data"
needs_real = pytest.mark.skipif(not (REAL / "dicom").is_dir(), reason="../shared/real_data is not here")
RAMP = np.linspace(0, 4095, 96 * 64).reshape(96, 64).astype(np.uint16)


def write_dicom(path, pixels=RAMP, photometric="MONOCHROME2", remove=(), meta=True, **header):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian if meta else pydicom.uid.ImplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1", "CR"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = int(pixels.dtype == np.int16), 1
    dataset.PhotometricInterpretation, dataset.PixelData = photometric, pixels.tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    for name in remove:
        delattr(dataset, name)
    if meta:
        dataset.preamble = bytes(128)
        dataset.save_as(path, enforce_file_format=False)
    else:
        pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        data = path.read_bytes()
        at = data.find(b"\x08\x00\x16\x00")  # cut preamble and file meta off
        path.write_bytes(data[at:])
    return path


def grey(path, size=96, **options):
    return np.asarray(load_radiograph(path, size, **options), int)


def reason(path):
    with pytest.raises(RadiographError) as error:
        load_radiograph(path)
    assert error.value.path == str(path)
    return error.value.reason


@pytest.fixture
def plain(tmp_path):
    return grey(write_dicom(tmp_path / "plain.dcm"))


def test_aspect_is_kept_and_padded_black(plain):
    assert plain.shape == (96, 96) and plain[:, :16].max() == 0 and plain[:, 80:].max() == 0
    assert plain[0, 16] == 0 and plain[-1, 79] == 255 and plain[:, 20].min() < 5


@pytest.mark.parametrize("bits", [10, 12, 14, 15, 16])
def test_depth_does_not_matter(tmp_path, plain, bits):
    high = 2**bits - 1
    pixels = np.linspace(0, high, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    for header in ({}, {"WindowCenter": high / 2, "WindowWidth": high}):
        film = grey(write_dicom(tmp_path / "x.dcm", pixels, BitsStored=bits, HighBit=bits - 1, **header))
        assert abs(film - plain).max() <= 1


@pytest.mark.parametrize("header", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}, {"PresentationLUTShape": "INVERSE"}])
def test_monochrome1_is_inverted_once_and_by_that_tag(tmp_path, plain, header):
    film = grey(write_dicom(tmp_path / "x.dcm", 4095 - RAMP, "MONOCHROME1", **header))
    assert abs(film - plain).max() <= 1
    assert abs(grey(write_dicom(tmp_path / "x.dcm", RAMP, "MONOCHROME2", **header)) - plain).max() <= 1


def test_windows_speak_of_values_before_inversion(tmp_path):
    header = {"WindowCenter": 1000, "WindowWidth": 1000}
    two = grey(write_dicom(tmp_path / "two.dcm", RAMP, "MONOCHROME2", **header))[:, 16:80]
    one = grey(write_dicom(tmp_path / "one.dcm", RAMP, "MONOCHROME1", **header))[:, 16:80]
    assert abs(one - (255 - two)).max() <= 1 and (two == 255).mean() > 0.5


def test_rescale_goes_before_the_window(tmp_path, plain):
    film = grey(write_dicom(tmp_path / "x.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3096, WindowWidth=8192))
    assert abs(film - plain).max() <= 1


@pytest.mark.parametrize("window", [(-1e6, 10), (2048, 1e9), (30000, 100)])
def test_absurd_windows_are_refused(tmp_path, window):
    assert "absurd window" in reason(write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=window[0], WindowWidth=window[1]))


@pytest.mark.parametrize("window", [(2048, 0), ("", ""), ([2048, 100], [4096, 10])])
def test_empty_windows_say_nothing_and_of_several_the_first_counts(tmp_path, plain, window):
    film = grey(write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=window[0], WindowWidth=window[1]))
    assert abs(film - plain).max() <= 1


def test_missing_headers(tmp_path, plain):
    assert abs(grey(write_dicom(tmp_path / "a.dcm", remove=["HighBit"])) - plain).max() <= 1
    assert abs(grey(write_dicom(tmp_path / "b.nometa", meta=False)) - plain).max() <= 1
    spacing = write_dicom(tmp_path / "c.dcm", PixelSpacing=[0, 0], StudyDate="1995.07.20", PatientAge="62")
    assert abs(grey(spacing) - plain).max() <= 1
    (tmp_path / "d.dcm.gz").write_bytes(gzip.compress((tmp_path / "c.dcm").read_bytes()))
    assert abs(grey(tmp_path / "d.dcm.gz") - plain).max() <= 1


def test_voi_lut_goes_before_the_window(tmp_path, plain):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (65535 - 16 * np.arange(4096)).astype("<u2").tobytes()  # a LUT that inverts
    path = tmp_path / "x.dcm"
    film = grey(write_dicom(path, 4095 - RAMP, WindowCenter=100, WindowWidth=10, VOILUTSequence=pydicom.Sequence([item])))
    assert abs(film - plain).max() <= 1


def test_padding_is_black_in_both_interpretations(tmp_path):
    pixels = RAMP.copy()
    pixels[:, :20] = 60000
    film = grey(write_dicom(tmp_path / "x.dcm", pixels, "MONOCHROME1", PixelPaddingValue=60000, BitsStored=16, HighBit=15))
    assert film[:, 16:35].max() == 0 and film[:, 38:80].max() == 255 and 100 < film[:, 38:80].mean() < 150


def test_signed_pixels(tmp_path, plain):
    signed = (RAMP.astype(int) - 2048).astype(np.int16)
    for header in ({}, {"WindowCenter": 0, "WindowWidth": 4096}, {"PixelPaddingValue": -3000}):
        assert abs(grey(write_dicom(tmp_path / "x.dcm", signed, **header)) - plain).max() <= 1


@pytest.mark.parametrize("slope, white", [(0, 255), ("", 255), (-1, 0)])
def test_slope_of_nothing_and_slope_downwards(tmp_path, slope, white):
    film = grey(write_dicom(tmp_path / "x.dcm", RAMP, RescaleSlope=slope, RescaleIntercept=0))
    assert film[-1, 79] == white and film[0, 16] == 255 - white


def test_sigmoid_window(tmp_path):
    header = {"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
    film = grey(write_dicom(tmp_path / "x.dcm", RAMP, **header))[:, 16:80]
    assert abs(film - 255 / (1 + np.exp(-4 * (RAMP - 2048.0) / 1000))).max() <= 1  # PS3.3 C.11.2.1.3.1


def test_bits_that_are_not_stored_do_not_count(tmp_path, plain):
    overlay = RAMP | (np.arange(64) % 7 == 0).astype(np.uint16) << 13  # old devices keep an overlay there
    assert abs(grey(write_dicom(tmp_path / "x.dcm", overlay)) - plain).max() <= 1


def test_colour_becomes_luminance(tmp_path, plain):
    level = (RAMP // 16).astype(np.uint8)
    for photometric, others in (("RGB", [level, level]), ("YBR_FULL", [level * 0 + 128] * 2)):
        pixels = np.stack([level, *others], -1)
        header = {"Columns": 64, "Rows": 96, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
        bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        film = grey(write_dicom(tmp_path / "x.dcm", pixels.reshape(96, -1), photometric, **header, **bits))
        assert abs(film - plain).max() <= 2, photometric


def test_more_than_one_film_is_refused(tmp_path):
    assert "2 frames" in reason(write_dicom(tmp_path / "x.dcm", np.vstack([RAMP, RAMP]), Rows=96, NumberOfFrames=2))
    assert "disagree" in reason(write_dicom(tmp_path / "x.dcm", np.vstack([RAMP, RAMP]), Rows=96))


def test_12_bit_jpeg_outside_dicom(tmp_path, plain):
    smooth = np.outer(np.linspace(0, 63, 64), np.linspace(0, 65, 64)).astype(np.uint16)
    (tmp_path / "x.jpg").write_bytes(imagecodecs.jpeg8_encode(smooth, level=100, bitspersample=12))
    Image.fromarray(smooth).save(tmp_path / "x.png")
    assert abs(grey(tmp_path / "x.jpg") - grey(tmp_path / "x.png")).mean() < 2
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    assert "not a DICOM file nor a picture" in reason(tmp_path / "x.jpg")


def test_16_bit_png_is_scaled_not_clipped(tmp_path, plain):
    for top in (4095, 65535):
        Image.fromarray((RAMP.astype(float) * top / 4095).astype(np.uint16)).save(tmp_path / "x.png")
        assert abs(grey(tmp_path / "x.png") - plain).max() <= 1


def test_8_bit_pictures_stay_as_they_are(tmp_path):
    pixels = np.linspace(40, 200, 96 * 96).reshape(96, 96).astype(np.uint8)
    for mode in ("L", "RGB", "RGBA", "LA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "x.png")
        assert abs(grey(tmp_path / "x.png") - pixels).max() <= 1, mode


def test_a_stray_white_pixel_does_not_darken_the_film(tmp_path):
    pixels = (RAMP // 4).astype(np.uint16)
    pixels[3, 3] = 65535
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert grey(tmp_path / "x.png")[:, 16:80].mean() > 120


def test_equalisation_is_opencvs():
    pixels = np.array([[0, 0, 50, 50], [50, 100, 100, 255]], np.uint8)
    # round((cdf - cdf_min) / (n - cdf_min) * 255)
    assert equalised(pixels).tolist() == [[0, 0, 128, 128], [128, 212, 212, 255]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_equalisation_is_that_of_mimic_cxr_jpg(tmp_path, photometric):
    stored = np.random.default_rng(0).gamma(3, 300, (96, 96)).astype(np.uint16) % 4096 + 7
    path = write_dicom(tmp_path / "x.dcm", stored, photometric, WindowCenter=100, WindowWidth=50, RescaleSlope=3, RescaleIntercept=9)
    shifted = stored - stored.min()  # as its makers wrote it: https://github.com/MIT-LCP/mimic-cxr/issues/16
    eight = (shifted / shifted.max() * 255).astype(np.uint8)
    eight = ~eight if photometric == "MONOCHROME1" else eight
    assert (grey(path, equalise=True) == equalised(eight)).all()
    Image.fromarray(stored).save(tmp_path / "x.png")
    assert (grey(tmp_path / "x.png", equalise=True) == equalised((shifted / shifted.max() * 255).astype(np.uint8))).all()


def test_equalisation_is_a_setting_of_every_source_and_off():
    assert all(options_of(layout)["equalise"].default is False for layout in LAYOUTS)


def test_reasons(tmp_path):
    whole = write_dicom(tmp_path / "whole.dcm").read_bytes()
    cases = {
        "cut.dcm": (whole[: len(whole) // 2], "truncated DICOM: "),
        "head.dcm": (whole[:260], "no pixel data"),
        "empty.dcm": (b"", "empty"),
        "text.dcm": (b"not a film at all " * 40, "not a DICOM"),
        "text.png": (b"not a film at all " * 40, "not a DICOM file nor a picture"),
        "packed.dcm.zst": (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
        "dicom.png": (whole, "wrong suffix"),
        "cut.dcm.gz": (gzip.compress(whole)[:100], "gzip"),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert expected in reason(tmp_path / name), name
    assert reason(tmp_path / "gone.dcm") == "file is missing"
    assert "cannot be read" in reason(tmp_path) and "cannot be read" in reason("a\0b.dcm")
    assert "RescaleSlope is nan" in reason(write_dicom(tmp_path / "x.dcm", RescaleSlope="nan"))
    Image.fromarray(RAMP).save(tmp_path / "picture.dcm", format="PNG")
    assert "wrong suffix" in reason(tmp_path / "picture.dcm")
    Image.fromarray(RAMP).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:150])
    assert "damaged picture" in reason(tmp_path / "cut.png")


def test_films_without_content(tmp_path):
    assert "all black" in reason(write_dicom(tmp_path / "a.dcm", RAMP * 0))
    assert "every pixel is 77" in reason(write_dicom(tmp_path / "b.dcm", RAMP * 0 + 77))
    Image.new("L", (64, 64)).save(tmp_path / "c.png")
    Image.new("L", (64, 64), 200).save(tmp_path / "d.jpg")
    assert "all black" in reason(tmp_path / "c.png") and "constant" in reason(tmp_path / "d.jpg")


@needs_real
def test_every_real_dicom_loads_or_says_why():
    refused = {}
    for path in sorted((REAL / "dicom").iterdir()):
        try:
            film = load_radiograph(path)
            assert film.size == (512, 512) and film.mode == "L"
            assert np.asarray(film).std() > 20, path.name
        except RadiographError as error:
            refused[path.name] = error.reason
    assert refused == {"RG2_UNC_hip.dcm.zst": "zstd-compressed: unpack it first"}


def real_pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stored_pixels(read_dicom(path, *open_file(path)))


@needs_real
def test_lossless_syntaxes_equal_the_uncompressed_reference(tmp_path):
    reference = tmp_path / "reference.dcm"
    reference.write_bytes(imagecodecs.zstd_decode((REAL / "dicom/RG2_UNC_hip.dcm.zst").read_bytes()))
    stored, film = real_pixels(reference), grey(reference, 512)
    assert stored.shape == (2140, 1760)
    for kind in ("J2KR", "JLSL", "JPLL", "RLE"):
        path = REAL / f"dicom/RG2_{kind}_hip.dcm"
        assert np.array_equal(real_pixels(path), stored), kind
        assert np.array_equal(grey(path, 512), film), kind
    for kind in ("J2KI", "JLSN", "JPLY", "JPLY_fixed"):
        path = REAL / f"dicom/RG2_{kind}_hip.dcm"
        assert real_pixels(path).shape == stored.shape and abs(grey(path, 512) - film).mean() < 2, kind


@needs_real
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.99])
def test_no_real_film_cut_short_is_shown(tmp_path, part):
    for path in sorted((REAL / "dicom").glob("*_*.dcm")):
        whole = path.read_bytes()
        (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * part)])
        assert "truncated" in reason(tmp_path / "cut.dcm"), path.name


@needs_real
def test_inversion_follows_the_tag_on_real_films():
    names = ("jpegbaseline", "relabelled_MONOCHROME1")
    right, flipped = (np.asarray(load_radiograph(REAL / f"dicom/RSNA_{name}_chest.dcm"), int) for name in names)
    assert abs(right - (255 - flipped)).max() <= 1
    for name in ("CR-MONO1-10-chest.nometa", "RG1_J2KI_chest.dcm", "RSNA_jpegbaseline_chest.dcm"):
        film = np.asarray(load_radiograph(REAL / "dicom" / name), int)
        lungs = np.r_[film[180:280, 120:180].ravel(), film[180:280, 350:410].ravel()].mean()
        assert lungs < film[180:400, 245:285].mean() - 20, name  # darker than the spine


@needs_real
@pytest.mark.parametrize(
    "folder, films", [("hannover_covid19", 179), ("nih_cxr14_512", 220), ("nih_cxr14_fullres", 7), ("covid_cxr_cases", 55)]
)
def test_every_real_picture_loads_with_dark_lungs(folder, films):
    paths = [p for p in (REAL / folder).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    assert len(paths) == films
    dark = 0
    for path in paths:
        pixels = grey(path, 128)
        assert pixels.std() > 8 and (pixels == 255).mean() < 0.25, path.name
        lungs = np.r_[pixels[42:72, 28:46].ravel(), pixels[42:72, 82:100].ravel()]
        dark += lungs.mean() < pixels[42:100, 58:70].mean()  # than the spine between them
    assert dark > 0.95 * films  # white lungs there are, and one film of NIH's is published inverted


def test_contact_sheet_shows_films_and_reasons(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"")
    write_dicom(tmp_path / "b.dcm")
    sheet = np.asarray(contact_sheet([tmp_path / "a.dcm", tmp_path / "b.dcm", tmp_path / "b.dcm"], columns=2, size=96))
    assert sheet.shape == (2 * 110, 192)
    assert np.array_equal(sheet[:96, 96:], grey(tmp_path / "b.dcm")) and np.array_equal(sheet[110:206, :96], grey(tmp_path / "b.dcm"))
    assert sheet[:96, :96].max() > 200  # the reason, in words


# What the public trouble of other projects looks like: a film of two lungs, written wrongly in one way at a time.


def lungs(height=120, width=96, top=4095):
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    film = 0.8 - 0.2 * y - sum(0.5 * np.exp(-((((x - c) / 0.14) ** 2 + ((y - 0.5) / 0.3) ** 2) ** 2)) for c in (0.3, 0.7))
    film += np.random.default_rng(3).normal(0, 0.004, film.shape)
    return np.round((film - film.min()) / np.ptp(film) * top).astype(np.uint16 if top > 255 else np.uint8)


LUNGS, LUNGS8 = lungs(), lungs(top=255)
KINDS = ("jpeg", "jpeg12", "lossless", "jls", "j2k", "jp2", "htj2k", "rle")


def stream(pixels, kind, bits=None):
    "A transfer syntax and a stream of it."
    bits = bits or (8 if pixels.dtype == np.uint8 else 12)
    colours = pixels.ndim == 3
    if kind == "rle":
        photometric, samples, allocated = "RGB" if colours else "MONOCHROME2", 3 if colours else 1, 8 * pixels.dtype.itemsize
        size = {"rows": pixels.shape[0], "columns": pixels.shape[1], "samples_per_pixel": samples, "number_of_frames": 1}
        depth = {"bits_allocated": allocated, "bits_stored": allocated, "pixel_representation": 0}
        options = size | depth | {"photometric_interpretation": photometric, "planar_configuration": 0}
        return uid.RLELossless, bytes(RLELosslessEncoder.encode(pixels.tobytes(), **options))
    made = {
        "jpeg": lambda: (uid.JPEGBaseline8Bit, imagecodecs.jpeg8_encode(pixels, level=98)),
        "jpeg12": lambda: (uid.JPEGExtended12Bit, imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12)),
        "lossless": lambda: (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode(pixels, bitspersample=bits)),
        "jls": lambda: (uid.JPEGLSLossless, imagecodecs.jpegls_encode(pixels)),
        "j2k": lambda: (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0, bitspersample=bits)),
        "jp2": lambda: (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", level=0, bitspersample=bits)),
        "htj2k": lambda: (uid.HTJ2KLossless, imagecodecs.htj2k_encode(pixels)),
    }[kind]()
    return made[0], bytes(made[1])


class Raw(bytes):
    "A value as it stands in the file, which no writer would take."


def film(path, pixels=LUNGS, photometric="MONOCHROME2", kind=None, bits=None, fragments=None, syntax=None, without=(), **header):
    "A DICOM file whose header is that of its pixels, but for what is given."
    colours = pixels.ndim == 3
    bits = bits or (8 if pixels.dtype.itemsize == 1 else 12)
    allocated = 8 * pixels.dtype.itemsize
    ts, code = stream(pixels, kind) if kind else (uid.ExplicitVRLittleEndian, None)
    shorts = {"Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 3 if colours else 1, "BitsAllocated": allocated}
    shorts |= {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i")}
    shorts |= {"PlanarConfiguration": 0} if colours else {}
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ts
    dataset.SOPClassUID, dataset.Modality, dataset.PhotometricInterpretation = "1.2.840.10008.5.1.4.1.1.1", "CR", photometric
    for name, value in (shorts | header).items():
        if not isinstance(value, Raw):
            setattr(dataset, name, value)
    for name in without:
        delattr(dataset, name)
    dataset.PixelData = encapsulate(fragments or [code], has_bot=bool(fragments)) if kind else pixels.tobytes()
    dataset["PixelData"].VR = "OB" if kind or allocated == 8 else "OW"
    dataset["PixelData"].is_undefined_length = bool(kind)
    dataset.preamble = bytes(128)
    raw = [(name, value) for name, value in header.items() if isinstance(value, Raw)]
    for number, (name, _) in enumerate(raw):
        dataset.add_new(name, "LO", f"@mark {number}@")
    dataset.save_as(path, enforce_file_format=False)
    data = path.read_bytes()
    for number, (_, value) in enumerate(raw):
        value += b" " * (len(value) % 2)
        data = data.replace(b"LO" + struct.pack("<H", 8) + f"@mark {number}@".encode(), b"DS" + struct.pack("<H", len(value)) + value)
    if syntax is not None:
        said = raw_element(0x0002, 0x0010, b"UI", str(ts).encode())
        assert said in data
        data = data.replace(said, raw_element(0x0002, 0x0010, b"UI", syntax.encode()) if syntax else b"")
    path.write_bytes(data)
    return path


def seen(path, size=120):
    shown = load_radiograph(path, size)
    return np.asarray(shown, int), set(shown.info["flags"])


@pytest.fixture
def right(tmp_path):
    return seen(film(tmp_path / "right.dcm"))[0]


def like(shown, right, flags=()):
    assert abs(shown[0] - right).mean() < 3 and shown[1] == set(flags), (abs(shown[0] - right).mean(), shown[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "header, without, flag",
    [
        ({"Rows": 96, "Columns": 120}, (), "size_from_stream"),
        ({"Rows": 128, "Columns": 96}, (), "size_from_stream"),
        ({}, ("Rows", "Columns"), "size_from_stream"),
        ({"BitsAllocated": 8}, (), "bits_from_stream"),
        ({"BitsAllocated": 16}, (), "bits_from_stream"),
        ({}, ("BitsAllocated", "BitsStored", "HighBit"), "bits_from_stream"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}, (), "samples_from_stream"),
    ],
)
def test_the_stream_is_right_about_itself(tmp_path, right, kind, header, without, flag):
    pixels = LUNGS8 if kind == "jpeg" else LUNGS
    path = film(tmp_path / "x.dcm", pixels, kind=kind, without=without, **header)
    if kind == "rle" and ("Rows" in without or header.get("Rows") == 128):  # it does not state its size
        assert "Rows x Columns" in reason(path) or "match the expected" in reason(path)
    else:
        like(seen(path), right, () if header == {"BitsAllocated": 8 * pixels.dtype.itemsize} else [flag])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "syntax",
    ["", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.100", "1.2.3.4"],
)
def test_the_stream_is_right_about_its_syntax(tmp_path, right, kind, syntax):
    path = film(tmp_path / "x.dcm", LUNGS8 if kind == "jpeg" else LUNGS, kind=kind, syntax=syntax)
    same = {"1.2.840.10008.1.2.4.90": ("j2k", "jp2"), "1.2.840.10008.1.2.4.50": ("jpeg", "jpeg12")}.get(syntax, ())
    like(seen(path), right, [] if kind in same else ["syntax_from_stream"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_film_in_many_fragments(tmp_path, right, kind):
    pixels = LUNGS8 if kind == "jpeg" else LUNGS
    _, code = stream(pixels, kind)
    parts = [code[i : i + 1024] for i in range(0, len(code), 1024)]
    like(seen(film(tmp_path / "x.dcm", pixels, kind=kind, fragments=parts)), right)
    if kind not in ("jp2", "rle"):  # whose beginnings are not those of a stream
        assert "2 frames" in reason(film(tmp_path / "x.dcm", pixels, kind=kind, fragments=[code, code]))


@pytest.mark.parametrize("kind", ["jpeg", "jpeg12", "lossless", "jls", "j2k", "htj2k", "rle"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
def test_a_stream_cut_short_before_it_was_wrapped_is_not_shown(tmp_path, kind, part):
    pixels = LUNGS8 if kind == "jpeg" else LUNGS
    _, code = stream(pixels, kind)
    assert reason(film(tmp_path / "x.dcm", pixels, kind=kind, fragments=[code[: int(len(code) * part)]]))


def test_uncompressed_pixels_under_the_name_of_a_codec(tmp_path, right):
    like(seen(film(tmp_path / "x.dcm", syntax="1.2.840.10008.1.2.4.70")), right, ["syntax_from_stream"])
    assert "JPEG 2000" in reason(film(tmp_path / "x.dcm", syntax="1.2.840.10008.1.2.4.91", Rows=10))
    assert "none of DICOM's" in reason(film(tmp_path / "x.dcm", syntax="1.2.840.113619.5.2"))


COLOUR = np.repeat(LUNGS8[:, :, None], 3, 2)


@pytest.mark.parametrize(
    "header",
    [
        {"WindowCenter": 512, "WindowWidth": 1024},
        {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": -1024},
        {"RescaleSlope": -1, "RescaleIntercept": 255},
        {"RescaleSlope": Raw(b"none")},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255},
        {"VOILUTFunction": "SIGMOID", "WindowCenter": Raw(b"x")},
    ],
)
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR"])
def test_windows_and_rescale_mean_nothing_for_colour(tmp_path, right, photometric, header):
    pixels = COLOUR if photometric == "RGB" else np.dstack([LUNGS8, LUNGS8 * 0 + 128, LUNGS8 * 0 + 128])
    palette = palettes(256, 0, 16, (np.arange(256) * 257).astype("<u2").tobytes()) if photometric == "PALETTE COLOR" else {}
    if photometric == "YBR_FULL_422":  # neighbours share colours
        pairs = np.concatenate([LUNGS8.reshape(120, 48, 2), np.full((120, 48, 2), 128, np.uint8)], -1).reshape(120, 192)
        path = film(tmp_path / "x.dcm", pairs, photometric, Columns=96, SamplesPerPixel=3, PlanarConfiguration=0, **header)
    else:
        path = film(tmp_path / "x.dcm", LUNGS8 if palette else pixels, photometric, **palette, **header)
    like(seen(path), right)


@pytest.mark.parametrize(
    "pixels, photometric, header, flags",
    [
        (np.moveaxis(COLOUR, -1, 0), "RGB", {"Rows": 120, "Columns": 96, "SamplesPerPixel": 3, "PlanarConfiguration": 1}, []),
        (np.dstack([LUNGS8, LUNGS8 * 0 + 128, LUNGS8 * 0 + 128]), "RGB", {}, ["colour_from_pixels"]),
        (COLOUR, "MONOCHROME2", {}, []),
        (COLOUR, "RGB", {"SamplesPerPixel": 1}, ["samples_from_stream"]),
        (LUNGS8, "RGB", {"SamplesPerPixel": 3, "PlanarConfiguration": 0}, ["samples_from_stream"]),
        (np.repeat(LUNGS[:, :, None], 3, 2), "RGB", {}, []),
        (np.repeat(LUNGS[:, :, None], 3, 2), "RGB", {"BitsStored": 16, "HighBit": 15}, []),
        (COLOUR, "YBR_FULL_422", {}, []),
    ],
)
def test_colours_as_they_come(tmp_path, right, pixels, photometric, header, flags):
    like(seen(film(tmp_path / "x.dcm", pixels, photometric, **header)), right, flags)


@pytest.mark.parametrize("kind", ["jpeg", "j2k", "jls", "rle", "htj2k"])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "MONOCHROME2"])
def test_compressed_colours(tmp_path, right, kind, photometric):
    if not (kind == "rle" and photometric == "MONOCHROME2"):
        like(seen(film(tmp_path / "x.dcm", COLOUR, photometric, kind=kind, WindowCenter=40, WindowWidth=400)), right)
    shown = seen(film(tmp_path / "x.dcm", COLOUR, "MONOCHROME2", kind=kind, SamplesPerPixel=1))
    like(shown, right, ["samples_from_stream"])
    assert "sample" in reason(film(tmp_path / "x.dcm", COLOUR, "MONOCHROME1", kind=kind, SamplesPerPixel=1)).lower()


OVERLAYS = {
    "a box in bit 15": LUNGS | 0x8000 * (np.indices(LUNGS.shape).max(0) < 40),
    "stripes in bit 12": LUNGS | 0x1000 * (np.indices(LUNGS.shape).sum(0) % 17 < 3),
    "two planes": LUNGS | 0x4000 * (np.indices(LUNGS.shape)[0] % 30 < 2) | 0x2000 * (np.indices(LUNGS.shape)[1] % 31 < 2),
    "specks in bit 13": LUNGS | 0x2000 * (np.random.default_rng(0).random(LUNGS.shape) < 0.03),
    "everywhere": LUNGS | 0xC000,
    "the sign drawn out": LUNGS | 0xF000 * (LUNGS >= 2048),
}


@pytest.mark.parametrize("kind", [None, "lossless", "jls", "j2k", "htj2k", "rle"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_above_the_film_do_not_count_after_any_decoder(tmp_path, right, kind, overlay):
    pixels = OVERLAYS[overlay].astype(np.uint16)
    for window in ({}, {"WindowCenter": 2048, "WindowWidth": 4096}):
        path = tmp_path / "x.dcm"
        if kind in ("lossless", "j2k"):
            code = stream(pixels, kind, 16)[1]
            film(path, pixels, kind=kind, fragments=[code], **window)
        else:
            film(path, pixels, kind=kind, **window)
        like(seen(path), right)


@pytest.mark.parametrize("stored", [8, 9, 10, 11])
def test_bits_stored_that_the_pixels_contradict(tmp_path, right, stored):
    for kind in (None, "rle"):
        assert "no overlay" in reason(film(tmp_path / "x.dcm", kind=kind, bits=stored))
    for kind in ("lossless", "j2k", "htj2k"):  # which say 12
        like(seen(film(tmp_path / "x.dcm", kind=kind, bits=stored)), right, ["bits_from_stream"])


@pytest.mark.parametrize(
    "pixels, header, flags",
    [
        (LUNGS << 4, {"HighBit": 15}, []),  # the film in the upper bits
        (LUNGS, {"HighBit": 15}, []),  # or not, whatever HighBit says
        (LUNGS, {"BitsStored": 18}, ["bits_from_stream"]),
        (LUNGS, {"BitsAllocated": 8}, ["bits_from_stream"]),
        (LUNGS8, {"BitsAllocated": 16}, ["bits_from_stream"]),
        ((LUNGS.astype(int) - 2048).astype(np.int16), {}, []),
        (((LUNGS.astype(int) - 2048) & 0xFFF).astype(np.int16), {}, []),  # the sign in bit 11 only
        (LUNGS.astype(np.int16), {}, ["sign_from_stream"]),  # signed by the header only
    ],
)
def test_bits_and_signs(tmp_path, right, pixels, header, flags):
    like(seen(film(tmp_path / "x.dcm", pixels, **header)), right, flags)


def wrapped_lossless(pixels, bits, rows=0):
    "Lossless JPEG, predictor 1, every large step written as the one that leads there modulo 2 ** bits; restarts after each `rows`."
    parts, heights = b"", range(0, len(pixels), rows or len(pixels))
    for number, top in enumerate(heights):
        part = pixels[top : top + (rows or len(pixels))].astype(int)
        before = np.roll(part, 1, axis=1)
        before[0, 0], before[1:, 0] = 1 << (bits - 1), part[:-1, 0]
        most, whole = 1 << (bits - 2 if bits < 16 else 15), 1 << bits  # no step is longer than 16 bits can say
        steps = part - before
        steps = np.where(steps > most, steps - whole, np.where(steps < -most, steps + whole, steps)).ravel().tolist()
        code = "".join(f"{(n := abs(d).bit_length()):05b}" + (f"{d if d > 0 else d + (1 << n) - 1:0{n}b}" if n else "") for d in steps)
        code += "1" * (-len(code) % 8)
        parts += int(code, 2).to_bytes(len(code) // 8).replace(b"\xff", b"\xff\0") + bytes([0xFF, 0xD0 + number % 8])
    height, width = pixels.shape
    head = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, bits, height, width, 1, 1, 17, 0)
    head += b"\xff\xdd" + struct.pack(">HH", 4, rows * width) if rows else b""
    head += b"\xff\xc4" + struct.pack(">H", 36) + bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return head + b"\xff\xda" + struct.pack(">H", 8) + bytes([1, 1, 0, 1, 0, 0]) + parts[:-2] + b"\xff\xd9"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("rows", [0, 7])
def test_lossless_jpeg_with_differences_that_wrap(tmp_path, bits, rows):
    pixels = (LUNGS8 if bits == 8 else LUNGS.astype(np.uint16) << 4 >> (16 - bits)).copy()
    pixels[20:40:2, 10:60:3], pixels[50:60, 30:70] = (1 << bits) - 1, 0
    code = wrapped_lossless(pixels, bits, rows)
    path = film(tmp_path / "x.dcm", pixels, kind="lossless", fragments=[code], bits=bits)
    assert np.array_equal(real_pixels(path), pixels)
    signed = pixels.astype(int) - (1 << (bits - 1))
    code = wrapped_lossless(signed & ((1 << bits) - 1), bits, rows)
    path = film(tmp_path / "y.dcm", pixels, kind="lossless", fragments=[code], bits=bits, PixelRepresentation=1)
    assert np.array_equal(real_pixels(path), signed)


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        (["L", "F"], []),
        (["R", "F"], ["mirrored"]),
        (["L", "H"], ["mirrored"]),
        (["RA", "F"], ["mirrored"]),
        (["r", "f "], ["mirrored"]),
        (["F", "L"], ["mirrored"]),
        (["R", "H"], ["turned"]),
        (["F", "R"], ["turned"]),
        (["P", "F"], []),  # a lateral film
        (["L"], []),
        ("", []),
    ],
)
def test_a_frontal_film_that_lies_otherwise_is_flagged(tmp_path, right, said, flags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = film(tmp_path / "x.dcm", PatientOrientation=said, ViewPosition="PA")
    like(seen(path), right, flags)  # and not turned


def test_a_sign_that_is_missing_or_contradicted(tmp_path, right):
    signed = (LUNGS.astype(int) - 2048).astype(np.int16)
    like(seen(film(tmp_path / "a.dcm", without=["PixelRepresentation"])), right)
    like(seen(film(tmp_path / "b.dcm", signed, without=["PixelRepresentation"])), right, ["sign_from_stream"])
    for kind, pixels in (("j2k", LUNGS), ("lossless", LUNGS), ("jpeg", LUNGS8), ("jpeg12", LUNGS)):
        like(seen(film(tmp_path / "c.dcm", pixels, kind=kind, PixelRepresentation=1)), right, ["sign_from_stream"])
    like(seen(film(tmp_path / "d.dcm", signed, kind="j2k")), right)
    like(seen(film(tmp_path / "e.dcm", signed, kind="j2k", PixelRepresentation=0)), right, ["sign_from_stream"])


def lut(entries, first, bits, data, vr="OW", descriptor="US"):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", descriptor, [entries, first, bits])
    item.add_new("LUTData", vr, data)
    return pydicom.Sequence([item])


def line(entries, top, kind="<u2"):
    return np.linspace(0, top, entries).round().astype(kind).tobytes()


SIGNED = (LUNGS.astype(int) - 2048).astype(np.int16)
TABLES = {
    "8 bits in words": (LUNGS, lut(4096, 0, 8, np.frombuffer(line(4096, 255), "<u2").tolist(), "US"), {}),
    "8 bits packed": (LUNGS, lut(4096, 0, 8, line(4096, 255, "u1")), {}),
    "8 bits packed, as words": (LUNGS, lut(4096, 0, 8, np.frombuffer(line(4096, 255, "u1"), "<u2").tolist(), "US"), {}),
    "packed, said to be 16": (LUNGS, lut(4096, 0, 16, line(4096, 255, "u1")), {}),
    "10 bits": (LUNGS, lut(4096, 0, 10, line(4096, 1023)), {}),
    "an odd number, packed": (LUNGS, lut(4095, 0, 8, line(4095, 255, "u1") + b"\0"), {}),
    "first value -2048, signed": (SIGNED, lut(4096, -2048, 16, line(4096, 65535), descriptor="SS"), {}),
    "first value -2048, unsigned": (SIGNED, lut(4096, 65536 - 2048, 16, line(4096, 65535)), {}),
    "rescaled below 0": (LUNGS, lut(4096, 65536 - 1000, 16, line(4096, 65535)), {"RescaleSlope": 1, "RescaleIntercept": -1000}),
    "first value 50000": (LUNGS + 50000, lut(4096, 50000, 16, line(4096, 65535)), {"BitsStored": 16, "HighBit": 15}),
    "first value 50000, signed": (LUNGS + 50000, lut(4096, 50000 - 65536, 16, line(4096, 65535), descriptor="SS"), {"BitsStored": 16}),
    "40000 entries, signed": (LUNGS * 9, lut(40000, 0, 16, line(40000, 65535), descriptor="SS"), {"BitsStored": 16}),
    "0 entries": (LUNGS * 16, lut(0, 0, 16, line(65536, 65535)), {"BitsStored": 16, "HighBit": 15}),
    "not up to its bits' end": (LUNGS, lut(4096, 0, 16, line(4096, 60000)), {}),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables_as_they_are_written(tmp_path, right, sequence, table):
    pixels, item, header = TABLES[table]
    if sequence == "ModalityLUTSequence" and "Rescale" in str(header):
        return  # one or the other
    shown, flags = seen(film(tmp_path / "x.dcm", pixels.astype(pixels.dtype.newbyteorder("<")), **{sequence: item}, **header))
    assert abs(shown - right).mean() < (20 if "40000" in table else 3) and not flags


def test_values_beyond_16_bits_reach_the_end_of_a_table(tmp_path):
    header = {"BitsStored": 16, "HighBit": 15, "RescaleSlope": 2, "RescaleIntercept": 0}
    shown, _ = seen(film(tmp_path / "a.dcm", LUNGS * 10, VOILUTSequence=lut(0, 0, 16, line(65536, 65535)), **header))
    windowed, _ = seen(film(tmp_path / "b.dcm", LUNGS * 10, WindowCenter=32768, WindowWidth=65536, **header))
    assert abs(shown - windowed).max() <= 1 and (shown == 255).mean() > 0.1


def test_tables_that_are_broken_or_several(tmp_path, right):
    whole, broken = lut(4096, 0, 16, line(4096, 65535)), lut(4096, 0, 16, line(4000, 65535))
    both = pydicom.Sequence([broken[0], whole[0]])
    like(seen(film(tmp_path / "x.dcm", VOILUTSequence=both)), right, ["voi_lut_2"])
    like(seen(film(tmp_path / "x.dcm", VOILUTSequence=broken, WindowCenter=2048, WindowWidth=4096)), right, ["voi_lut_unusable"])
    assert "8000 bytes where 4096 entries" in reason(film(tmp_path / "x.dcm", VOILUTSequence=broken))
    assert "8000 bytes where 4096 entries" in reason(film(tmp_path / "x.dcm", ModalityLUTSequence=broken, WindowCenter=9, WindowWidth=9))
    inverse = {"VOILUTSequence": whole, "PresentationLUTShape": "INVERSE"}
    like(seen(film(tmp_path / "x.dcm", 4095 - LUNGS, "MONOCHROME1", **inverse)), right)  # once, not twice
    modality = {"ModalityLUTSequence": whole, "VOILUTSequence": lut(0, 0, 8, line(65536, 255, "u1"))}
    like(seen(film(tmp_path / "x.dcm", **modality)), right)


def palettes(entries, first, bits, data, segmented=""):
    colours = ("Red", "Green", "Blue")
    said = {f"{colour}PaletteColorLookupTableDescriptor": [entries, first, bits] for colour in colours}
    return said | {f"{segmented}{colour}PaletteColorLookupTableData": data for colour in colours}


@pytest.mark.parametrize(
    "pixels, palette",
    [
        (LUNGS8, palettes(256, 0, 16, line(256, 65535))),
        (LUNGS8, palettes(256, 0, 16, line(256, 65280))),  # 8 bits in the upper byte
        (LUNGS8, palettes(256, 0, 16, line(256, 255))),  # 8 bits said to be 16
        (LUNGS8, palettes(256, 0, 8, line(256, 255))),  # 8 bits in words
        (LUNGS8, palettes(256, 0, 8, line(256, 255, "u1"))),
        (LUNGS8, palettes(256, 0, 8, line(256, 65535))),  # 16 bits said to be 8
        (LUNGS8, palettes(256, 0, 12, line(256, 4095))),
        (LUNGS, palettes(4096, 0, 8, line(4096, 255, "u1"))),
        (LUNGS, palettes(4096, 0, 16, line(4096, 65535))),
        (LUNGS * 16, palettes(0, 0, 16, line(65536, 65535)) | {"BitsStored": 16, "HighBit": 15}),
        (LUNGS8, palettes(256, 0, 16, np.array([0, 1, 0, 1, 255, 65535], "<u2").tobytes(), "Segmented")),
        (LUNGS8, palettes(256, 0, 8, bytes([0, 1, 0, 1, 255, 255]), "Segmented")),
        (LUNGS8, palettes(256, 0, 16, np.array([0, 2, 0, 257, 1, 127, 32896, 1, 127, 65535], "<u2").tobytes(), "Segmented")),
    ],
)
def test_palettes(tmp_path, right, pixels, palette):
    like(seen(film(tmp_path / "x.dcm", pixels, "PALETTE COLOR", **palette)), right)


def test_a_palette_that_is_missing(tmp_path):
    assert "without its red palette" in reason(film(tmp_path / "x.dcm", LUNGS8, "PALETTE COLOR"))


@pytest.mark.parametrize(
    "centre, width, as_if, flags",
    [
        (b"1500,5", b"2000,5", (1500.5, 2000.5), []),
        (b"1500,5\\900", b"2000,5\\90", (1500.5, 2000.5), []),
        (b" +1.5E3", b"2e+03", (1500, 2000), []),
        (b"1500\0", b"2000.", (1500, 2000), []),
        (b"40\\2048", b"1\\4096", (2048, 4096), ["window_2"]),
        (b"abc\\2048", b"7\\4096", (2048, 4096), ["window_2"]),
        (b"\\2048", b"\\4096", (2048, 4096), ["window_2"]),
        (b"9\\9\\2048", b"0\\-1\\4096", (2048, 4096), ["window_3"]),
        (b"2048", b"4096\\1", (2048, 4096), []),
        (b"2048\\1", b"4096", (2048, 4096), []),
        (b"2048", b"", (), ["window_unusable"]),
        (b"2048", b"0", (), ["window_unusable"]),
        (b"2048", b"-4096", (), ["window_unusable"]),
        (b"1.500,5", b"2.000,5", (), ["window_unusable"]),
        (b"NaN", b"inf", (), ["window_unusable"]),
        (b"", b"", (), []),
    ],
)
def test_windows_as_they_are_written(tmp_path, right, centre, width, as_if, flags):
    window = dict(zip(("WindowCenter", "WindowWidth"), as_if))
    wanted = seen(film(tmp_path / "a.dcm", **window))[0]
    shown = seen(film(tmp_path / "b.dcm", WindowCenter=Raw(centre), WindowWidth=Raw(width)))
    assert abs(shown[0] - wanted).max() <= 1 and shown[1] == set(flags)


@pytest.mark.parametrize("slope, intercept", [(b"2,5", b"10,5"), (b"2.5 ", b"+10.5"), (b"25e-1", b"1,05E1")])
def test_rescale_as_it_is_written(tmp_path, slope, intercept):
    window = {"WindowCenter": 4000, "WindowWidth": 5000}
    wanted = seen(film(tmp_path / "a.dcm", RescaleSlope=2.5, RescaleIntercept=10.5, **window))[0]
    assert np.array_equal(seen(film(tmp_path / "b.dcm", RescaleSlope=Raw(slope), RescaleIntercept=Raw(intercept), **window))[0], wanted)
    assert "RescaleSlope is 2;5" in reason(film(tmp_path / "c.dcm", RescaleSlope=Raw(b"2;5"), RescaleIntercept=Raw(intercept), **window))


def test_narrow_and_wide_windows(tmp_path, right):
    small = {"RescaleSlope": "0.000244140625", "RescaleIntercept": 0, "WindowCenter": 0.5, "WindowWidth": 0.9999}
    like(seen(film(tmp_path / "x.dcm", **small)), right)
    assert seen(film(tmp_path / "x.dcm", LUNGS8, WindowCenter=512, WindowWidth=1024))[1] == {"window_beyond_bits"}
    assert seen(film(tmp_path / "x.dcm", RescaleSlope=0, RescaleIntercept=0))[1] == {"slope_of_zero"}
    assert seen(film(tmp_path / "x.dcm", WindowCenter=1, WindowWidth=4000, VOILUTFunction="LOG"))[1] == {"voi_function_unknown"}


def test_windows_of_functional_groups(tmp_path):
    window, group = pydicom.Dataset(), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth = 1500, 2000
    group.FrameVOILUTSequence = pydicom.Sequence([window])
    wanted = seen(film(tmp_path / "a.dcm", WindowCenter=1500, WindowWidth=2000))[0]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        assert np.array_equal(seen(film(tmp_path / "b.dcm", **{groups: pydicom.Sequence([group])}))[0], wanted)


def padded_film(value, signed=False):
    "A film with padding at its left, and the same value in the middle."
    pixels = SIGNED.copy() if signed else LUNGS.copy()
    pixels[:, :20] = value
    pixels[60:70, 46:52] = value
    return pixels


@pytest.mark.parametrize("value, photometric", [(4095, "MONOCHROME2"), (4095, "MONOCHROME1"), (0, "MONOCHROME1"), (2000, "MONOCHROME2")])
def test_padding_is_what_touches_the_border(tmp_path, value, photometric):
    plain, _ = seen(film(tmp_path / "a.dcm", padded_film(value), photometric, WindowCenter=2048, WindowWidth=4096))
    shown, _ = seen(film(tmp_path / "b.dcm", padded_film(value), photometric, WindowCenter=2048, WindowWidth=4096, PixelPaddingValue=value))
    assert (shown[:, 12:31] == 0).all() and abs(shown - plain)[:, 33:].max() <= 1


@pytest.mark.parametrize(
    "tag",
    [("US", 65536 - 5000), ("SS", -5000), ("DS", "-5000"), ("FL", -5000.0), ("SL", -5000), ("IS", "-5000"), ("UL", 65536 - 5000)],
)
def test_padding_of_signed_films_in_any_vr(tmp_path, tag, right):
    path = film(tmp_path / "x.dcm", padded_film(-5000, signed=True), bits=16, WindowCenter=0, WindowWidth=4096)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00280120, *tag)
    dataset.save_as(path)
    shown, _ = seen(path)
    assert (shown[:, 12:31] == 0).all() and abs(shown - right)[:50, 33:].max() <= 1


def test_padding_outside_the_films_bits(tmp_path, right):
    pixels = LUNGS.copy()
    pixels[:, :20] = 0xFFFF
    for kind in (None, "jls", "rle"):
        shown, _ = seen(film(tmp_path / "x.dcm", pixels, kind=kind, PixelPaddingValue=0xFFFF, WindowCenter=2048, WindowWidth=4096))
        assert (shown[:, 12:31] == 0).all() and abs(shown - right)[:, 33:].max() <= 1


@pytest.mark.parametrize(
    "header, flag",
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"PresentationIntentType": "for processing "}, "for_processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "for_processing"),
        ({"PresentationIntentType": "FOR PRESENTATION", "PresentationLUTShape": "IDENTITY"}, None),
        ({"PresentationLUTShape": "INVERSE"}, "polarity_disputed"),
        ({"PixelSpacing": [0.2, 0.1]}, "pixels_not_square"),
        ({"ImagerPixelSpacing": Raw(b"0.143\\0.1430"), "PixelSpacing": Raw(b"0.000\\0.000")}, None),
    ],
)
def test_what_a_person_should_know(tmp_path, right, header, flag):
    like(seen(film(tmp_path / "x.dcm", **header)), right, [flag] if flag else [])


def test_flags_of_a_film_reach_its_studys_row(tmp_path):
    film(tmp_path / "x.dcm", PresentationIntentType="FOR PROCESSING", WindowCenter=Raw(b"40\\2048"), WindowWidth=Raw(b"1\\4096"))
    record = Record("s1", "p1", images=[StudyImage("x.dcm", view="PA")])
    assert row(record, Options(str(tmp_path), 64))["flags"] == "for_processing,window_2"


@pytest.mark.parametrize("half, ratio", [((2, 1), ["2", "1"]), ((1, 2), ["1", "2"])])
def test_pixels_that_are_not_square(tmp_path, right, half, ratio):
    shown, flags = seen(film(tmp_path / "x.dcm", np.ascontiguousarray(LUNGS[:: half[0], :: half[1]]), PixelAspectRatio=ratio))
    assert abs(shown - right).mean() < 6 and flags == {"pixels_not_square"}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, pixels, more=b""):
    "A PNG of one to four samples; Pillow writes no deep colour."
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8 * pixels.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[samples], 0, 0, 0)
    rows = b"".join(b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in pixels)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(data)
    return path


OPAQUE = np.full_like(LUNGS, 65535)


@pytest.mark.parametrize(
    "pixels, more",
    [
        (LUNGS, b""),
        (np.dstack([LUNGS] * 3), b""),
        (np.dstack([LUNGS, OPAQUE]), b""),
        (np.dstack([LUNGS] * 3 + [OPAQUE]), b""),
        (LUNGS, chunk(b"tRNS", b"\0\0")),
        (np.dstack([LUNGS] * 3), chunk(b"tRNS", bytes(6))),
        (LUNGS8, chunk(b"tRNS", b"\0\0")),
        (np.dstack([LUNGS8] * 3), chunk(b"tRNS", bytes(6))),
        (np.dstack([LUNGS8, LUNGS8 * 0 + 255]), b""),
    ],
)
def test_deep_and_transparent_png(tmp_path, right, pixels, more):
    path = png(tmp_path / "x.png", pixels, more)
    like(seen(path), right)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged picture" in reason(path)


def test_what_is_transparent_is_black(tmp_path, right):
    left = np.where(np.arange(96) < 48, 0, 65535).astype(np.uint16) * np.ones_like(LUNGS)
    for pixels in (np.dstack([LUNGS, left]), np.dstack([LUNGS] * 3 + [left])):
        shown, _ = seen(png(tmp_path / "x.png", pixels))
        assert (shown[:, 12:58] == 0).all() and abs(shown - right)[:, 62:].mean() < 6
    frames = [Image.fromarray(LUNGS8), Image.fromarray(255 - LUNGS8)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert "2 pictures in one file" in reason(tmp_path / "x.png")


def tiff(path, pixels, photometric, order="<", **tags):
    "A TIFF of one strip, or of one for each colour; Pillow writes few of these kinds."
    samples = tags.pop("samples", pixels.shape[2] if pixels.ndim == 3 else 1)
    planar, bits = tags.pop("planar", 1), tags.pop("bits", 8 * pixels.dtype.itemsize)
    form = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    stored = np.moveaxis(pixels, -1, 0) if planar == 2 else pixels
    data = tags.pop("data", stored.astype(pixels.dtype.newbyteorder(order)).tobytes())
    strips = samples if planar == 2 else 1
    height, width = pixels.shape[:2]
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [1]), 277: (3, [samples]), 278: (4, [height])}
    entries |= {273: (4, [8 + i * (len(data) // strips) for i in range(strips)]), 279: (4, [len(data) // strips] * strips)}
    entries |= {284: (3, [planar]), 339: (3, [form] * samples)} | {int(tag[1:]): (3, value) for tag, value in tags.items()}
    entries |= {262: (3, [photometric])} if photometric is not None else {}
    place = 8 + len(data) + 2 + 12 * len(entries) + 4
    directory, behind = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        directory += struct.pack(order + "HHI", tag, kind, len(values))
        directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", place + len(behind))
        behind += value if len(value) > 4 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(magic + struct.pack(order + "I", 8 + len(data)) + data + directory + bytes(4) + behind)
    return path


DEEP = LUNGS * 16
PACKED = np.packbits(np.unpackbits(LUNGS.astype(">u2").view(np.uint8).reshape(120, 96, 2), axis=-1).reshape(120, 96, 16)[..., 4:]).tobytes()
TIFFS = {
    "8 bits": (LUNGS8, 1, {}),
    "8 bits, white is zero": (255 - LUNGS8, 0, {}),
    "16 bits": (LUNGS, 1, {}),
    "16 bits, white is zero": (4095 - LUNGS, 0, {}),
    "big endian, white is zero": (65535 - DEEP, 0, {"order": ">"}),
    "big endian": (LUNGS, 1, {"order": ">"}),
    "12 bits": (LUNGS, 1, {"bits": 12, "data": PACKED}),
    "signed": (SIGNED, 1, {}),
    "signed, white is zero": (-1 - SIGNED, 0, {}),
    "signed bytes": ((LUNGS8.astype(int) - 128).astype(np.int8), 1, {}),
    "32 bits": (LUNGS.astype(np.uint32), 1, {}),
    "32 bits, white is zero": (0xFFFFFFFF - LUNGS.astype(np.uint32), 0, {}),
    "deep colour": (np.dstack([LUNGS] * 3), 2, {}),
    "deep colour by planes": (np.dstack([DEEP] * 3), 2, {"planar": 2}),
    "colour": (COLOUR, 2, {}),
    "colour by planes": (COLOUR, 2, {"planar": 2}),
    "deep colour and alpha": (np.dstack([LUNGS] * 3 + [OPAQUE]), 2, {"t338": [2]}),
    "deep colour and something": (np.dstack([LUNGS] * 3 + [LUNGS * 0]), 2, {"t338": [0]}),
    "grey and alpha": (np.dstack([LUNGS, OPAQUE]), 1, {"t338": [2]}),
    "palette": (LUNGS8, 3, {"t320": [i * 257 for i in range(256)] * 3}),
    "palette of 8 bits": (LUNGS8, 3, {"t320": list(range(256)) * 3}),
    "turned": (np.ascontiguousarray(LUNGS.T[::-1]), 1, {"t274": [6]}),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiffs(tmp_path, right, kind):
    pixels, photometric, options = TIFFS[kind]
    like(seen(tiff(tmp_path / "x.tif", pixels, photometric, **options)), right)


@pytest.mark.parametrize(
    "pixels, photometric, said",
    [
        (LUNGS.astype(np.float32), 1, "floating-point"),
        (LUNGS.astype(np.float64), 0, "floating-point"),
        (COLOUR, 8, "tag 262 is 8"),
        (LUNGS, 32803, "tag 262 is 32803"),
        (LUNGS, None, "whether low values are black or white"),
    ],
)
def test_tiffs_that_are_refused(tmp_path, pixels, photometric, said):
    assert said in reason(tiff(tmp_path / "x.tif", pixels, photometric))


@pytest.mark.parametrize("thumbnail_first", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_pages_of_a_tiff(tmp_path, right, colour, thumbnail_first):
    whole = Image.fromarray(COLOUR if colour else LUNGS8)
    small, smaller = whole.resize((24, 30)), TiffImagePlugin.ImageFileDirectory_v2()
    smaller[254] = 1  # a reduced version of another page
    pages = [(whole, None), (small, smaller)]
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, True) as writer:
        for page, tags in reversed(pages) if thumbnail_first else pages:
            page.save(writer, format="TIFF", **({"tiffinfo": tags} if tags else {}))
            writer.newFrame()
    (tmp_path / "x.tif").write_bytes(buffer.getvalue())
    like(seen(tmp_path / "x.tif"), right)
    whole.save(tmp_path / "x.tif", save_all=True, append_images=[whole, whole])
    assert "3 pages" in reason(tmp_path / "x.tif")


NO_FILMS = {
    "zip": (b"PK\3\4" + bytes(300), "ZIP"),
    "page": (b"<!DOCTYPE html>\n<html>" + b" " * 300, "login"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS"),
    "sealed": (bytes.fromhex("308206092a864886f70d010703") + bytes(300), "encrypted"),
    "salted": (b"Salted__" + bytes(300), "encrypted"),
    "bzip2": (b"BZh91AY" + bytes(300), "bzip2"),
    "array": (b"\x93NUMPY" + bytes(300), "NumPy"),
    "letter": (b"%PDF-1.7" + bytes(300), "PDF"),
}


@pytest.mark.parametrize("kind", NO_FILMS)
@pytest.mark.parametrize("suffix", [".dcm", ".png", ""])
def test_what_is_no_film_is_named(tmp_path, kind, suffix):
    data, word = NO_FILMS[kind]
    (tmp_path / f"x{suffix}").write_bytes(data)
    assert word in reason(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    "sop_class, more, word",
    [
        ("1.2.840.10008.5.1.4.1.1.88.33", {}, "not a film: Comprehensive SR Storage"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", {}, "not a film: 12-lead ECG Waveform Storage"),
        ("1.2.840.10008.5.1.4.1.1.104.1", {}, "not a film: Encapsulated PDF Storage"),
        ("1.2.840.10008.5.1.4.1.1.11.1", {}, "not a film: Grayscale Softcopy Presentation State Storage"),
        ("1.2.840.10008.5.1.4.1.1.30", {"FloatPixelData": bytes(64)}, "floating-point numbers (Parametric Map Storage)"),
        ("1.2.840.10008.5.1.4.1.1.1", {"Rows": 9}, "no pixel data: truncated DICOM, or its pixels were taken out (Computed Radiography"),
        ("1.2.3.4", {}, "its SOP class 1.2.3.4 is none of DICOM's"),
    ],
)
def test_dicom_without_a_film_says_what_it_is(tmp_path, sop_class, more, word):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID, dataset.preamble, dataset.SOPClassUID = uid.ExplicitVRLittleEndian, bytes(128), sop_class
    for name, value in more.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=False)
    assert word in reason(tmp_path / "x.dcm")


@pytest.mark.parametrize(
    "header, without, word",
    [
        ({}, ["PhotometricInterpretation"], "PhotometricInterpretation is missing"),
        ({"PhotometricInterpretation": "GREY"}, [], "PhotometricInterpretation is 'GREY'"),
        ({}, ["Rows"], "Rows x Columns is 0 x 96"),
        ({"Columns": 0}, [], "Rows x Columns is 120 x 0"),
        ({"SamplesPerPixel": 4}, [], "SamplesPerPixel is 4"),
        ({"Rows": 60}, ["BitsAllocated"], "BitsAllocated is missing"),
        ({"NumberOfFrames": Raw(b"1A")}, [], "NumberOfFrames is 1A"),
        ({"PixelRepresentation": 7}, [], "PixelRepresentation is 7"),
        ({"BitsStored": 1}, [], "1 bit a pixel"),
        ({"Rows": 121}, [], "truncated DICOM: 23040 of 23232 bytes of pixels (121 rows x 96 columns x 1 sample(s) of 16 bits)"),
    ],
)
def test_headers_that_cannot_be_read_are_named(tmp_path, header, without, word):
    assert word in reason(film(tmp_path / "x.dcm", without=without, **header))


def test_every_decoders_reason_is_told(tmp_path):
    said = reason(film(tmp_path / "x.dcm", kind="j2k", fragments=[stream(LUNGS, "j2k")[1][:2000]]))
    assert "pylibjpeg: " in said and "pillow: " in said and "\n" not in said


def test_what_follows_from_the_rest_is_filled_in(tmp_path, right):
    like(seen(film(tmp_path / "a.dcm", without=["PhotometricInterpretation"], PresentationLUTShape="IDENTITY")), right)
    like(seen(film(tmp_path / "b.dcm", 4095 - LUNGS, without=["PhotometricInterpretation"], PresentationLUTShape="INVERSE")), right)
    like(seen(film(tmp_path / "c.dcm", without=["SamplesPerPixel"], PhotometricInterpretation="monochrome2")), right)
    like(seen(film(tmp_path / "d.dcm", without=["BitsAllocated", "BitsStored", "HighBit"])), right, ["bits_from_stream"])
    like(seen(film(tmp_path / "e.dcm", COLOUR, "RGB", without=["SamplesPerPixel", "PlanarConfiguration"])), right)
    like(seen(film(tmp_path / "f.dcm", NumberOfFrames=Raw(b"1 "))), right)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian])
def test_other_encodings_with_a_table(tmp_path, right, syntax):
    dataset = pydicom.dcmread(film(tmp_path / "x.dcm"))
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, LUNGS.astype(f"{order}u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.VOILUTSequence = lut(4096, 0, 16, line(4096, 65535, f"{order}u2"))
    pydicom.dcmwrite(tmp_path / "x.dcm", dataset, little_endian=order == "<", implicit_vr=syntax == uid.ImplicitVRLittleEndian)
    like(seen(tmp_path / "x.dcm"), right)


# Headers by chance. Elements are written as bytes, since no writer would take most of these values.

ELEMENTS = {  # group 0028, but for the first three
    "StudyDate": (0x0008, 0x0020, b"DA"),
    "PatientAge": (0x0010, 0x1010, b"AS"),
    "PresentationLUTShape": (0x2050, 0x0020, b"CS"),
    "SamplesPerPixel": (0x0028, 0x0002, b"US"),
    "PhotometricInterpretation": (0x0028, 0x0004, b"CS"),
    "PlanarConfiguration": (0x0028, 0x0006, b"US"),
    "NumberOfFrames": (0x0028, 0x0008, b"IS"),
    "Rows": (0x0028, 0x0010, b"US"),
    "Columns": (0x0028, 0x0011, b"US"),
    "PixelSpacing": (0x0028, 0x0030, b"DS"),
    "BitsAllocated": (0x0028, 0x0100, b"US"),
    "BitsStored": (0x0028, 0x0101, b"US"),
    "HighBit": (0x0028, 0x0102, b"US"),
    "PixelRepresentation": (0x0028, 0x0103, b"US"),
    "PixelPaddingValue": (0x0028, 0x0120, b"US"),
    "PixelPaddingRangeLimit": (0x0028, 0x0121, b"US"),
    "PixelAspectRatio": (0x0028, 0x0034, b"IS"),
    "ImagerPixelSpacing": (0x0018, 0x1164, b"DS"),
    "PresentationIntentType": (0x0008, 0x0068, b"CS"),
    "SOPClassUID": (0x0008, 0x0016, b"UI"),
    "WindowCenter": (0x0028, 0x1050, b"DS"),
    "WindowWidth": (0x0028, 0x1051, b"DS"),
    "RescaleIntercept": (0x0028, 0x1052, b"DS"),
    "RescaleSlope": (0x0028, 0x1053, b"DS"),
    "VOILUTFunction": (0x0028, 0x1056, b"CS"),
}
SOUND = {
    "SamplesPerPixel": struct.pack("<H", 1), "PhotometricInterpretation": b"MONOCHROME2 ", "Rows": struct.pack("<H", 96),
    "Columns": struct.pack("<H", 64), "BitsAllocated": struct.pack("<H", 16), "BitsStored": struct.pack("<H", 12),
    "HighBit": struct.pack("<H", 11), "PixelRepresentation": struct.pack("<H", 0),
}  # fmt: skip
UNCONCERNED = ("StudyDate", "PatientAge", "PresentationLUTShape", "PixelSpacing")  # with the pixels
TEXTS = ["", "0", "-1", "1", "0.5", "2048", "4096", "1e30", "nan", "inf", "1\\2", "0.000\\0.000", "x", "MONOCHROME1", "monochrome2", "RGB",
         "YBR_FULL_422", "PALETTE COLOR", "SIGMOID", "LINEAR_EXACT", "INVERSE", "1995.07.20", "62", "1500,5", "FOR PROCESSING"]  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 8, 10, 12, 15, 16, 32, 63, 64, 65, 96, 512, 4095, 65535])


def odd(name):
    "Values of an element as a device with a mind of its own may write them; None: the element is missing."
    shorts = st.lists(NUMBERS, max_size=3).map(lambda values: struct.pack(f"<{len(values)}H", *values))
    texts = st.one_of(st.sampled_from(TEXTS), st.floats().map(lambda value: f"{value:.9g}")).map(str.encode)
    return st.one_of(st.none(), shorts if ELEMENTS[name][2] == b"US" else texts, st.binary(max_size=12))


def raw_element(group, number, vr, value):
    value += b"\0" if vr == b"UI" and len(value) % 2 else b" " * (len(value) % 2)
    length = struct.pack("<2xI", len(value)) if vr == b"OW" else struct.pack("<H", len(value))
    return struct.pack("<HH2s", group, number, vr) + length + value


def raw_dicom(path, header, preamble=True):
    syntax = raw_element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2.1")
    meta = bytes(128) + b"DICM" + raw_element(0x0002, 0x0000, b"UL", struct.pack("<I", len(syntax))) + syntax if preamble else b""
    elements = [(*ELEMENTS[name], value) for name, value in header.items() if value is not None]
    elements.append((0x7FE0, 0x0010, b"OW", RAMP.tobytes()))
    path.write_bytes(meta + b"".join(raw_element(*element) for element in sorted(elements)))
    return path


by_chance = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@by_chance
@given(header=st.fixed_dictionaries({}, optional={name: odd(name) for name in ELEMENTS}), preamble=st.booleans())
def test_no_header_leads_to_anything_but_a_film_or_a_reason(tmp_path, header, preamble):
    path = raw_dicom(tmp_path / "x.dcm", SOUND | header, preamble=preamble)
    for equalise in (False, True):
        try:
            film = load_radiograph(path, 40, equalise)
            assert film.mode == "L" and film.size == (40, 40)
        except RadiographError as error:
            assert error.path == str(path) and error.reason and "\n" not in error.reason


@by_chance
@given(
    header=st.fixed_dictionaries({}, optional={name: odd(name) for name in UNCONCERNED}),
    missing=st.sets(st.sampled_from(["HighBit", "PlanarConfiguration", "NumberOfFrames"])),
    preamble=st.booleans(),
)
def test_headers_that_do_not_concern_the_pixels_do_not_change_them(tmp_path, plain, header, missing, preamble):
    path = raw_dicom(tmp_path / "x.dcm", SOUND | header | dict.fromkeys(missing), preamble=preamble)
    assert np.array_equal(grey(path), plain)


@by_chance
@given(
    bits=st.integers(10, 16), inverted=st.booleans(), slope=st.sampled_from([None, 1, 0.25, 3.5, -2]), intercept=st.integers(-3000, 3000),
    centre=st.floats(0.2, 0.8), width=st.floats(0.3, 3), function=st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    padding=st.booleans(),
)  # fmt: skip
def test_window_and_rescale_agree_with_pydicoms_own(tmp_path, bits, inverted, slope, intercept, centre, width, function, padding):
    high = 2**bits - 1
    pixels = np.linspace(0, high, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    rescale = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    first, last = ((slope or 1) * end + (intercept if slope else 0) for end in (0, high))  # pydicom's output runs from the one to the other
    window = {"WindowCenter": round(min(first, last) + centre * abs(last - first)), "WindowWidth": round(width * abs(last - first))}
    window |= {"VOILUTFunction": function} if function else {}
    window |= {"PixelPaddingValue": 0} if padding else {}
    path = write_dicom(tmp_path / "x.dcm", pixels, f"MONOCHROME{2 - inverted}", BitsStored=bits, HighBit=bits - 1, **rescale, **window)
    dataset = pydicom.dcmread(path)
    shown = pydicom.pixels.apply_windowing(pydicom.pixels.apply_rescale(pixels, dataset), dataset)
    expected = (shown - first) / (last - first)
    expected = 1 - expected if inverted else expected
    expected = np.where(pixels == 0, 0, expected) if padding else expected
    assert abs(grey(path)[:, 16:80] - 255 * expected).max() <= 1


@by_chance
@given(
    voi=st.booleans(), entries=st.sampled_from([0, 1, 2, 256, 4096, 65535]), first=st.sampled_from([0, 1, 100, 4095, 60000]),
    bits=st.sampled_from([0, 8, 12, 16, 32]), length=st.sampled_from([0, 1, 2, 256, 4096]), top=st.sampled_from([0, 255, 4095, 65535]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)  # fmt: skip
def test_no_lookup_table_leads_to_anything_but_a_film_or_a_reason(tmp_path, voi, entries, first, bits, length, top, photometric):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [entries, first, bits], np.linspace(0, top, length).astype("<u2").tobytes()
    sequence = {"VOILUTSequence" if voi else "ModalityLUTSequence": pydicom.Sequence([item])}
    try:
        film = load_radiograph(write_dicom(tmp_path / "x.dcm", RAMP, photometric, **sequence), 40)
        assert film.mode == "L" and film.size == (40, 40)
    except RadiographError as error:
        assert error.reason


@by_chance
@given(kept=st.floats(0, 1, exclude_max=True))
def test_no_film_cut_short_is_shown(tmp_path, kept):
    whole = raw_dicom(tmp_path / "whole.dcm", SOUND).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * kept)])
    assert reason(tmp_path / "cut.dcm")
