"""Reading what a sub-processor asks for itself: frames by number, waveforms as they are, maps in their own units."""

import io
import types
import wave

import numpy as np
import pytest
import torch

from modeling_tests.media_files import LEVELS, STAMPS, encoded, places, sound, tone, write_video
from transformers_anymodality import MediaError
from transformers_anymodality.modalities import (
    MODALITIES,
    Limits,
    _video_files,
    read_audio,
    read_video,
    read_video_frames,
    read_waveform,
)


Image = pytest.importorskip("PIL.Image")
av = pytest.importorskip("av")

ORDERS = ([0], [3, 3, 3], [9, 0, 4, 0], list(range(10)), [0, 5, 2, 7, 4, 9])


def asked(numbers):
    """A choice of frames that remembers what it was told."""

    def choose(total, fps):
        choose.told = (total, fps)
        return numbers

    return choose


@pytest.fixture(scope="module")
def every_frame(movie):
    with av.open(str(movie)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


class TestFrames:
    @pytest.mark.parametrize("numbers", ORDERS)
    def test_of_a_file(self, movie, every_frame, numbers):
        choose = asked(numbers)
        for source in (movie, str(movie), movie.read_bytes()):
            assert np.array_equal(read_video_frames(source, choose), every_frame[numbers])
        assert choose.told[0] == len(every_frame) == len(STAMPS)
        with av.open(str(movie)) as file:
            assert choose.told[1] == float(file.streams.video[0].average_rate)

    def test_frames_that_are_predicted_from_later_ones(self, tmp_path):
        path, stamps = tmp_path / "long.mp4", [40 * i for i in range(60)]
        row, column = np.mgrid[0:48, 0:64]
        still = np.stack([2 * row, 2 * column, row + column], axis=-1)
        write_video(str(path), stamps, [np.roll(still, i // 2, axis=1) for i in range(60)])
        with av.open(str(path)) as file:
            packets = [packet.pts for packet in file.demux(video=0) if packet.size]
        assert packets != sorted(packets)
        with av.open(str(path)) as file:
            whole = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        choose = asked([59, 1, 31, 30, 2])
        assert np.array_equal(read_video_frames(path, choose), whole[[59, 1, 31, 30, 2]])
        assert choose.told == (60, pytest.approx(25.0, rel=0.01))

    def test_decoding_ends_with_the_last_frame_chosen(self, movie, monkeypatch):
        decoded, original = [], _video_files._to_rgb
        monkeypatch.setattr(_video_files, "_to_rgb", lambda *args: decoded.append(args[0].pts) or original(*args))
        read_video_frames(movie, asked([2, 0, 2]))
        assert len(decoded) == 2

    def test_without_counts_and_durations(self):
        buffer = io.BytesIO()
        buffer.seekable = lambda: False
        write_video(buffer, [0, 100, 200, 1000], LEVELS[:4], "libvpx", kind="webm")
        choose = asked([3, 0])
        read = read_video_frames(buffer.getvalue(), choose)
        assert places(read).tolist() == [3, 0]
        assert choose.told[0] == 4 and choose.told[1] > 0

    @pytest.mark.parametrize("numbers", ORDERS)
    def test_of_arrays_and_lists(self, tmp_path, numbers):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        path = tmp_path / "frame.png"
        Image.fromarray(frames[9]).save(path)
        pictures = [*(Image.fromarray(frame) for frame in frames[:9]), path]
        for given in (frames, torch.from_numpy(frames), list(frames), pictures):
            choose = asked(numbers)
            assert np.array_equal(read_video_frames(given, choose), frames[numbers])
            assert choose.told == (10, 24.0)
            for key in ("frames", "array"):
                assert np.array_equal(read_video_frames({key: given, "fps": 6}, choose), frames[numbers])
                assert choose.told == (10, 6.0)
        read_video_frames(frames, choose, fps=3.0)
        assert choose.told == (10, 3.0)

    def test_a_dict_is_read_by_time_too(self):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        assert np.array_equal(read_video({"frames": frames, "fps": 6}, 5), frames[[1, 3, 5, 7, 9]])

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_of_animations(self, kind):
        images = [Image.new("RGB", (8, 6), (level,) * 3) for level in (0, 100, 200)]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(images[0], kind, save_all=True, append_images=images[1:], duration=[100, 100, 600], **options)
        choose = asked([2, 0, 0, 1])
        assert read_video_frames(data, choose)[:, 0, 0, 0].tolist() == [200, 0, 0, 100]
        assert choose.told == (3, pytest.approx(3 / 0.8))

    @pytest.mark.parametrize("order", ["NCHW", "NHWC"])
    def test_of_a_decoder(self, order):
        frames = np.random.default_rng(0).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
        given = torch.from_numpy(frames if order == "NHWC" else np.ascontiguousarray(np.moveaxis(frames, 3, 1)))
        decoder = types.SimpleNamespace(
            metadata=types.SimpleNamespace(num_frames=10, average_fps=5.0, width=7, height=5),
            get_frames_at=lambda numbers: types.SimpleNamespace(data=given[numbers]),
        )
        choose = asked([4, 1, 4])
        assert np.array_equal(read_video_frames(decoder, choose), frames[[4, 1, 4]])
        assert choose.told == (10, 5.0)
        with pytest.raises(MediaError, match="limit of 1 s"):
            read_video_frames(decoder, choose, limits=Limits(max_seconds=1))

    @pytest.mark.parametrize("numbers", [[], [10], [-1], [[1]]])
    def test_frames_that_there_are_not(self, movie, numbers):
        for source in (np.zeros((10, 4, 5, 3), np.uint8), movie):
            with pytest.raises(MediaError, match="10 frames"):
                read_video_frames(source, asked(numbers))

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), 10**400, "fast"])
    def test_bad_rates(self, fps):
        with pytest.raises(MediaError, match="frames per second"):
            read_video_frames({"frames": np.zeros((3, 4, 5, 3), np.uint8), "fps": fps}, asked([0]))

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            (Limits(max_seconds=1.0), "limit of 1 s"),
            (Limits(max_frames=9), "limit of 9"),
            (Limits(max_pixels=3000), "limit of 3000"),
            (Limits(max_bytes=64 * 48 * 3 * 8 - 1), "need"),
        ],
    )
    def test_limits(self, movie, limits, message):
        with pytest.raises(MediaError, match=message):
            read_video_frames(movie, asked([0] * 8), limits=limits)

    def test_no_video(self, movie):
        for data in (movie.read_bytes()[:500], b"hello, I am no video", encoded(Image.new("RGB", (4, 4)), "JPEG")):
            with pytest.raises(MediaError):
                read_video_frames(data, asked([0]))


