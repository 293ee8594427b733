"""Readers of images and maps. Every medium is made here, by the libraries that write it."""

import io
import struct
import zlib

import numpy as np
import pytest

from modeling_tests.media_files import encoded, png16
from transformers_anymodality.modalities import Limits, MediaError, read_image, read_map


Image = pytest.importorskip("PIL.Image")
torch = pytest.importorskip("torch")


class TestImage:
    def test_exif_orientation(self):
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, :4] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        read = np.asarray(read_image(encoded(Image.fromarray(pixels), exif=exif)))
        assert read.shape == (8, 4, 3)
        assert read[:4].min() == 255 and read[4:].max() == 0

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_broken_exif_is_no_obstacle(self):
        data = encoded(Image.new("RGB", (8, 8), (255, 0, 0)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
        assert read_image(data).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
            (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
            (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
            (Image.new("L", (2, 2), 77), (77, 77, 77)),
            (Image.new("1", (2, 2), 1), (255, 255, 255)),
            (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(4), (1, 2, 3)),
            (Image.fromarray(np.full((2, 2), 40000, np.uint16)), (156, 156, 156)),
            (Image.fromarray(np.full((2, 2), 0.5, np.float32)), (128, 128, 128)),
        ],
        ids=lambda value: getattr(value, "mode", ""),
    )
    def test_modes(self, image, expected):
        kind = "TIFF" if image.mode == "F" else "PNG"
        for source in (image, encoded(image, kind)):
            read = read_image(source)
            assert read.mode == "RGB"
            assert read.getpixel((1, 1)) == expected

    def test_transparent_palette_and_key_colour(self):
        palette = Image.new("P", (2, 2), 0)
        palette.putpalette([200, 0, 0])
        assert read_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
        plain = Image.new("RGB", (2, 2), (9, 9, 9))
        assert read_image(encoded(plain, transparency=(9, 9, 9))).getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bits_are_scaled_not_clipped(self, kind):
        ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        read = np.asarray(read_image(encoded(Image.fromarray(ramp), kind)))
        assert np.abs(read[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1

    @pytest.mark.parametrize(
        ("shape", "axis"),
        [((5, 7), None), ((5, 7, 1), 2), ((5, 7, 3), 2), ((5, 7, 4), 2), ((1, 5, 7), 0), ((3, 5, 7), 0)],
    )
    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    @pytest.mark.parametrize("floating", [False, True])
    def test_arrays(self, shape, axis, to, floating):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        if shape[-1] == 4:
            pixels[..., 3] = 255
        read = np.asarray(read_image(to(pixels.astype(np.float32) / 255 if floating else pixels)))
        expected = pixels[..., None] if axis is None else np.moveaxis(pixels, axis, 2)
        assert np.array_equal(read, np.broadcast_to(expected[..., :3], (5, 7, 3)))

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((5, 7, 2), np.uint8), r"array of shape \(5, 7, 2\).*expected"),
            (np.zeros((1, 5, 7, 3), np.uint8), "batch"),
            (np.zeros((3, 7, 3), np.uint8), "both"),
            (np.zeros((0, 7, 3), np.uint8), "empty"),
            (np.zeros((5, 7), np.int64), "uint8"),
            (np.full((5, 7), 200.0), "divide by 255"),
            (np.full((5, 7), -1.0), "normalisation"),
            (np.array([[0.0, np.nan]]), r"nan at index \(0, 1\)"),
            (np.zeros((5, 7), complex), "real numbers"),
        ],
    )
    def test_refused_arrays(self, array, message):
        with pytest.raises(MediaError, match=message):
            read_image(array)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
    def test_truncated(self, tmp_path, kind):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        path = tmp_path / "cut"
        data = encoded(noise, kind)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError, match=f"{path}.*(truncated|corrupt)"):
            read_image(path)

    def test_corrupt_and_foreign(self):
        data = bytearray(encoded(Image.new("RGB", (64, 64))))
        data[50:60] = b"\xff" * 10
        with pytest.raises(MediaError, match="corrupt"):
            read_image(bytes(data))
        for other in (b"no image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
            with pytest.raises(MediaError, match="known format"):
                read_image(other)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_size_is_checked_before_decoding(self):
        huge = bytearray(png16(np.zeros((1, 1), np.uint16), 0))
        huge[16:24] = struct.pack(">II", 13000, 13000)
        huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
        with pytest.raises(MediaError, match="13000 x 13000.*limit of 1000"):
            read_image(bytes(huge), limits=Limits(max_pixels=1000))
        huge[16:24] = struct.pack(">II", 60000, 60000)
        huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
        with pytest.raises(MediaError, match="refused by Pillow"):
            read_image(bytes(huge))
        with pytest.raises(MediaError, match="limit of 3:"):
            read_image(Image.new("RGB", (2, 2)), limits=Limits(max_pixels=3))


class TestMap:
    @pytest.mark.parametrize(
        ("dtype", "kind"),
        [
            ("uint8", "PNG"),
            ("uint16", "PNG"),
            ("uint16", "TIFF"),
            ("int32", "TIFF"),
            ("float32", "TIFF"),
            ("uint8", "BMP"),
        ],
    )
    def test_raw_values(self, dtype, kind):
        values = (np.arange(35).reshape(5, 7) * (7 if dtype == "uint8" else 1000)).astype(dtype)
        read = read_map(encoded(Image.fromarray(values), kind))
        assert read.dtype == np.float32 and np.array_equal(read, values.astype(np.float32))
        assert np.array_equal(read_map(Image.fromarray(values)), read)

    @pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1)])
    def test_arrays_and_npy(self, tmp_path, shape):
        values = np.arange(35, dtype=np.float64).reshape(shape) - 20
        np.save(tmp_path / "map.npy", values)
        for source in (values, torch.from_numpy(values), torch.from_numpy(values).bfloat16(), tmp_path / "map.npy"):
            assert np.array_equal(read_map(source), values.reshape(5, 7))

    def test_colour(self):
        values = np.arange(35, dtype=np.uint8).reshape(5, 7)
        grey = np.stack([values] * 3, -1)
        assert np.array_equal(read_map(encoded(Image.fromarray(grey))), values)
        for bad in (
            encoded(Image.fromarray(grey + np.array([0, 1, 0], np.uint8))),
            encoded(Image.new("RGBA", (3, 3))),
        ):
            with pytest.raises(MediaError, match="channels differ"):
                read_map(bad)
        with pytest.raises(MediaError, match="16 bits per channel"):
            read_map(png16(np.stack([values.astype(np.uint16)] * 3, -1), 2))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_not_finite(self, bad):
        values = np.zeros((5, 7))
        values[3, 2] = bad
        with pytest.raises(MediaError, match="row 3, column 2"):
            read_map(values)

    def test_hostile_npy(self, tmp_path):
        np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (20000, 20000)})
        (tmp_path / "cut.npy").write_bytes(header.getvalue() + bytes(100))
        (tmp_path / "head.npy").write_bytes(header.getvalue()[:20])
        for name, message in (("object", "unpickled"), ("cut", "truncated"), ("head", "not a readable")):
            with pytest.raises(MediaError, match=message):
                read_map(tmp_path / f"{name}.npy")
        with pytest.raises(MediaError, match="limit of 1000"):
            read_map(tmp_path / "cut.npy", limits=Limits(max_bytes=1000))
        with pytest.raises(MediaError, match="shape"):
            read_map(np.zeros((2, 5, 7)))
