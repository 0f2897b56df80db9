"Films as they really are on disk: every oddity of the header, and every file of the real samples."

import gzip
import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unirg.core import study_root
from unirg.data.radiographs import RadiographError, contact_sheet, equalised, load_radiograph, open_file, read_dicom, stored_pixels
from unirg.data.sources import LAYOUTS, options_of

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
         "YBR_FULL_422", "PALETTE COLOR", "SIGMOID", "LINEAR_EXACT", "INVERSE", "1995.07.20", "62"]  # fmt: skip
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
