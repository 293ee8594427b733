"""Files as people bring them: documents of several pages, maps in several units."""

import copy
import io
import pickle
import runpy

import numpy as np
import pytest
import torch

from modeling_tests import tiny
from modeling_tests.docs import blocks
from modeling_tests.media_files import encoded
from transformers_anymodality import MediaError, compose
from transformers_anymodality.data.records import read_chat
from transformers_anymodality.features._fingerprints import Contents
from transformers_anymodality.modalities import MODALITIES, Limits, MapSpec, pages, read_image, read_map


Image = pytest.importorskip("PIL.Image")
writer = pytest.importorskip("PIL.TiffImagePlugin")


COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
KINDS = {"PDF": {"resolution": 72.0}, "TIFF": {}, "GIF": {}, "WEBP": {"lossless": True}, "PNG": {}}


def document(kind: str, images=None) -> bytes:
    images = images or [Image.new("RGB", (40, 30), colour) for colour in COLOURS]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **KINDS.get(kind, {}))


def shows(image) -> int:
    return int(np.argmax(np.asarray(image)[5, 5]))


class TestPages:
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_is_chosen_or_all_are_given(self, tmp_path, kind):
        pytest.importorskip("pypdfium2")
        path = tmp_path / "document"
        path.write_bytes(document(kind))
        for source in (path, str(path), path.read_bytes()):
            with pytest.raises(MediaError, match=r'holds 3 pages or frames.*"page": 1.*pages\('):
                read_image(source)
            found = pages(source)
            assert [shows(read_image(page)) for page in found] == [0, 1, 2]
        assert found[2]["page"] == 3 and pages(path)[2] == {"path": str(path), "page": 3}
        for wrong in (0, 4, -1, "2", True, 1.5):
            with pytest.raises(MediaError, match="expected an integer from 1 to 3"):
                read_image({"path": path, "page": wrong})
        assert shows(read_image({"bytes": document(kind, [Image.new("RGB", (40, 30), COLOURS[1])])})) == 1

    @pytest.mark.parametrize("kind", ["TIFF", "GIF"])
    def test_of_a_picture_that_was_opened(self, kind):
        image = Image.open(io.BytesIO(document(kind)))
        with pytest.raises(MediaError, match=r"3 pages.*\.copy\(\)"):
            read_image(image)
        assert shows(read_image(image.copy())) == 0
        image.seek(2)
        assert shows(read_image(image)) == 2

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
    def test_of_a_picture_from_another_process(self, kind):
        """Data sets, loaders and trainers pickle or copy pictures, which then have no file to turn pages in."""
        image = Image.open(io.BytesIO(document(kind, [Image.new("RGB", (40, 30), COLOURS[1])])))
        image.load()
        for twin in (pickle.loads(pickle.dumps(image)), copy.deepcopy(image)):
            assert shows(read_image(twin)) == 1

    def test_pages_are_parts_of_a_chat_and_columns_of_samples(self, tmp_path):
        pytest.importorskip("pypdfium2")
        (tmp_path / "report.pdf").write_bytes(document("PDF"))
        settings = {"image": tiny.modalities("image")["image"]}
        _, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
        given = pages(tmp_path / "report.pdf")
        chat = [{"role": "user", "content": [{"type": "image", **page} for page in given]}]
        alone = processor(text="<image>", images=[given[1]], return_tensors="pt").pixel_values
        assert torch.equal(tiny.inputs(processor, chat)["pixel_values"][1:2], alone)
        parts = [{"type": "image", "path": "report.pdf", "page": 2}, {"type": "image", "page": 3}]
        record = {"messages": [{"role": "user", "content": parts}], "images": ["report.pdf"]}
        media = read_chat(0, record, processor, tmp_path).checked().media["image"]
        assert [shows(read_image(one)) for one in media] == [1, 2]
        contents = Contents()
        assert len({contents(MODALITIES["image"], one) for one in [*media, tmp_path / "report.pdf"]}) == 3

    def test_what_stands_beside_a_page_is_none(self):
        """A smaller version, a mask; what a camera adds to its JPEG."""
        buffer = io.BytesIO()
        with writer.AppendingTiffWriter(buffer, True) as file:
            for kind, colour in zip((1, 0, 4), COLOURS, strict=True):
                tags = writer.ImageFileDirectory_v2()
                tags[254] = kind
                Image.new("RGB", (8, 6), colour).save(file, "TIFF", tiffinfo=tags)
                file.newFrame()
        for data, shown in ((buffer.getvalue(), 1), (document("MPO"), 0)):
            assert shows(read_image(data)) == shown and len(pages(data)) == 1

    def test_pdfs_are_drawn_at_150_dots_per_inch(self):
        pytest.importorskip("pypdfium2")
        data = document("PDF", [Image.new("RGB", (144, 72))])
        assert read_image(data).size == (300, 150)
        assert read_image(pages(data, dpi=30)[0]).size == (60, 30)
        with pytest.raises(MediaError, match="300 x 150 pixels.*limit of 44999"):
            read_image(data, limits=Limits(max_pixels=44_999))
        with pytest.raises(MediaError, match='"dpi"'):
            read_image({"bytes": data, "dpi": 0})

    def test_refused(self):
        pytest.importorskip("pypdfium2")
        for cut in (b"%PDF-1.7 and no more", document("PDF")[:1500]):
            with pytest.raises(MediaError, match="cannot be opened as PDF.*truncated"):
                read_image(cut)
        with pytest.raises(MediaError, match="allow_urls=True"):
            pages("https://host.test/report.pdf")
        with pytest.raises(MediaError, match="limit of 2"):
            pages(document("TIFF"), limits=Limits(max_frames=2))

    def test_maps_have_pages_too(self):
        data = document("TIFF", [Image.fromarray(np.full((4, 5), value, np.uint16)) for value in (700, 900)])
        with pytest.raises(MediaError, match="2 pages"):
            read_map(data)
        assert [read_map(page).max() for page in pages(data)] == [700, 900]


