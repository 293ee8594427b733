"""The reader of sounds. Every medium is made here, by the libraries that write it."""

import types

import numpy as np
import pytest

from modeling_tests.media_files import sound, tone
from transformers_anymodality.modalities import Limits, MediaError, read_audio


av = pytest.importorskip("av")
torch = pytest.importorskip("torch")


class TestAudio:
    @pytest.mark.parametrize(
        ("kind", "subtype", "error"),
        [
            ("WAV", "PCM_16", 1e-4),
            ("WAV", "FLOAT", 1e-7),
            ("FLAC", None, 1e-4),
            ("OGG", "VORBIS", 0.05),
            ("MP3", None, 0.05),
        ],
    )
    def test_files(self, tmp_path, kind, subtype, error):
        path = tmp_path / "sound"
        samples = tone(0.5, 16000)
        path.write_bytes(sound(samples, 16000, kind, subtype))
        for source in (path, str(path), path.read_bytes()):
            read = read_audio(source, 16000)
            assert read.dtype == np.float32 and read.shape == samples.shape
            assert np.abs(read - samples).max() < error

    @pytest.mark.parametrize(("rate", "wanted"), [(48000, 16000), (44100, 16000), (8000, 16000)])
    def test_resampling_keeps_the_tone(self, rate, wanted):
        read = read_audio(sound(tone(1.0, rate), rate), wanted)
        assert abs(len(read) - wanted) <= 1
        inner = slice(wanted // 10, -wanted // 10)
        assert np.abs(read[inner] - tone(1.0, wanted)[: len(read)][inner]).max() < 2e-3

    def test_resampling_does_not_fold(self):
        assert np.abs(read_audio((tone(1.0, 48000, 11000.0), 48000), 16000)[1000:-1000]).max() < 1e-3

    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy])
    def test_arrays(self, to):
        samples = tone(0.1, 16000)
        both = np.stack([samples, 3 * samples])
        for array, expected in ((samples, samples), (both, 2 * samples), (both.T.copy(), 2 * samples)):
            assert np.allclose(read_audio(to(array), 16000), expected, atol=1e-7)
            assert np.allclose(read_audio({"array": to(array), "sampling_rate": 16000}, 16000), expected, atol=1e-7)
        for dtype in (np.int16, np.int32):
            full = -float(np.iinfo(dtype).min)
            integers = (samples.astype(np.float64) * full).astype(dtype)
            assert np.abs(read_audio(to(integers), 16000) - samples).max() < 1e-4
        assert len(read_audio((to(samples), 8000), 16000)) == 2 * len(samples)

    def test_decoder_object(self):
        samples = np.stack([tone(0.1, 8000), -tone(0.1, 8000)])
        decoder = types.SimpleNamespace(
            metadata=types.SimpleNamespace(
                duration_seconds_from_header=None,
                begin_stream_seconds_from_header=None,
                num_channels=2,
                sample_rate=8000,
            ),
            get_samples_played_in_range=lambda begin, end: types.SimpleNamespace(
                data=torch.from_numpy(samples + 0.25), sample_rate=8000
            ),
        )
        assert np.allclose(read_audio(decoder, 8000), 0.25, atol=1e-6)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (np.zeros(0, np.float32), "empty"),
            (np.zeros((9, 100), np.float32), "9 channels"),
            (np.zeros((4, 4), np.float32), "axis of the channels"),
            (np.zeros((1, 2, 100), np.float32), "expected"),
            (np.zeros(100, np.uint8), "full scale"),
            (np.array([0.0] * 8000 + [np.nan]), r"nan at 0.5 s \(sample 8000\)"),
            (np.array([0.0, np.inf]), "inf at"),
            ((np.zeros(10), 0), "positive number of Hz"),
            ((np.zeros(2), 1e9), "too short"),
            ({"array": np.zeros(10)}, "sampling_rate"),
            ([[0.0], [0.0, 1.0]], "cannot be converted to an array"),
            (np.zeros(16000 * 11), "limit of 10 s"),
            ((np.zeros(110), 10), "limit of 10 s"),
        ],
    )
    def test_refused_arrays(self, source, message):
        with pytest.raises(MediaError, match=message):
            read_audio(source, 16000, limits=Limits(max_seconds=10))

    @pytest.mark.parametrize(
        ("kind", "subtype"), [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None), ("AIFF", None)]
    )
    def test_truncated(self, tmp_path, kind, subtype):
        path = tmp_path / "cut"
        data = sound(tone(3.0, 16000), 16000, kind, subtype)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError, match=f"{path}.*(truncated|corrupt)"):
            read_audio(path, 16000)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n", "playlist"),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
            (b"#EXTM3U\n\0\1\2\3", "playlist"),
            (b"hello, I am no sound", "text"),
            (bytes(range(256)) * 20, "cannot be decoded|truncated or corrupt"),
            (sound(np.zeros(0, np.float32), 16000), "no samples"),
        ],
    )
    def test_foreign(self, data, message):
        with pytest.raises(MediaError, match=message):
            read_audio(data, 16000)

    def test_long_file_is_refused(self):
        with pytest.raises(MediaError, match="more than the limit of 1 s"):
            read_audio(sound(tone(2.0, 8000), 8000), 8000, limits=Limits(max_seconds=1))

    def test_track_of_a_video_by_av(self, tmp_path, movie):
        path = tmp_path / "sound.m4a"
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("aac", rate=16000, layout="stereo")
            samples = np.stack([tone(1.0, 16000)] * 2)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.pts = 16000, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
        read = read_audio(path, 16000)
        assert abs(len(read) - 16000) <= 1024
        assert np.abs(read[2000:14000] - tone(1.0, 16000)[2000:14000]).max() < 0.05
        with pytest.raises(MediaError, match="limit of 0.5 s"):
            read_audio(path, 16000, limits=Limits(max_seconds=0.5))
        with pytest.raises(MediaError, match="no audio track|cannot be decoded"):
            read_audio(movie, 16000)
