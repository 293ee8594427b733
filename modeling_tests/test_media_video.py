"""The reader of videos. Every medium is made here, by the libraries that write it."""

import io
import struct
import types

import numpy as np
import pytest

from modeling_tests.media_files import LEVELS, STAMPS, encoded, places, sound, tone, write_video
from transformers_anymodality.modalities import Limits, MediaError, frame_times, read_video


Image = pytest.importorskip("PIL.Image")
av = pytest.importorskip("av")
torch = pytest.importorskip("torch")


def shown(times):
    """Places of the frames of STAMPS on display at `times`."""
    return np.searchsorted(np.array(STAMPS) / 1000, np.asarray(times) + 1e-6, side="right") - 1


class TestVideo:
    def test_frame_times(self):
        assert np.allclose(frame_times(1.0, 3.0, 4), [1.25, 1.75, 2.25, 2.75])
        for bad in ((0, 1, 0), (0, 1, -1), (0, 1, 1.5), (1, 0, 3), (0, float("nan"), 3)):
            with pytest.raises(MediaError):
                frame_times(*bad)

    @pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 25])
    def test_uneven_frames_by_time(self, movie, num_frames):
        read = read_video(movie, num_frames)
        assert read.dtype == np.uint8 and read.shape == (num_frames, 48, 64, 3)
        with av.open(str(movie)) as file:
            end = max(
                float((packet.pts + packet.duration) * packet.time_base)
                for packet in file.demux(video=0)
                if packet.size
            )
        assert 1.9 < end < 2.0
        assert places(read).tolist() == shown(frame_times(0.0, end, num_frames)).tolist()

    def test_what_a_decoder_fails_on_is_told(self):
        def fails(*args):
            raise RuntimeError("no more frames")

        information = types.SimpleNamespace(
            begin_stream_seconds=0.0, end_stream_seconds=2.0, num_frames=10, width=64, height=48
        )
        decoder = types.SimpleNamespace(metadata=information, get_frames_played_at=fails, get_frames_at=fails)
        with pytest.raises(MediaError, match="cannot be decoded as video.*RuntimeError: no more frames"):
            read_video(decoder, 5)

    def test_webm_without_counts_and_durations(self, tmp_path):
        buffer = io.BytesIO()
        buffer.seekable = lambda: False  # so that the writer cannot go back and fill in the duration
        stamps = [0, 100, 200, 1000]
        write_video(buffer, stamps, LEVELS[:4], "libvpx", kind="webm")
        with av.open(io.BytesIO(buffer.getvalue())) as file:
            assert file.streams.video[0].frames == 0
        assert places(read_video(buffer.getvalue(), 3)).tolist() == [1, 2, 2]

    def test_rotation(self, tmp_path):
        path = tmp_path / "lying.mp4"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:, :32] = 255
        write_video(str(path), [0, 40], [pixels, pixels])
        assert read_video(path, 1).shape == (1, 48, 64, 3)
        data = path.read_bytes()
        at = data.index(b"tkhd")
        unit = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        at = data.index(unit, at)
        turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # 90 degrees clockwise
        read = read_video(data[:at] + turned + data[at + len(unit) :], 1)
        assert read.shape == (1, 64, 48, 3)
        assert read[0, :28].min() > 200 and read[0, 36:].max() < 50

    @pytest.mark.parametrize("channels_first", [False, True])
    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    def test_arrays(self, channels_first, to):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        given = np.ascontiguousarray(np.moveaxis(frames, 3, 1)) if channels_first else frames
        assert np.array_equal(read_video(to(given), 10), frames)
        assert np.array_equal(read_video(to(given), 5), frames[[1, 3, 5, 7, 9]])
        assert np.array_equal(read_video(to(given[:2]), 4), frames[[0, 0, 1, 1]])
        assert np.array_equal(read_video(to(given.astype(np.float32) / 255), 10), frames)

    def test_lists(self, tmp_path):
        frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
        path = tmp_path / "frame.png"
        Image.fromarray(frames[2]).save(path)
        assert np.array_equal(read_video([Image.fromarray(frames[0]), frames[1], path], 3), frames)
        for bad, message in (
            ([], "at least one"),
            ([frames[0], frames[1][:, :6]], "one size"),
            ([frames[0], "gone.png"], "Frame 1 .*does not exist"),
            ([frames[0], "http://host/a.png"], "allow_urls"),
        ):
            with pytest.raises(MediaError, match=message):
                read_video(bad, 2)

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_animations(self, kind):
        images = [Image.new("RGB", (8, 6), (level,) * 3) for level in (0, 100, 200)]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(images[0], kind, save_all=True, append_images=images[1:], duration=[100, 100, 600], **options)
        read = read_video(data, 4)  # at 100, 300, 500 and 700 ms
        assert read.shape == (4, 6, 8, 3)
        assert read[:, 0, 0, 0].tolist() == [100, 200, 200, 200]
        with pytest.raises(MediaError, match="limit of 2"):
            read_video(data, 4, limits=Limits(max_frames=2))
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_video(data, 4, limits=Limits(max_seconds=0.5))

    @pytest.mark.parametrize("order", ["NCHW", "NHWC"])
    def test_decoder_object(self, order):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        given = torch.from_numpy(frames if order == "NHWC" else np.ascontiguousarray(np.moveaxis(frames, 3, 1)))
        decoder = types.SimpleNamespace(
            metadata=types.SimpleNamespace(
                begin_stream_seconds=2.0, end_stream_seconds=3.0, num_frames=10, width=7, height=5
            ),
            get_frames_played_at=lambda times: types.SimpleNamespace(
                data=given[[int((time - 2.0) * 10) for time in times]]
            ),
            get_frames_at=None,
        )
        assert np.array_equal(read_video(decoder, 5), frames[[1, 3, 5, 7, 9]])
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_video(decoder, 5, limits=Limits(max_seconds=0.5))

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            (Limits(max_seconds=1.0), "limit of 1 s"),
            (Limits(max_frames=9), "limit of 9"),
            (Limits(max_pixels=3000), "64 x 48 pixels.*limit of 3000"),
            (Limits(max_bytes=64 * 48 * 3 * 8 - 1), "need"),
        ],
    )
    def test_limits(self, movie, limits, message):
        with pytest.raises(MediaError, match=message):
            read_video(movie, 8, limits=limits)

    @pytest.mark.parametrize("cut", [20, 500, -200])
    def test_truncated(self, tmp_path, movie, cut):
        path = tmp_path / "cut.mp4"
        path.write_bytes(movie.read_bytes()[:cut])
        with pytest.raises(MediaError, match=f"{path}.*truncated"):
            read_video(path, 4)

    def test_truncated_matroska(self, tmp_path):
        path = tmp_path / "whole.mkv"
        write_video(str(path), STAMPS, LEVELS, kind="matroska")
        assert len(read_video(path, 2)) == 2
        data = path.read_bytes()
        with pytest.raises(MediaError, match="truncated"):
            read_video(data[: len(data) * 2 // 3], 4)

    def test_corrupt_index(self, movie):
        data = bytearray(movie.read_bytes())
        at = data.index(b"stbl")
        data[at : at + 200] = bytes(200)
        with pytest.raises(MediaError):
            read_video(bytes(data), 4)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "playlist"),
            (encoded(Image.new("RGB", (8, 8)), "JPEG"), "still image"),
            (sound(tone(0.5, 16000), 16000), "no video track|cannot be decoded"),
            (bytes(range(256)) * 20, "cannot be decoded"),
            (np.zeros((3, 4, 5), np.uint8), "expected frames"),
            (np.zeros((2, 3, 5, 3), np.uint8), "both"),
            (np.zeros((0, 4, 5, 3), np.uint8), "at least one|empty"),
            (np.full((2, 4, 5, 3), 2.0), "divide by 255"),
        ],
    )
    def test_refused(self, source, message):
        with pytest.raises(MediaError, match=message):
            read_video(source, 2)

    @pytest.mark.parametrize("num_frames", [0, -1, 2.0, True, None])
    def test_bad_counts(self, num_frames):
        with pytest.raises(MediaError, match="positive integer"):
            read_video(np.zeros((2, 4, 5, 3), np.uint8), num_frames)