class Raw:
    reads_raw = True


class TestUnits:
    def read(self, source, span=None, modality="depth"):
        spec = MODALITIES[modality]
        if span is None:
            return spec.read(source, Raw(), {"value_range": None})
        return spec.read(source, None, {"value_range": span})[..., 0] / 255

    @pytest.mark.parametrize("span", [None, (0, 10)])
    def test_depth_by_type_or_by_what_is_said(self, tmp_path, span):
        metres = np.array([[0.0, 1.5], [4.0, 5.0]])
        expected = metres if span is None else metres / 10
        counts = (metres * 1000).astype(np.uint16)
        Image.fromarray(counts).save(tmp_path / "depth.png")
        Image.fromarray(metres.astype(np.float32)).save(tmp_path / "depth.tif")
        np.save(tmp_path / "depth.npy", counts)
        given = [
            metres,
            metres.astype(np.float16),
            torch.tensor(counts.astype(np.int32)),
            Image.open(tmp_path / "depth.png"),
        ]
        given += [tmp_path / f"depth.{kind}" for kind in ("png", "tif", "npy")]
        given += [{"array": metres * 1000, "unit": "mm"}, {"array": metres * 100, "unit": "cm"}]
        given += [
            {"array": (metres * 2).astype(np.uint8), "unit": 0.5},
            {"path": tmp_path / "depth.png", "unit": "mm"},
        ]
        for source in given:
            np.testing.assert_allclose(self.read(source, span), expected, atol=1e-6)

    @pytest.mark.parametrize("span", [None, (0, 10)])
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.linspace(0, 4000, 30), "float64 up to 4000. In m, .* that is 4000 m, .*unit"),
            (np.arange(6), "int64 up to 5. In mm, .* that is 0.005 m, .*unit"),
            (np.arange(6, dtype=np.uint8), "8-bit values.*unit"),
        ],
    )
    def test_what_contradicts_the_usual_unit_is_refused(self, values, message, span):
        for source in (values.reshape(2, -1), torch.tensor(values.reshape(2, -1))):
            with pytest.raises(MediaError, match=message):
                self.read(source, span)

    @pytest.mark.parametrize(
        ("modality", "values", "span", "shade"),
        [
            ("depth", np.linspace(0, 5, 30), (0, 10_000), "black"),
            ("depth", np.linspace(0, 5, 30), (500, 5_000), "black"),
            ("depth", np.linspace(0, 5000, 30).astype(np.uint16), (0, 10_000), "black"),
            ("depth", np.linspace(30, 90, 30), (0, 10), "white"),
            ("thermal", np.linspace(293, 310, 30), (0, 50), "white"),
            ("thermal", np.linspace(20, 37, 30), (273, 323), "black"),
            ("thermal", np.linspace(29_300, 31_000, 30).astype(np.uint16), (0, 50), "white"),
        ],
    )
    def test_what_does_not_fit_the_range_is_refused(self, modality, values, span, shade):
        with pytest.raises(
            MediaError, match=f"(become {shade} under the value_range|31000 C, which is unlikely).*unit"
        ):
            self.read(values.reshape(5, 6), span, modality)

    def test_temperatures(self):
        celsius = np.array([[20.0, 25.0], [30.0, 40.0]])
        counts = {"array": np.rint((celsius + 273.15) * 100).astype(np.uint16), "unit": "cK"}
        for source in (celsius, {"array": celsius + 273.15, "unit": "K"}, counts):
            np.testing.assert_allclose(self.read(source, modality="thermal"), celsius, atol=1e-3)
            np.testing.assert_allclose(self.read(source, (0, 50), "thermal"), celsius / 50, atol=1e-4)

    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
    @pytest.mark.parametrize(
        ("kind", "scale", "offset", "unit"),
        [
            ("u2", 100, 273.15, "cK"),  # FLIR's TLinear at high resolution
            ("u2", 10, 273.15, "0.1 K"),  # at low resolution
            ("u2", 25, 273.15, "0.04 K"),  # a gain in the metadata
            ("f4", 1, 0, None),
            ("f4", 1, 273.15, "K"),
        ],
    )
    def test_radiometric_tiffs(self, tmp_path, kind, scale, offset, unit, compression):
        celsius = np.linspace(-20, 120, 30).reshape(5, 6)
        values = (celsius + offset) * scale
        values = np.rint(values) if kind == "u2" else values
        tags = writer.ImageFileDirectory_v2()
        tags[271], tags[272], tags[40_000] = "FLIR", "Camera", "of the maker"
        file = tmp_path / "heat.tiff"
        Image.fromarray(values.astype(kind)).save(file, tiffinfo=tags, compression=compression)
        told = {} if unit is None else {"unit": unit}
        for source in ({"path": file, **told}, {"bytes": file.read_bytes(), **told}):
            np.testing.assert_allclose(self.read(source, modality="thermal"), celsius, atol=0.6 / scale + 1e-4)
        if kind == "u2" and scale > 10:
            with pytest.raises(MediaError, match="unlikely.*unit"):
                self.read(file, modality="thermal")

    def test_a_unit_is_one_of_the_quantity(self):
        for unit in ("K", "feet", -1, True, "0.1 K", "x mm", "-1 mm", "mm ", " mm", "0 mm", "9" * 400 + " mm", ""):
            with pytest.raises(MediaError, match='"unit" of .*expected'):
                self.read({"array": np.ones((2, 2)), "unit": unit})
        plain = MapSpec(name="height")
        assert plain.read(np.eye(2), Raw(), {"value_range": None}).tolist() == np.eye(2).tolist()
        with pytest.raises(MediaError, match="no unit, because height has none"):
            plain.read({"array": np.eye(2), "unit": "m"}, Raw(), {"value_range": None})

    def test_without_a_range_units_do_not_matter(self):
        values = np.linspace(0, 4000, 12).reshape(3, 4)
        read = [MODALITIES["depth"].read(one, None, {"value_range": None}) for one in (values, values / 1000)]
        np.testing.assert_allclose(*read, atol=1e-4)
        part = {"type": "depth", "depth": values, "unit": "mm"}
        (source,) = read_chat(0, {"messages": [{"role": "user", "content": [part]}]}).checked().media["depth"]
        assert self.read(source).max() == 4