class TestWaveforms:
    @pytest.mark.parametrize(("kind", "subtype"), [("WAV", "FLOAT"), ("WAV", "PCM_16"), ("FLAC", None)])
    def test_channels_and_rate_are_kept(self, kind, subtype):
        stereo = np.stack([tone(0.2, 22050), tone(0.2, 22050, 300)])
        waveform, rate = read_waveform(sound(stereo.T, 22050, kind, subtype), 16000)
        assert (waveform.dtype, waveform.shape, rate) == (np.float32, stereo.shape, 22050.0)
        assert np.abs(waveform - stereo).max() < 1e-4
        mixed = read_audio(sound(stereo.T, 22050, kind, subtype), 22050)
        assert np.abs(waveform.mean(0) - mixed).max() < 1e-6

    def test_of_arrays(self):
        stereo = np.stack([tone(0.1, 8000), tone(0.1, 8000, 300)])
        for given in ((stereo, 8000), (stereo.T, 8000), {"array": stereo, "sampling_rate": 8000}):
            waveform, rate = read_waveform(given, 16000)
            assert np.array_equal(waveform, stereo) and rate == 8000
        waveform, rate = read_waveform((stereo[0] * 32767).astype(np.int16), 16000)
        assert waveform.shape == (1, 800) and rate == 16000
        assert np.abs(waveform[0] - stereo[0]).max() < 1e-4

    def test_of_a_file_by_av(self, tmp_path):
        path = tmp_path / "sound.m4a"
        stereo = np.stack([tone(1.0, 16000), tone(1.0, 16000, 300)])
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("aac", rate=16000, layout="stereo")
            frame = av.AudioFrame.from_ndarray(stereo, "fltp", "stereo")
            frame.sample_rate, frame.pts = 16000, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
        waveform, rate = read_waveform(path, 8000)
        assert waveform.shape[0] == 2 and rate == 16000
        assert np.abs(waveform[:, 2000:14000] - stereo[:, 2000:14000]).max() < 0.05

    def test_bad_sounds(self):
        broken = np.zeros((2, 100), np.float32)
        broken[1, 20] = np.nan
        with pytest.raises(MediaError, match=r"nan at 0.002 s \(sample 20\)"):
            read_waveform((broken, 10000), 16000)
        with pytest.raises(MediaError, match="limit of 1 s"):
            read_waveform((np.zeros(30000, np.float32), 10000), 16000, limits=Limits(max_seconds=1))
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
        with pytest.raises(MediaError, match="no samples"):
            read_waveform(buffer.getvalue(), 16000)


class TestHooks:
    def test_audio(self):
        processor = types.SimpleNamespace(reads_raw=True, sampling_rate=16000)
        waveform, rate = MODALITIES["audio"].read(sound(np.zeros((90, 2), np.float32), 44100), processor, {})
        assert waveform.shape == (2, 90) and rate == 44100

    @pytest.mark.parametrize("modality", ["depth", "thermal"])
    def test_maps(self, modality):
        processor, values = types.SimpleNamespace(reads_raw=True), np.array([[0.5, 3.0], [9.0, 70.0]])
        read = MODALITIES[modality].read(values, processor, {"value_range": None})
        assert read.dtype == np.float32 and np.array_equal(read, values)

    def test_video(self, movie, every_frame):
        processor = types.SimpleNamespace(frame_indices=lambda total, fps: [total - 1, 0])
        read = MODALITIES["video"].read(movie, processor, {"num_frames": 8})
        assert np.array_equal(read, every_frame[[-1, 0]])
