"Films as they really are on disk: every oddity of the header, and every file of the real samples."

import gzip
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from unirg.core import study_root
from unirg.data.radiographs import RadiographError, equalised, load_radiograph

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
def test_monochrome1_is_inverted_once(tmp_path, plain, header):
    film = grey(write_dicom(tmp_path / "x.dcm", 4095 - RAMP, "MONOCHROME1", **header))
    assert abs(film - plain).max() <= 1


def test_windows_speak_of_values_before_inversion(tmp_path):
    header = {"WindowCenter": 1000, "WindowWidth": 1000}
    two = grey(write_dicom(tmp_path / "two.dcm", RAMP, "MONOCHROME2", **header))[:, 16:80]
    one = grey(write_dicom(tmp_path / "one.dcm", RAMP, "MONOCHROME1", **header))[:, 16:80]
    assert abs(one - (255 - two)).max() <= 1 and (two == 255).mean() > 0.5


def test_rescale_goes_before_the_window(tmp_path, plain):
    film = grey(write_dicom(tmp_path / "x.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3096, WindowWidth=8192))
    assert abs(film - plain).max() <= 1


@pytest.mark.parametrize("window", [(-1e6, 10), (2048, 0), (2048, 1e9), (30000, 100), ("", ""), ([2048, 100], [4096, 10])])
def test_absurd_windows_are_not_believed(tmp_path, plain, window):
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
    film = grey(write_dicom(tmp_path / "x.dcm", (RAMP.astype(int) - 2048).astype(np.int16)))
    assert abs(film - plain).max() <= 1


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


@needs_real
def test_lossless_syntaxes_give_one_picture():
    films = [np.asarray(load_radiograph(REAL / f"dicom/RG2_{kind}_hip.dcm"), int) for kind in ("J2KR", "JLSL", "JPLL", "RLE")]
    assert all((film == films[0]).all() for film in films[1:])
    lossy = [np.asarray(load_radiograph(REAL / f"dicom/RG2_{kind}_hip.dcm"), int) for kind in ("J2KI", "JLSN", "JPLY", "JPLY_fixed")]
    assert max(abs(film - films[0]).mean() for film in lossy) < 2


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
@pytest.mark.parametrize("folder", ["hannover_covid19", "nih_cxr14_fullres", "covid_cxr_cases/images"])
def test_real_pictures_load(folder):
    films = [p for p in (REAL / folder).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    assert films
    for path in films[:20]:
        pixels = np.asarray(load_radiograph(path), int)
        assert pixels.std() > 20 and (pixels == 255).mean() < 0.25, path.name


@needs_real
def test_lossless_equals_the_uncompressed_reference(tmp_path):
    import imagecodecs

    reference = tmp_path / "reference.dcm"
    reference.write_bytes(imagecodecs.zstd_decode((REAL / "dicom/RG2_UNC_hip.dcm.zst").read_bytes()))
    assert (grey(reference, 512) == grey(REAL / "dicom/RG2_J2KR_hip.dcm", 512)).all()
