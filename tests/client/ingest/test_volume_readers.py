import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, io_orientation

from confrere_client.ingest.reader import HEAD_BYTES, READERS, Exam, Skipped
from confrere_client.ingest.shaping.orient import axis_codes, to_ras

RNG = np.random.default_rng(5)
NIFTI, VOLUME = READERS.member("nifti")(), READERS.member("volume")()


def exams_of(file: Path, **options: Any) -> list[Exam]:
    head = file.read_bytes()[:HEAD_BYTES]
    reader = NIFTI if NIFTI.claims(head, file) else VOLUME
    assert reader.claims(head, file)
    return [exam for part in reader.index(file) for exam in reader.load([part], options)]


def kind_of(file: Path, **options: Any) -> str:
    with pytest.raises(Skipped) as skipped:
        exams_of(file, **options)
    return skipped.value.kind


def nifti(path: Path, xyz: Any, affine: Any = None, **header: Any) -> Path:
    image = nibabel.Nifti1Image(xyz, np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def test_a_nifti_is_turned_to_ras_with_its_spacing(tmp_path: Path) -> None:
    xyz = RNG.integers(0, 900, (4, 5, 6)).astype(np.int16)
    file = nifti(tmp_path / "a.nii.gz", xyz, np.diag([-1.0, 2, 3, 1]))

    (exam,) = exams_of(file)

    assert np.array_equal(exam.pixels[0], xyz[::-1].transpose(2, 1, 0))
    assert exam.spacing_mm == (3, 2, 1)
    assert exam.tags == {"orientation": "RAS"}
    assert not exam.warnings


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz", np.ones((3, 4, 5), np.int16))
    odd = tmp_path / "export.bin"
    odd.write_bytes(file.read_bytes())

    assert exams_of(odd)[0].pixels.shape == (1, 5, 4, 3)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(27).reshape(3, 3, 3) * 0.3, np.eye(4))
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 1)
    nibabel.save(image, tmp_path / "a.nii")

    wanted = nibabel.load(tmp_path / "a.nii").get_fdata()

    assert np.array_equal(exams_of(tmp_path / "a.nii")[0].pixels[0], wanted.T)


def test_time_points_are_told_apart_or_refused(tmp_path: Path) -> None:
    xyzt = RNG.integers(0, 900, (4, 5, 6, 3)).astype(np.int16)
    file = nifti(tmp_path / "a.nii.gz", xyzt)

    exams = exams_of(file)

    assert [exam.suffix for exam in exams] == ["v00", "v01", "v02"]
    assert np.array_equal(exams[2].pixels[0], xyzt[..., 2].T)
    assert kind_of(file, max_times=2) == "too many time points"


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 9)])
def test_packed_in_several_pieces_it_is_read_whole(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """gzip joins what was packed apart, also pieces of equal size, which their ends do not tell."""
    xyz = RNG.integers(0, 900, (20, 20, 20)).astype(np.int16)
    data = nifti(tmp_path / "a.nii", xyz).read_bytes()
    cut = len(data) * sizes[0] // sum(sizes)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(data[:cut]) + gzip.compress(data[cut:] + bytes(cut)))

    assert np.array_equal(exams_of(packed)[0].pixels[0], xyz.T)


def test_a_slice_alone_is_a_picture(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii", RNG.integers(0, 9, (4, 5, 1)).astype(np.int16))

    (exam,) = exams_of(file)

    assert exam.pixels.shape == (1, 5, 4)
    assert exam.spacing_mm == (2, 1)


def test_a_volume_without_orientation_is_read_and_told(tmp_path: Path) -> None:
    image = nibabel.AnalyzeImage(np.ones((3, 4, 5), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "a.img")

    (exam,) = exams_of(tmp_path / "a.hdr")

    assert exam.warnings == ("no orientation",)
    assert kind_of(tmp_path / "a.img") == "part of another file"


def test_mgh_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "a.mgz")

    assert exams_of(tmp_path / "a.mgz")[0].pixels.shape == (1, 5, 4, 3)


def test_a_header_of_nifti_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16))
    data = bytearray(file.read_bytes())
    struct.pack_into("<3h", data, 42, 32767, 32767, 32767)
    file.write_bytes(data)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(bytes(data)))

    assert kind_of(file) == "truncated"
    assert kind_of(packed) == "truncated"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_truncated_nifti_is_skipped(tmp_path: Path, name: str) -> None:
    file = nifti(tmp_path / name, RNG.integers(0, 900, (20, 20, 20)).astype(np.int16))
    file.write_bytes(file.read_bytes()[:-500])

    assert kind_of(file) in ("truncated", "corrupt")