def test_what_the_documentation_runs(tmp_path, monkeypatch):
    pytest.importorskip("pypdfium2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(document("PDF"))
    shift = np.linspace(3, 60, 40 * 30, dtype=np.float32).reshape(40, 30)
    shift[:4], shift[4, :5] = np.inf, np.nan
    np.savez("disparity.npz", shift)
    celsius = np.linspace(18, 37, 40 * 30).reshape(40, 30)
    Image.fromarray(np.rint((celsius + 273.15) * 100).astype(np.uint16)).save("heat.tiff")
    settings = tiny.modalities("image", "depth", "thermal")
    compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())[1].save_pretrained("my-model")
    found = []
    for block in blocks("media.md"):
        (tmp_path / "block.py").write_text(block, encoding="utf-8")
        found.append(runpy.run_path(str(tmp_path / "block.py"))["inputs"])
    of_pages, of_maps = found
    assert len(of_pages["pixel_values"]) == 3
    in_metres, in_millimetres = of_maps["depth_values"]
    torch.testing.assert_close(in_metres, in_millimetres, atol=1e-3, rtol=0)
    assert len(of_maps["thermal_values"]) == 1
    depth = MODALITIES["depth"].read("room.npy", Raw(), {"value_range": None})
    assert (depth == 0).sum() == 4 * 30 + 5 and depth.max() == pytest.approx(
        0.193 * 995 / (shift[4, 5] + 31), rel=1e-2
    )
    heat = MODALITIES["thermal"].read({"path": "heat.tiff", "unit": "cK"}, Raw(), {"value_range": None})
    np.testing.assert_allclose(heat, celsius, atol=0.01)