def test_the_texts_of_a_header_are_sought_later(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16), descrip=b"Quarkbein, Xaver")

    (part,) = NIFTI.index(file)

    assert part.names == ("Quarkbein, Xaver",)


def itk(path: Path, zyx: Any, packed: bool = False, direction: Any = None) -> Path:
    image = SimpleITK.GetImageFromArray(zyx)
    image.SetSpacing((1.0, 2.0, 3.0)[: image.GetDimension()])
    if direction:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path), packed)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_nrrd_and_meta_are_turned_to_ras(tmp_path: Path, name: str, packed: bool) -> None:
    zyx = RNG.integers(0, 900, (4, 5, 6)).astype(np.int16)

    (exam,) = exams_of(itk(tmp_path / name, zyx, packed))

    assert np.array_equal(exam.pixels[0], zyx[:, ::-1, ::-1])  # LPS on disk
    assert exam.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz", "a.mha", "a.nrrd", "a.mhd", "a.nhdr"])
def test_a_bit_that_fell_over_in_packed_voxels_is_no_other_volume(
    tmp_path: Path, name: str
) -> None:
    """A deflated stream goes on after it with other voxels; only the checksum at its end knows."""
    soft = np.cumsum(np.random.default_rng(4).integers(-2, 3, (20, 24, 22)), axis=2)
    volume, file = (soft + 90).astype(np.int16), tmp_path / name
    if name.endswith("gz"):
        kind = nibabel.MGHImage if name == "a.mgz" else nibabel.Nifti1Image
        nibabel.save(kind(volume, np.eye(4)), file)
    else:
        itk(file, volume, packed=True)
    body = next((p for p in tmp_path.iterdir() if p != file), file)
    whole = body.read_bytes()

    (exam,) = exams_of(file)
    found = []
    for at in np.linspace(len(whole) // 3, len(whole) - 9, 12).astype(int):
        body.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            same = np.array_equal(exams_of(file)[0].pixels, exam.pixels)
        except Skipped as skipped:
            found.append(skipped.kind)
        else:
            found.append("the same" if same else "another")  # it may be packed in two ways
    assert set(found) <= {"corrupt", "truncated", "the same"}
    assert found.count("the same") < 3


def test_a_picture_in_a_volume_format_is_one(tmp_path: Path) -> None:
    (exam,) = exams_of(itk(tmp_path / "a.mha", np.ones((4, 5), np.uint8)))

    assert exam.pixels.shape == (1, 4, 5)
    assert exam.spacing_mm == (2, 1)


@pytest.mark.parametrize("named", ["../secret.raw", "/etc/hostname", "sub/../../secret.raw"])
def test_a_header_that_points_outside_its_folder_is_refused(tmp_path: Path, named: str) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    (tmp_path / "secret.raw").write_bytes(b"\0" * 4000)
    head = f"NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = {named}\n"
    (inner / "a.mhd").write_text(head)
    nrrd = (
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {named}\n\n"
    )
    (inner / "a.nhdr").write_text(nrrd)

    assert kind_of(inner / "a.mhd") == "outside its folder"
    assert kind_of(inner / "a.nhdr") == "outside its folder"


def test_a_link_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    itk(tmp_path / "out.mhd", np.ones((2, 2, 2), np.int16))
    itk(inner / "a.mhd", np.ones((2, 2, 2), np.int16))
    (inner / "a.raw").unlink()
    (inner / "a.raw").symlink_to(tmp_path / "out.raw")

    assert kind_of(inner / "a.mhd") == "outside its folder"


META = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
NRRD = "NRRD0005\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"


@pytest.mark.parametrize(
    "head",
    [
        f"{META}elementdatafile = safe.raw\nElementDataFile = ../secret.raw\n",
        f"{META}ElementDataFile : ../secret.raw\nelementdatafile = safe.raw\n",
        f"{META}{'x' * 500}ElementDataFile : ../secret.raw\nElementDataFile = safe.raw\n",
        f"{META}Offset = 0 0\rElementDataFile : ../secret.raw\nElementDataFile = safe.raw\n",
        f"{META}DimSize = 2 2 2\nElementDataFile = safe.raw\n",
        f"{NRRD}data file:=safe.raw\ndata file: ../secret.raw\n\n",
        f"{NRRD}data file: safe.raw\ndatafile: ../secret.raw\n\n",
        f"{NRRD}Data File: safe.raw\ndata file: ../secret.raw\n\n",
        f"{NRRD}space: data file: ../secret.raw\ndata file: safe.raw\n\n",
    ],
)
def test_a_header_that_two_programs_read_differently_opens_no_other_file(
    tmp_path: Path, head: str
) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    (inner / "safe.raw").write_bytes(bytes(range(8)))
    (tmp_path / "secret.raw").write_bytes(bytes(range(200, 208)))
    (inner / "a.hdr").write_bytes(head.encode())

    try:
        seen = exams_of(inner / "a.hdr")[0].pixels.max()
    except Skipped:
        seen = 0

    assert seen <= 7


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"{NRRD}line skip: 1\nbyte skip: 2\n\n", b"a line\n!!"),
        (f"{NRRD}line skip: 1\nbyte skip: 2\ndata file: a b.raw\n\n", b""),
        (f"{NRRD}space dimension: 3\nnote:x:=1\nnote:y:=2\ndata file: a b.raw\n\n", b""),
        (f"{META}Comment = from: C:/a\nHeaderSize = 9\nElementDataFile = a b.raw\n", b""),
        (f"{META}dimsize2 = 3\r\nElementDataFile = LOCAL\r\n", b""),
    ],
)
def test_what_a_header_says_of_its_voxels_is_kept(tmp_path: Path, head: str, body: bytes) -> None:
    file, voxels = tmp_path / "a.hdr", bytes(range(8))
    file.write_bytes(head.encode() + body + voxels)
    before = b"a line\n!!" if "skip" in head else b"a header!" if "HeaderSize" in head else b""
    (tmp_path / "a b.raw").write_bytes(before + voxels)

    (exam,) = exams_of(file)

    assert sorted(exam.pixels.ravel()) == list(range(8))


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_a_volume_header_that_claims_too_much_is_refused(tmp_path: Path, name: str) -> None:
    file = itk(tmp_path / name, np.ones((4, 5, 6), np.int16))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"6 5 4", b"60000 50000 40000"))

    assert kind_of(file) == "truncated"
    itk(file, np.ones((40, 50, 60), np.int16), packed=True)
    assert kind_of(file, max_bytes=1000) == "too large"


def test_the_body_of_a_header_is_told_as_such(tmp_path: Path) -> None:
    itk(tmp_path / "a.mhd", np.ones((4, 5, 6), np.int16))

    assert kind_of(tmp_path / "a.raw") == "part of another file"


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_turning_agrees_with_nibabel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.5, 4, 3)
    xyz = rng.integers(0, 99, (2, 3, 4))

    turned, _ = to_ras(xyz.transpose(2, 1, 0)[None], affine)

    expected = apply_orientation(xyz, io_orientation(affine)).transpose(2, 1, 0)
    if len(set(axis_codes(affine)[:, 0])) == 3 and turned.shape[1:] == expected.shape:
        first = axis_codes(affine)[:, 0].tolist() == io_orientation(affine)[:, 0].tolist()
        assert not first or np.array_equal(turned[0], expected)
